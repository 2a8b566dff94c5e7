/**
 * Predecoded blocks of one vCPU: found by physical address, entered through the jump cache, dropped when a store hits
 * their bytes.
 */
import type { CpuState } from '../cpu-state.ts';
import { ACCESS } from '../emit/access.ts';
import type { DecodeTable } from '../interp/decode-table.ts';
import {
  ARENA,
  ARENA_SIZE,
  JUMP_CACHE,
  JUMP_ENTRIES,
  JUMP_ENTRY,
  PAGE,
  PAGE_CODE,
  R,
  RECORD,
  S,
  SEG,
} from '../layout.ts';
import type { Mmu } from '../mmu/mmu.ts';
import { WALK } from '../mmu/walk.ts';
import type { PhysicalMap } from '../physical.ts';
import { AVAILABILITIES, availability } from './availability.ts';
import { type CodeWidth, type Decoder, MAX_LENGTH } from './decoder.ts';
import { RecordWriter } from './record.ts';

/** Most instructions in a block; R.INDEX is a byte. */
const MAX_INSTRUCTIONS = 64;
const CHUNK = 64;
/** Entries of the cache of code pages' translations; a power of two. */
const CODE_TLB = 256;
const EFER_LMA = 1 << 10;
const VECTOR_PF = 14;
const VECTOR_GP = 13;

interface Block {
  /** First record. */
  readonly record: number;
  readonly count: number;
  readonly host: number;
  readonly mode: number;
}

/** Blocks with code in one page of the memory. */
interface CodePage {
  readonly blocks: Block[];
  /** Which 64-byte chunks hold decoded bytes. */
  low: number;
  high: number;
}

/** The block cache. */
export class Blocks {
  readonly #state: CpuState;
  readonly #mmu: Mmu;
  readonly #map: PhysicalMap;
  readonly #decoder: Decoder;
  readonly #writer: RecordWriter;
  /** By mode, then by the address of the first byte: both keys are small integers, which a Map finds fastest. */
  readonly #byMode = Array.from({ length: 8 * AVAILABILITIES }, () => new Map<number, Block>());
  readonly #pages = new Map<number, CodePage>();
  readonly #crossing = new Uint8Array(2 * MAX_LENGTH + 2);
  /** Translations of code pages: linear page in halves, privilege and validity, offset in the memory. */
  readonly #codeTlb = new Float64Array(CODE_TLB * 4);
  #codeEpoch = 1;
  #arena: number;
  #epoch = 0;
  /** One instruction a block: single-stepping and replay. */
  #single = false;
  /** Blocks decoded, dropped, and times everything was dropped. */
  readonly statistics = { decoded: 0, invalidated: 0, flushes: 0 };

  constructor(state: CpuState, mmu: Mmu, map: PhysicalMap, decoder: Decoder, table: DecodeTable) {
    this.#state = state;
    this.#mmu = mmu;
    this.#map = map;
    this.#decoder = decoder;
    this.#writer = new RecordWriter(state, table);
    this.#arena = state.base + ARENA;
    const start = state.base + JUMP_CACHE;
    state.bytes.fill(0xff, start, start + JUMP_ENTRIES * JUMP_ENTRY);
    mmu.onCodeWrite = (host, length) => this.invalidate(host, length);
    mmu.onFlush = () => {
      this.#codeEpoch++;
      this.newKey();
    };
    this.newKey();
  }

  /** Whether blocks have one instruction only, for single-stepping and replay. */
  get single(): boolean {
    return this.#single;
  }
  set single(value: boolean) {
    if (value === this.#single) return;
    this.#single = value;
    this.selectKey();
  }

  /** Voids the jump cache: what addresses mean has changed. */
  newKey(): void {
    // Wrapping after 2^24 changes could only revive entries of the same RIP.
    this.#epoch = (this.#epoch + 1) & 0xff_ffff;
    this.selectKey();
  }

  /** Makes jump cache entries of the current mode and privilege count. To be called when these change. */
  selectKey(): void {
    this.#state.setI32(S.CODE_KEY, this.#epoch * 128 + this.#mode * 2 + (this.#state.cpl === 3 ? 1 : 0));
  }

  /** What the records of a block depend on besides its bytes. */
  get #mode(): number {
    const { width } = this;
    const form = (width === 64 ? 4 : width === 32 ? 2 : 0) + (this.#single ? 1 : 0);
    return availability(this.#state) * 8 + form;
  }

  /** Width of the code segment. */
  get width(): CodeWidth {
    const rights = this.#state.i32(S.RIGHTS + SEG.CS * 4);
    if (this.#state.efer & EFER_LMA && rights & 0x2000) return 64;
    return rights & 0x4000 ? 32 : 16;
  }

  /** The import `lookup`: the record of the block at S.RIP, 0 after a fault. */
  lookup(): number {
    const state = this.#state;
    const record = this.#find();
    if (record === 0) return 0;
    if (record < 0) return -record;
    const low = state.i32(S.RIP);
    const high = state.i32(S.RIP + 4);
    // The same hash as in run(): rip ^ rip >> 14, low bits.
    const index = (low ^ ((low >>> 14) | (high << 18))) & (JUMP_ENTRIES - 1);
    const entry = (state.base + JUMP_CACHE + index * JUMP_ENTRY) >> 2;
    state.words[entry] = low;
    state.words[entry + 1] = high;
    state.words[entry + 2] = state.i32(S.CODE_KEY);
    state.words[entry + 3] = record;
    return record;
  }

  /** The import `resolve`: links a branch to its target in the same page. */
  resolve(pc: number, taken: number): void {
    const { view, words } = this.#state;
    const { flushes } = this.statistics;
    const origin = this.#state.u64(S.BLOCK_RIP);
    const distance =
      taken === 1
        ? view.getBigInt64(pc + R.IMMEDIATE, true)
        : BigInt(view.getUint16(pc + R.OFFSET, true) + view.getUint8(pc + R.LENGTH));
    this.#state.rip = origin + distance;
    const record = this.#find();
    // A fault is found again, and raised, by the jump that follows.
    if (record <= 0) this.#state.setI32(S.FAULT_VECTOR, -1);
    else if (flushes === this.statistics.flushes) words[(pc + (taken === 1 ? R.A : R.B)) >> 2] = record;
  }

  /** Negative: a record that must not be cached. */
  #find(): number {
    const state = this.#state;
    const { width } = this;
    let low = state.i32(S.RIP);
    let high = state.i32(S.RIP + 4);
    if (width !== 64) {
      low = (low + state.i32(S.SEGMENT_BASE + SEG.CS * 8)) | 0;
      high = 0;
    }
    const host = this.#translate(low, high);
    if (host < 0) return 0;
    const mode = this.#mode;
    const known = this.#byMode[mode].get(host);
    if (known !== undefined) return known.record;
    return this.#decode(host, mode, width, low, high);
  }

  /** Address of the code at a linear address, or -1 with the fault raised. */
  #translate(low: number, high: number): number {
    const page = low & -PAGE;
    const entry = ((low >>> 12) & (CODE_TLB - 1)) * 4;
    const cache = this.#codeTlb;
    // CPL 0 to 2 and 3 have different rights; nothing else that matters changes without a flush.
    const valid = this.#codeEpoch * 2 + (this.#state.cpl === 3 ? 1 : 0);
    if (cache[entry] === page && cache[entry + 1] === high && cache[entry + 2] === valid) {
      return cache[entry + 3] + (low & (PAGE - 1));
    }
    const host = this.#walk(low, high);
    if (host >= 0) {
      cache[entry] = page;
      cache[entry + 1] = high;
      cache[entry + 2] = valid;
      cache[entry + 3] = host - (low & (PAGE - 1));
    }
    return host;
  }

  #walk(low: number, high: number): number {
    const state = this.#state;
    const { walker } = this.#mmu;
    const result = walker.walk(low, high, ACCESS.execute, state.cpl === 3);
    if (result === WALK.ok) {
      const host = this.#map.host(walker.physical);
      if (host >= 0) return host;
      // No code outside RAM: a processor would read all ones there, which is no instruction.
      state.setI32(S.FAULT_VECTOR, 6);
      return -1;
    }
    if (result === WALK.notCanonical) {
      state.setI32(S.FAULT_VECTOR, VECTOR_GP);
      state.setI32(S.FAULT_ERROR, 0);
      return -1;
    }
    state.setI32(S.CR2, low);
    state.setI32(S.CR2 + 4, high);
    state.setI32(S.FAULT_VECTOR, VECTOR_PF);
    state.setI32(S.FAULT_ERROR, walker.error);
    return -1;
  }

  #decode(host: number, mode: number, width: CodeWidth, low: number, high: number): number {
    if (this.#arena + (MAX_INSTRUCTIONS + 8) * RECORD > this.#state.base + ARENA + ARENA_SIZE)
      this.flushAll();
    const { bytes } = this.#state;
    const pageEnd = (host & -PAGE) + PAGE;
    const limit = this.#single ? 1 : MAX_INSTRUCTIONS;
    const first = this.#arena;
    const writer = this.#writer;
    this.#watch(host, pageEnd);
    let at = host;
    let count = 0;
    let ended = false;
    while (count < limit && at < pageEnd && !ended) {
      const length = this.#decoder.decode(bytes, at, pageEnd, width);
      if (length === -1) {
        // The instruction goes on in the next page: it gets a block of its own, made anew each time.
        if (count > 0) break;
        return this.#decodeCrossing(host, width, low, high);
      }
      if (length <= 0) {
        writer.invalid(first + count * RECORD, at - host, count, length);
        ended = true;
      } else
        ended = writer.write(first + count * RECORD, this.#decoder, at - host, count, length, width, host);
      count++;
      if (length > 0) at += length;
    }
    if (ended && count > 1) writer.fuse(first + (count - 2) * RECORD);
    // Also behind an instruction that ends the block: a system operation may go on with the next record.
    writer.goto(first + count * RECORD, at - host, count, this.#sameRest(at, host));
    const records = count + 1;
    this.#arena = first + records * RECORD;
    const block = { record: first, count: records, host, mode };
    this.#byMode[mode].set(host, block);
    this.#register(block, host, Math.max(at, host + 1));
    this.statistics.decoded++;
    return first;
  }

  /** Whether the code after a block is in the same page. */
  #sameRest(at: number, host: number): boolean {
    return at >>> 12 === host >>> 12;
  }

  #decodeCrossing(host: number, width: CodeWidth, low: number, high: number): number {
    const { bytes, base } = this.#state;
    const here = PAGE - (host & (PAGE - 1));
    const buffer = this.#crossing;
    buffer.fill(0);
    buffer.set(bytes.subarray(host, host + here));
    const nextLow = (low + here) | 0;
    const nextHigh = width === 64 && nextLow === 0 ? (high + 1) | 0 : high;
    const next = this.#translate(nextLow, nextHigh);
    if (next < 0) return 0;
    this.#watch(next, next + 1);
    buffer.set(bytes.subarray(next, next + MAX_LENGTH), here);
    const length = this.#decoder.decode(buffer, 0, here + MAX_LENGTH, width);
    // Such blocks are not kept; their records live at the arena's very end, where no kept block reaches.
    const record = base + ARENA + ARENA_SIZE - 4 * RECORD;
    if (length <= 0) this.#writer.invalid(record, 0, 0, length);
    else {
      this.#writer.write(record, this.#decoder, 0, 0, length, width, -1);
      this.#writer.goto(record + RECORD, length, 1, false);
    }
    return -record;
  }

  /** Marks the page before its bytes are read, so that a store by another vCPU cannot go unseen. */
  #watch(host: number, _end: number): void {
    const { bytes } = this.#state;
    const page = host >>> 12;
    if ((bytes[page] & PAGE_CODE) === 0) Atomics.or(bytes, page, PAGE_CODE);
  }

  #register(block: Block, start: number, end: number): void {
    const number = start >>> 12;
    let page = this.#pages.get(number);
    if (page === undefined) {
      page = { blocks: [], low: 0, high: 0 };
      this.#pages.set(number, page);
    }
    page.blocks.push(block);
    for (let chunk = (start & (PAGE - 1)) >> 6; chunk <= ((end - 1) & (PAGE - 1)) >> 6; chunk++) {
      if (chunk < 32) page.low |= 1 << chunk;
      else page.high |= 1 << (chunk - 32);
    }
  }

  /** Drops blocks whose bytes may have been written. */
  invalidate(host: number, length: number): void {
    const number = host >>> 12;
    const page = this.#pages.get(number);
    if (page === undefined) return;
    const first = (host & (PAGE - 1)) >> 6;
    const last = Math.min(CHUNK - 1, ((host & (PAGE - 1)) + length - 1) >> 6);
    let hit = false;
    for (let chunk = first; chunk <= last; chunk++) {
      const bits = chunk < 32 ? page.low >>> chunk : page.high >>> (chunk - 32);
      if (bits & 1) hit = true;
    }
    if (!hit) return;
    for (const { record, count, host: start, mode } of page.blocks) {
      this.#byMode[mode].delete(start);
      // The block may be running: its remaining records lead back to a lookup.
      for (let i = 0; i < count; i++) this.#writer.stale(record + i * RECORD);
    }
    this.statistics.invalidated += page.blocks.length;
    this.#pages.delete(number);
    this.newKey();
  }

  /** Drops everything. */
  flushAll(): void {
    for (const blocks of this.#byMode) blocks.clear();
    this.#pages.clear();
    this.#arena = this.#state.base + ARENA;
    this.statistics.flushes++;
    this.newKey();
  }
}
