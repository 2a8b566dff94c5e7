/**
 * Memory accesses that the generated code cannot do itself: TLB misses, faults, accesses that cross pages, MMIO,
 * stores to pages with code.
 *
 * An access without a single host address is staged: it gets a slot in the scratch page. Reads are filled before the
 * instruction sees the slot; stores to it are carried out afterwards, by {@link Mmu.afterStore}, which the page map
 * demands for the scratch page. Both pages of a crossing write are checked before anything is written.
 *
 * MMIO ends run(). The instruction is executed again when the access is done, and finds its result in the log.
 */
import type { CpuState } from '../cpu-state.ts';
import type { CodeWatch } from '../decode/code-watch.ts';
import { ACCESS } from '../emit/access.ts';
import type { ExitLog } from '../exits.ts';
import {
  PAGE,
  PAGE_CLEAN,
  PAGE_CODE,
  PAGE_SCRATCH,
  S,
  SCRATCH,
  SEG,
  SENTINEL_HIGH,
  TLB,
  TLB_ADDEND,
  TLB_INDEX_MASK,
  TLB_INDEX_SHIFT,
  TLB_MODE_ALIGNED,
  TLB_MODES,
  TLB_READ,
  TLB_SIZE,
  TLB_WRITE,
} from '../layout.ts';
import type { PhysicalMap } from '../physical.ts';
import type { Rendezvous } from '../rendezvous.ts';
import { PageWalk, WALK } from './walk.ts';

/** Entries that are remembered one by one, to forget them without the others; then all are forgotten. */
const TRACKED = 2048;
/** Pieces of the linear address space of 1 GiB, by the low bits of their number: where large pages were used. */
const GIGABYTES = 1024;
const SLOT_SIZE = 64;
const SLOTS = PAGE / SLOT_SIZE;
const CR0_AM = 1 << 18;
const CR4_SMAP = 1 << 21;
const FLAG_AC = 0x4_0000;
const VECTOR_SS = 12;
const VECTOR_GP = 13;
const VECTOR_PF = 14;
const VECTOR_AC = 17;

/** A piece of a staged access within one page. */
interface Piece {
  /** Offset in the memory, or -1 for MMIO. */
  host: number;
  gpa: number;
  offset: number;
  length: number;
}

/**
 * What an access of so many bytes has to be aligned to (SDM vol. 3A table 6-7). Of 16 bytes processors demand more or
 * less; this one is like AMD's.
 */
export function alignmentOf(size: number): number {
  return size === 10 ? 8 : size & -size;
}

/** What the MMU tells when a store hits a page that this vCPU has decoded. */
export type CodeWriteListener = (host: number, length: number) => void;

/** The vCPU among the others. */
export interface MmuPeers {
  /** Page map bit of this vCPU. */
  readonly codeBit: number;
  /** Tells the others about stores to what they have decoded. */
  readonly watch: CodeWatch;
  readonly rendezvous: Rendezvous;
}

/** Breakpoints on data (SDM vol. 3B 17.2): pages that have one never enter the soft TLB. */
export interface DataBreakpoints {
  isDataPage(low: number, high: number): boolean;
  /** Looks at an access. @returns false when the instruction must be abandoned, to be executed alone */
  access(low: number, high: number, size: number, access: number): boolean;
}

/** Soft TLB and slow paths of one vCPU. */
export class Mmu {
  /** undefined while there are none. */
  breakpoints: DataBreakpoints | undefined;
  /** Whether an access of an instruction is one to the stack. */
  isStackAccess: (pc: number, low: number, high: number) => boolean = () => false;
  /** Whether the instruction of a record has one access, the last thing that can end it. */
  isSingleAccess: (pc: number) => boolean = () => false;
  readonly walker: PageWalk;
  readonly #state: CpuState;
  readonly #map: PhysicalMap;
  readonly #log: ExitLog;
  readonly #peers: MmuPeers;
  readonly #slots: Piece[][] = Array.from({ length: SLOTS }, () => []);
  #nextSlot = 0;
  /** Not 0 where a translation of a large page may be in the TLB, in pieces of 4 KiB. */
  readonly #large = new Uint8Array(GIGABYTES);
  /** Word indices of the entries of pages that are not global, as long as they are few. */
  readonly #filled = new Int32Array(TRACKED);
  #filledCount = 0;
  onCodeWrite: CodeWriteListener = () => {};
  /** Called when linear addresses may translate differently; `onlyLocal`: but for those of global pages. */
  onFlush: (onlyLocal: boolean) => void = () => {};
  /** Likewise for one page. */
  onInvalidate: (low: number, high: number) => void = () => {};

  constructor(state: CpuState, map: PhysicalMap, log: ExitLog, peers: MmuPeers) {
    this.#state = state;
    this.#map = map;
    this.#log = log;
    this.#peers = peers;
    this.walker = new PageWalk(state, map, peers.watch.hasOthers);
    this.walker.onChange = (host) => this.touched(host, 4);
    state.bytes[(state.base + SCRATCH) >>> 12] = PAGE_SCRATCH;
    this.flush();
    this.selectTlb();
  }

  /** Points the generated code at the TLB of the current privilege. To be called when CPL, AC, CR0.AM or CR4.SMAP change. */
  selectTlb(): void {
    const state = this.#state;
    const ac = (state.eflags & FLAG_AC) !== 0;
    const mode =
      state.cpl === 3
        ? ac && (state.cr0 & CR0_AM) !== 0
          ? TLB_MODE_ALIGNED
          : 2
        : ac && (state.cr4 & CR4_SMAP) !== 0
          ? 1
          : 0;
    state.setI32(S.TLB, state.base + TLB + mode * TLB_SIZE);
  }

  /** Forgets all translations. */
  flush(): void {
    const start = this.#state.base + TLB;
    this.#state.bytes.fill(0xff, start, start + TLB_MODES * TLB_SIZE);
    this.#filledCount = 0;
    this.#large.fill(0);
    this.onFlush(false);
  }

  /** Forgets the translations of pages that are not global: CR3 was written (SDM vol. 3A 4.10.4.1). */
  flushLocal(): void {
    if (this.#filledCount === TRACKED) {
      this.flush();
      return;
    }
    const { words } = this.#state;
    for (let i = 0; i < this.#filledCount; i++) {
      const entry = this.#filled[i];
      words[entry] = words[entry + 1] = -1;
      words[entry + (TLB_WRITE >> 2)] = words[entry + (TLB_WRITE >> 2) + 1] = -1;
    }
    this.#filledCount = 0;
    this.onFlush(true);
  }

  /** Forgets the translation of one page, whatever its size. */
  invalidatePage(low: number, high: number): void {
    if (this.#large[gigabyteOf(low, high)] !== 0) {
      this.flush();
      return;
    }
    const entry = this.#state.base + TLB + ((low >>> TLB_INDEX_SHIFT) & TLB_INDEX_MASK);
    for (let mode = 0; mode < TLB_MODES; mode++) {
      this.#state.bytes.fill(0xff, entry + mode * TLB_SIZE, entry + mode * TLB_SIZE + 16);
    }
    this.onInvalidate(low, high);
  }

  /** The last walk's translation is remembered, for one of its 4 KiB pieces if the page is large. */
  noteLarge(low: number, high: number): void {
    if (this.walker.large) this.#large[gigabyteOf(low, high)] = 1;
  }

  /** The import `slow`: see Helpers.translateSlow. */
  slow(low: number, high: number, what: number, pc: number): number {
    if (high >>> 0 === SENTINEL_HIGH) return 0;
    const size = what & 0xff;
    const kind = what >> 8;
    const locked = kind >= ACCESS.locked;
    const access = locked ? ACCESS.modify : kind;
    this.#state.setI32(S.PC, pc);
    const { breakpoints } = this;
    if (breakpoints !== undefined) {
      if (!breakpoints.access(low, high, size, access)) return 0;
      // In the scratch page, string instructions go on element by element.
      if (breakpoints.isDataPage(low, high)) return this.#stage(low, high, size, access, locked);
    }
    if ((low & (PAGE - 1)) + size > PAGE) return this.#stage(low, high, size, access, locked);
    if (kind === ACCESS.split) this.#peers.rendezvous.alone();
    const user = this.#state.cpl === 3;
    const result = this.walker.walk(low, high, access, user);
    if (result !== WALK.ok) return this.#fault(result, low, high);
    const host = this.#map.host(this.walker.physical, access === ACCESS.write || access === ACCESS.modify);
    if (host < 0) return this.#stage(low, high, size, access, false);
    if (!this.checksAlignment) this.#fill(low, high, host);
    else if (this.#isMisaligned(low, size)) return 0;
    return host;
  }

  /** Whether accesses of the current privilege must be aligned (SDM vol. 3A 6.15, interrupt 17). */
  get checksAlignment(): boolean {
    return this.#state.i32(S.TLB) === this.#state.base + TLB + TLB_MODE_ALIGNED * TLB_SIZE;
  }

  /** Raises #AC where a size asks for more alignment; those that are no power of two, for that of their parts. */
  #isMisaligned(low: number, size: number): boolean {
    if ((low & (alignmentOf(size) - 1)) === 0) return false;
    this.#state.setI32(S.FAULT_VECTOR, VECTOR_AC);
    this.#state.setI32(S.FAULT_ERROR, 0);
    return true;
  }

  /**
   * For what is written in TypeScript: the address in the memory of bytes within one page of RAM, with the current privilege.
   * What is stored there has to be told by {@link touched}.
   * @param access ACCESS.read or ACCESS.write
   * @returns -1 when there is none, or only with a fault
   */
  direct(low: number, high: number, access: number): number {
    const { words } = this.#state;
    const entry = this.#entry(low);
    const tag = entry + ((access === ACCESS.read ? TLB_READ : TLB_WRITE) >> 2);
    if (words[tag] === (low & -PAGE) && words[tag + 1] === high)
      return (low + words[entry + (TLB_ADDEND >> 2)]) >>> 0;
    if (this.breakpoints !== undefined) return -1;
    if (this.walker.walk(low, high, access, this.#state.cpl === 3) !== WALK.ok) return -1;
    const host = this.#map.host(this.walker.physical, access === ACCESS.write);
    if (host >= 0 && !this.checksAlignment) this.#fill(low, high, host);
    return host;
  }

  /** Word index of the entry of a linear address in the current TLB. */
  #entry(low: number): number {
    return (this.#state.i32(S.TLB) + ((low >>> TLB_INDEX_SHIFT) & TLB_INDEX_MASK)) >> 2;
  }

  #fill(low: number, high: number, host: number): void {
    const { words } = this.#state;
    const entry = this.#entry(low);
    const page = low & -PAGE;
    words[entry] = page;
    words[entry + 1] = high;
    if (!this.walker.global && this.#filledCount < TRACKED) this.#filled[this.#filledCount++] = entry;
    if (this.walker.writable && !this.#map.isReadOnly(host)) {
      words[entry + (TLB_WRITE >> 2)] = page;
      words[entry + (TLB_WRITE >> 2) + 1] = high;
    } else {
      words[entry + (TLB_WRITE >> 2)] = -1;
      words[entry + (TLB_WRITE >> 2) + 1] = -1;
    }
    words[entry + (TLB_ADDEND >> 2)] = host - low;
    this.noteLarge(low, high);
  }

  #fault(result: number, low: number, high: number): 0 {
    const state = this.#state;
    if (result === WALK.notCanonical) {
      const isStack = this.isStackAccess(state.i32(S.PC), low, high);
      state.setI32(S.FAULT_VECTOR, isStack ? VECTOR_SS : VECTOR_GP);
      state.setI32(S.FAULT_ERROR, 0);
      return 0;
    }
    state.setI32(S.CR2, low);
    state.setI32(S.CR2 + 4, high);
    state.setI32(S.FAULT_VECTOR, VECTOR_PF);
    state.setI32(S.FAULT_ERROR, this.walker.error);
    return 0;
  }

  /** The import `segmentFault`: an access beyond a segment's limit. */
  segmentFault(segment: number, pc: number): void {
    this.#state.setI32(S.PC, pc);
    this.#state.setI32(S.FAULT_VECTOR, segment === SEG.SS ? VECTOR_SS : VECTOR_GP);
    this.#state.setI32(S.FAULT_ERROR, 0);
  }

  #stage(low: number, high: number, size: number, access: number, locked: boolean): number {
    const slot = this.#nextSlot;
    this.#nextSlot = (slot + 1) % SLOTS;
    const pieces = this.#slots[slot];
    pieces.length = 0;
    // Canonical as a whole, before any of it is translated.
    const last = (low >>> 0) + size - 1 > 0xffff_ffff ? (high + 1) | 0 : high;
    if (this.#isLong() && (last << 16) >> 16 !== (last | 0)) return this.#fault(WALK.notCanonical, low, high);
    const user = this.#state.cpl === 3;
    for (let done = 0; done < size; ) {
      const at = low + done;
      const carry = (low >>> 0) + done > 0xffff_ffff ? 1 : 0;
      const length = Math.min(size - done, PAGE - (at & (PAGE - 1)));
      const upper = this.#isLong() ? high + carry : 0;
      const result = this.walker.walk(at | 0, upper | 0, access, user);
      if (result !== WALK.ok) return this.#fault(result, at | 0, upper | 0);
      const gpa = this.walker.physical;
      const writes = access === ACCESS.write || access === ACCESS.modify;
      pieces.push({ host: this.#map.host(gpa, writes), gpa, offset: done, length });
      done += length;
    }
    if (this.checksAlignment && this.#isMisaligned(low, size)) return 0;
    // Until the pieces are written back, by afterStore.
    if (locked) this.#peers.rendezvous.alone();
    const address = this.#state.base + SCRATCH + slot * SLOT_SIZE;
    if (access === ACCESS.write) return address;
    const { bytes } = this.#state;
    const single = pieces.length === 1 && this.isSingleAccess(this.#state.i32(S.PC));
    for (const { gpa, offset, length } of pieces) {
      // What is read is ROM's own, also where the piece's write goes to the bus.
      const host = this.#map.host(gpa);
      if (host >= 0) bytes.copyWithin(address + offset, host, host + length);
      else {
        const piece = bytes.subarray(address + offset, address + offset + length);
        if (!this.#log.read(gpa, piece, single)) return 0;
      }
    }
    return address;
  }

  #isLong(): boolean {
    return (this.#state.efer & (1 << 10)) !== 0;
  }

  /** The import `afterStore`: 0 when the store is complete. */
  afterStore(pc: number, host: number, size: number): number {
    const incomplete = this.#completeStore(pc, host >>> 0, size);
    this.#peers.rendezvous.together();
    return incomplete ? 1 : 0;
  }

  #completeStore(pc: number, host: number, size: number): boolean {
    const state = this.#state;
    const slot = host - state.base - SCRATCH;
    if (slot < 0 || slot >= PAGE) {
      this.touched(host, size);
      return false;
    }
    state.setI32(S.PC, pc);
    const { bytes } = state;
    const pieces = this.#slots[Math.floor(slot / SLOT_SIZE)];
    const single = pieces.length === 1 && this.isSingleAccess(pc);
    for (const { host: target, gpa, offset, length } of pieces) {
      const piece = bytes.subarray(host + offset, host + offset + length);
      if (target >= 0) {
        bytes.set(piece, target);
        this.touched(target, length);
      } else if (!this.#log.write(gpa, piece, single)) return true;
    }
    return false;
  }

  /** Bytes of RAM were changed: code made of them is void, and their page is dirty. */
  touched(host: number, length: number): void {
    const { bytes } = this.#state;
    const { codeBit, watch } = this.#peers;
    const end = host + length;
    for (let at = host; at < end; at = at - (at & (PAGE - 1)) + PAGE) {
      const page = at >>> 12;
      const bits = bytes[page];
      if (bits === 0) continue;
      if (bits & PAGE_CLEAN) Atomics.and(bytes, page, ~PAGE_CLEAN);
      if ((bits & PAGE_CODE) === 0) continue;
      const piece = Math.min(end - at, PAGE - (at & (PAGE - 1)));
      if (bits & codeBit) this.onCodeWrite(at, piece);
      if (watch.hasOthers) watch.tell(bits, at, piece);
    }
  }
}

function gigabyteOf(low: number, high: number): number {
  return ((low >>> 30) | (high << 2)) & (GIGABYTES - 1);
}
