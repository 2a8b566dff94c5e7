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
  TLB_MODES,
  TLB_SIZE,
  TLB_WRITE,
} from '../layout.ts';
import type { PhysicalMap } from '../physical.ts';
import { PageWalk, WALK } from './walk.ts';

/** Entries that are remembered one by one, to forget them without filling all of the TLB. */
const TRACKED = 512;
const SLOT_SIZE = 64;
const SLOTS = PAGE / SLOT_SIZE;
const CR4_SMAP = 1 << 21;
const FLAG_AC = 0x4_0000;
const VECTOR_SS = 12;
const VECTOR_GP = 13;
const VECTOR_PF = 14;

/** A piece of a staged access within one page. */
interface Piece {
  /** Offset in the memory, or -1 for MMIO. */
  host: number;
  gpa: number;
  offset: number;
  length: number;
}

/** What the MMU tells when a store hits a page with code. */
export type CodeWriteListener = (host: number, length: number) => void;

/** Soft TLB and slow paths of one vCPU. */
export class Mmu {
  readonly walker: PageWalk;
  readonly #state: CpuState;
  readonly #map: PhysicalMap;
  readonly #log: ExitLog;
  readonly #slots: Piece[][] = Array.from({ length: SLOTS }, () => []);
  #nextSlot = 0;
  #hasLarge = false;
  /** Word indices of the entries filled since the last flush, as long as they are few. */
  readonly #filled = new Int32Array(TRACKED);
  #filledCount = TRACKED;
  onCodeWrite: CodeWriteListener = () => {};
  /** Called when linear addresses may translate differently. */
  onFlush: () => void = () => {};

  constructor(state: CpuState, map: PhysicalMap, log: ExitLog) {
    this.#state = state;
    this.#map = map;
    this.#log = log;
    this.walker = new PageWalk(state, map);
    state.bytes[(state.base + SCRATCH) >>> 12] = PAGE_SCRATCH;
    this.flush();
    this.selectTlb();
  }

  /** Points the generated code at the TLB of the current privilege. To be called when CPL, AC or CR4.SMAP change. */
  selectTlb(): void {
    const state = this.#state;
    const mode = state.cpl === 3 ? 2 : (state.cr4 & CR4_SMAP) !== 0 && (state.eflags & FLAG_AC) !== 0 ? 1 : 0;
    state.setI32(S.TLB, state.base + TLB + mode * TLB_SIZE);
  }

  /** Forgets all translations. */
  flush(): void {
    if (this.#filledCount < TRACKED) {
      const { words } = this.#state;
      for (let i = 0; i < this.#filledCount; i++) words.fill(-1, this.#filled[i], this.#filled[i] + 4);
    } else {
      const start = this.#state.base + TLB;
      this.#state.bytes.fill(0xff, start, start + TLB_MODES * TLB_SIZE);
    }
    this.#filledCount = 0;
    this.#hasLarge = false;
    this.onFlush();
  }

  /** Forgets the translation of one page. */
  invalidatePage(low: number): void {
    if (this.#hasLarge) {
      this.flush();
      return;
    }
    const entry = this.#state.base + TLB + ((low >>> 7) & 0x7fe0);
    for (let mode = 0; mode < TLB_MODES; mode++) {
      this.#state.bytes.fill(0xff, entry + mode * TLB_SIZE, entry + mode * TLB_SIZE + 16);
    }
    this.onFlush();
  }

  /** The import `slow`: see Helpers.translateSlow. */
  slow(low: number, high: number, what: number, pc: number): number {
    if (high >>> 0 === SENTINEL_HIGH) return 0;
    const size = what & 0xff;
    const access = what >> 8;
    this.#state.setI32(S.PC, pc);
    if ((low & (PAGE - 1)) + size > PAGE) return this.#stage(low, high, size, access);
    const user = this.#state.cpl === 3;
    const result = this.walker.walk(low, high, access, user);
    if (result !== WALK.ok) return this.#fault(result, low, high);
    const host = this.#map.host(this.walker.physical);
    if (host < 0) return this.#stage(low, high, size, access);
    this.#fill(low, high, host);
    return host;
  }

  #fill(low: number, high: number, host: number): void {
    const { words } = this.#state;
    const entry = (this.#state.i32(S.TLB) + ((low >>> 7) & 0x7fe0)) >> 2;
    const page = low & -PAGE;
    words[entry] = page;
    words[entry + 1] = high;
    if (this.#filledCount < TRACKED) this.#filled[this.#filledCount++] = entry;
    if (this.walker.writable) {
      words[entry + (TLB_WRITE >> 2)] = page;
      words[entry + (TLB_WRITE >> 2) + 1] = high;
    } else {
      words[entry + (TLB_WRITE >> 2)] = -1;
      words[entry + (TLB_WRITE >> 2) + 1] = -1;
    }
    words[entry + (TLB_ADDEND >> 2)] = host - low;
    if (this.walker.large) this.#hasLarge = true;
  }

  #fault(result: number, low: number, high: number): 0 {
    const state = this.#state;
    if (result === WALK.notCanonical) {
      // A stack access gives #SS; only explicit stack operations are told apart here.
      state.setI32(S.FAULT_VECTOR, VECTOR_GP);
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

  #stage(low: number, high: number, size: number, access: number): number {
    const slot = this.#nextSlot;
    this.#nextSlot = (slot + 1) % SLOTS;
    const pieces = this.#slots[slot];
    pieces.length = 0;
    const user = this.#state.cpl === 3;
    for (let done = 0; done < size; ) {
      const at = low + done;
      const carry = (low >>> 0) + done > 0xffff_ffff ? 1 : 0;
      const length = Math.min(size - done, PAGE - (at & (PAGE - 1)));
      const upper = this.#isLong() ? high + carry : 0;
      const result = this.walker.walk(at | 0, upper | 0, access, user);
      if (result !== WALK.ok) return this.#fault(result, at | 0, upper | 0);
      const gpa = this.walker.physical;
      pieces.push({ host: this.#map.host(gpa), gpa, offset: done, length });
      done += length;
    }
    const address = this.#state.base + SCRATCH + slot * SLOT_SIZE;
    if (access === ACCESS.write) return address;
    const { bytes } = this.#state;
    for (const { host, gpa, offset, length } of pieces) {
      if (host >= 0) bytes.copyWithin(address + offset, host, host + length);
      else if (!this.#log.read(gpa, bytes.subarray(address + offset, address + offset + length))) return 0;
    }
    return address;
  }

  #isLong(): boolean {
    return (this.#state.efer & (1 << 10)) !== 0;
  }

  /** The import `afterStore`: 0 when the store is complete. */
  afterStore(pc: number, host: number, size: number): number {
    const state = this.#state;
    const slot = host - state.base - SCRATCH;
    if (slot < 0 || slot >= PAGE) {
      this.touched(host, size);
      return 0;
    }
    state.setI32(S.PC, pc);
    const { bytes } = state;
    for (const { host: target, gpa, offset, length } of this.#slots[Math.floor(slot / SLOT_SIZE)]) {
      if (target >= 0) {
        bytes.copyWithin(target, host + offset, host + offset + length);
        this.touched(target, length);
      } else if (!this.#log.write(gpa, bytes.subarray(host + offset, host + offset + length))) return 1;
    }
    return 0;
  }

  /** Bytes of RAM were changed: code made of them is void, and their page is dirty. */
  touched(host: number, length: number): void {
    const { bytes } = this.#state;
    for (let page = host >>> 12; page <= (host + length - 1) >>> 12; page++) {
      const bits = bytes[page];
      if (bits & PAGE_CLEAN) Atomics.and(bytes, page, ~PAGE_CLEAN);
      if (bits & PAGE_CODE) this.onCodeWrite(Math.max(host, page << 12), length);
    }
  }
}
