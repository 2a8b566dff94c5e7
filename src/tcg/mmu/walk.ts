/** The page walk in all paging modes, with permissions, error codes, accessed and dirty bits (SDM vol. 3A 4). */
import type { CpuState } from '../cpu-state.ts';
import { ACCESS } from '../emit/access.ts';
import { S } from '../layout.ts';
import type { PhysicalMap } from '../physical.ts';

const CR0_WP = 1 << 16;
const CR0_PG = 1 << 31;
const CR4_PSE = 1 << 4;
const CR4_PAE = 1 << 5;
const CR4_PGE = 1 << 7;
const CR4_SMEP = 1 << 20;
const CR4_SMAP = 1 << 21;
const EFER_LMA = 1 << 10;
const EFER_NXE = 1 << 11;
const FLAG_AC = 0x4_0000;

const P = 1;
const RW = 2;
const US = 4;
const A = 0x20;
const D = 0x40;
const PS = 0x80;
const G = 0x100;
const NX = 1 << 31;

/** Bits of a page fault's error code (SDM vol. 3A 4.7). */
export const PF = { P: 1, W: 2, U: 4, RSVD: 8, I: 16 } as const;

/** Physical address bits of the CPU. */
export const PHYSICAL_BITS = 46;
/** Bits of an entry's upper half that must be zero: between the physical address and the ignored bits. */
const RESERVED_HIGH = 0x000f_ffff & ~((1 << (PHYSICAL_BITS - 32)) - 1);

/** How a walk ended. */
export const WALK = { ok: 0, pageFault: 1, notCanonical: 2 } as const;

/** Walks the page tables of one vCPU; the results are in its fields until the next walk. */
export class PageWalk {
  /** Physical address. */
  physical = 0;
  /** Error code after a page fault. */
  error = 0;
  /** Whether a write by the same mode would need no further walk. */
  writable = false;
  /** Called with the address of an entry in which bits were set. */
  onChange: (host: number) => void = () => {};
  /** The page is larger than 4 KiB. */
  large = false;
  /** The translation outlives a change of CR3 (SDM vol. 3A 4.10.2.4). */
  global = false;
  /** The entry that was read last. */
  #low = 0;
  #high = 0;
  readonly #state: CpuState;
  readonly #map: PhysicalMap;
  readonly #isShared: boolean;

  /** @param isShared whether other vCPUs may change the page tables meanwhile */
  constructor(state: CpuState, map: PhysicalMap, isShared: boolean) {
    this.#state = state;
    this.#map = map;
    this.#isShared = isShared;
  }

  /**
   * Translates a linear address given in halves.
   * @param access one of ACCESS
   * @param user whether with user privilege
   * @param probe do not set accessed and dirty bits
   */
  walk(low: number, high: number, access: number, user: boolean, probe = false): number {
    const state = this.#state;
    this.large = false;
    this.global = false;
    if ((state.cr0 & CR0_PG) === 0) {
      this.physical = low >>> 0;
      this.writable = true;
      return WALK.ok;
    }
    if (state.efer & EFER_LMA) {
      if ((high << 16) >> 16 !== (high | 0)) return WALK.notCanonical;
      return this.#walk64(low, high, access, user, probe);
    }
    return state.cr4 & CR4_PAE
      ? this.#walkPae(low, access, user, probe)
      : this.#walk32(low, access, user, probe);
  }

  #walk64(low: number, high: number, access: number, user: boolean, probe: boolean): number {
    const state = this.#state;
    const table = (state.i32(S.CR3 + 4) & 0xf_ffff) * 0x1_0000_0000 + ((state.i32(S.CR3) & ~0xfff) >>> 0);
    return this.#levels(table, 4, low, high, access, user, probe);
  }

  #walkPae(low: number, access: number, user: boolean, probe: boolean): number {
    const pdpt = (this.#state.i32(S.CR3) & ~31) >>> 0;
    if (!this.#load(this.#word(pdpt + (low >>> 30) * 8))) return this.#fault(0, access, user);
    const table = ((this.#low & ~0xfff) >>> 0) + (this.#high & 0xf_ffff) * 0x1_0000_0000;
    return this.#levels(table, 2, low, 0, access, user, probe);
  }

  /** Index of an entry among the memory's words, -1 outside RAM. */
  #word(gpa: number): number {
    const host = this.#map.host(gpa);
    return host < 0 ? -1 : host >>> 2;
  }

  /**
   * Reads an entry of 8 bytes into #low and #high, as one: other vCPUs may replace it meanwhile. Page tables outside
   * RAM (a negative word index) read as zero.
   * @returns whether it is present
   */
  #load(at: number): boolean {
    if (at < 0) return false;
    const { words } = this.#state;
    if (!this.#isShared) {
      this.#low = words[at];
      this.#high = words[at + 1];
      return (this.#low & P) !== 0;
    }
    let low = Atomics.load(words, at);
    for (;;) {
      const high = Atomics.load(words, at + 1);
      const again = Atomics.load(words, at);
      if (again === low) {
        this.#low = low;
        this.#high = high;
        return (low & P) !== 0;
      }
      low = again;
    }
  }

  /**
   * Sets accessed and dirty bits of the entry whose low half was read as `entry` (SDM vol. 3A 4.8: with a locked
   * cycle). @returns false when the entry has changed since, so that nothing was set and the walk is void
   */
  #mark(at: number, entry: number, bits: number): boolean {
    if ((entry & bits) === bits || this.#map.isReadOnly(at * 4)) return true;
    if (Atomics.compareExchange(this.#state.words, at, entry, entry | bits) !== entry) return false;
    this.onChange(at * 4);
    return true;
  }

  #levels(
    start: number,
    levels: number,
    low: number,
    high: number,
    access: number,
    user: boolean,
    probe: boolean,
  ): number {
    const nxe = (this.#state.efer & EFER_NXE) !== 0;
    const writes = access === ACCESS.write || access === ACCESS.modify;
    let table = start;
    let rights = RW | US;
    let noExecute = 0;
    for (let level = levels; ; ) {
      const index =
        level === 4
          ? (high >>> 7) & 511
          : level === 3
            ? ((high & 0x7f) << 2) | (low >>> 30)
            : level === 2
              ? (low >>> 21) & 511
              : (low >>> 12) & 511;
      const at = this.#word(table + index * 8);
      if (!this.#load(at)) return this.#fault(0, access, user);
      const entry = this.#low;
      const entryHigh = this.#high;
      const leaf = level === 1 || ((entry & PS) !== 0 && level <= 3);
      if (
        (entryHigh & RESERVED_HIGH) !== 0 ||
        (!nxe && entryHigh < 0) ||
        (level === 4 && (entry & PS) !== 0) ||
        (leaf && level === 2 && (entry & 0x1f_e000) !== 0) ||
        (leaf && level === 3 && (entry & 0x3fff_e000) !== 0)
      ) {
        return this.#fault(PF.P | PF.RSVD, access, user);
      }
      const frameHigh = (entryHigh & ~RESERVED_HIGH & 0xf_ffff) * 0x1_0000_0000;
      if (!leaf) {
        if (!probe && !this.#mark(at, entry, A)) continue;
        rights &= entry;
        noExecute |= entryHigh & NX;
        table = frameHigh + ((entry & ~0xfff) >>> 0);
        level--;
        continue;
      }
      const all = rights & entry;
      const never = ((noExecute | entryHigh) & NX) !== 0;
      if (this.#check(all, never, access, user)) return this.#fault(PF.P, access, user);
      if (!probe && !this.#mark(at, entry, writes ? A | D : A)) continue;
      const mask = level === 1 ? 0xfff : level === 2 ? 0x1f_ffff : 0x3fff_ffff;
      this.physical = frameHigh + ((entry & ~mask & ~0xfff) >>> 0) + ((low & mask) >>> 0);
      this.large = level > 1;
      this.global = (entry & G) !== 0 && (this.#state.cr4 & CR4_PGE) !== 0;
      this.writable = (writes || (entry & D) !== 0) && !this.#check(all, never, ACCESS.write, user);
      return WALK.ok;
    }
  }

  #walk32(low: number, access: number, user: boolean, probe: boolean): number {
    const { words, cr4 } = this.#state;
    const writes = access === ACCESS.write || access === ACCESS.modify;
    for (;;) {
      let at = this.#word(((this.#state.i32(S.CR3) & ~0xfff) >>> 0) + (low >>> 22) * 4);
      let entry = at < 0 ? 0 : Atomics.load(words, at);
      if ((entry & P) === 0) return this.#fault(0, access, user);
      let rights = entry & (RW | US);
      const large = (entry & PS) !== 0 && (cr4 & CR4_PSE) !== 0;
      // Bits 13 to 20 hold bits 32 to 39 of the address (PSE-36); bit 21 is reserved.
      if (large && (entry & 0x20_0000) !== 0) return this.#fault(PF.P | PF.RSVD, access, user);
      if (!large) {
        if (!probe && !this.#mark(at, entry, A)) continue;
        at = this.#word(((entry & ~0xfff) >>> 0) + ((low >>> 12) & 1023) * 4);
        entry = at < 0 ? 0 : Atomics.load(words, at);
        if ((entry & P) === 0) return this.#fault(0, access, user);
        rights &= entry;
      }
      if (this.#check(rights, false, access, user)) return this.#fault(PF.P, access, user);
      if (!probe && !this.#mark(at, entry, writes ? A | D : A)) continue;
      const mask = large ? 0x3f_ffff : 0xfff;
      const above = large ? ((entry >>> 13) & 0xff) * 0x1_0000_0000 : 0;
      this.physical = above + ((entry & ~mask) >>> 0) + (low & mask);
      this.large = large;
      this.global = (entry & G) !== 0 && (cr4 & CR4_PGE) !== 0;
      this.writable = (writes || (entry & D) !== 0) && !this.#check(rights, false, ACCESS.write, user);
      return WALK.ok;
    }
  }

  /** Whether the access rights forbid an access (SDM vol. 3A 4.6.1). */
  #check(rights: number, noExecute: boolean, access: number, user: boolean): boolean {
    const state = this.#state;
    if (access === ACCESS.execute) {
      if (noExecute) return true;
      if (user) return (rights & US) === 0;
      return (rights & US) !== 0 && (state.cr4 & CR4_SMEP) !== 0;
    }
    const writes = access !== ACCESS.read;
    if (user) return (rights & US) === 0 || (writes && (rights & RW) === 0);
    // AC opens user pages to supervisor code only, not to what a user's instruction does implicitly (SDM vol. 3A 4.6.1).
    const closed = (state.eflags & FLAG_AC) === 0 || state.cpl === 3;
    if ((rights & US) !== 0 && (state.cr4 & CR4_SMAP) !== 0 && closed) return true;
    return writes && (rights & RW) === 0 && (state.cr0 & CR0_WP) !== 0;
  }

  #fault(bits: number, access: number, user: boolean): number {
    const state = this.#state;
    const writes = access === ACCESS.write || access === ACCESS.modify;
    // I/D is reported only where instruction fetches have rights of their own (SDM vol. 3A 4.7).
    const fetches =
      access === ACCESS.execute &&
      ((state.cr4 & CR4_SMEP) !== 0 || ((state.cr4 & CR4_PAE) !== 0 && (state.efer & EFER_NXE) !== 0));
    this.error = bits | (writes ? PF.W : 0) | (user ? PF.U : 0) | (fetches ? PF.I : 0);
    return WALK.pageFault;
  }
}
