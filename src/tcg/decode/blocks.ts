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
  ATTENTION_ENGINE,
  codeBit,
  JUMP_CACHE,
  JUMP_ENTRIES,
  JUMP_ENTRY,
  PAGE,
  R,
  RECORD,
  S,
  SEG,
} from '../layout.ts';
import type { Mmu } from '../mmu/mmu.ts';
import { WALK } from '../mmu/walk.ts';
import type { PhysicalMap } from '../physical.ts';
import { AVAILABILITIES, availability } from './availability.ts';
import { type Block, type BlockTail, CodePages } from './code-pages.ts';
import { CodeTables, TABLE_MODE } from './code-tables.ts';
import { type CodeWidth, type Decoder, MAX_LENGTH } from './decoder.ts';
import { HotBlocks } from './hot-blocks.ts';
import { InvalidationQueue } from './invalidation-queue.ts';
import { RecordWriter } from './record.ts';

/** Most instructions in a block; R.INDEX is a byte. */
const MAX_INSTRUCTIONS = 64;
/** A link that is to be resolved, and one that never is: a jump. */
const UNRESOLVED = 1;
const NO_LINK = 0;
/** Marks of linear pages that were found to have code; a power of two. */
const PAGE_MARKS = 0x2_0000;
const EFER_LMA = 1 << 10;
const VECTOR_PF = 14;
const VECTOR_GP = 13;

/** What has a say in which code may be executed. Each raises the fault itself when it refuses with one. */
export interface FetchGuard {
  /** Before code at S.RIP is looked up; its linear address in halves. */
  allows(low: number, high: number): boolean;
  /** Before a block of one instruction is entered. */
  fits(length: number): boolean;
}

/** The block cache. */
export class Blocks {
  guard: FetchGuard = { allows: () => true, fits: () => true };
  readonly #state: CpuState;
  readonly #mmu: Mmu;
  readonly #map: PhysicalMap;
  readonly #decoder: Decoder;
  readonly #writer: RecordWriter;
  /** By mode, then by the address of the first byte: both keys are small integers, which a Map finds fastest. */
  readonly #byMode = Array.from({ length: 8 * AVAILABILITIES }, () => new Map<number, Block>());
  readonly #pages: CodePages;
  readonly #tables: CodeTables;
  readonly #queue: InvalidationQueue;
  /** Bytes of an instruction that crosses pages. */
  readonly #crossing = new Uint8Array(2 * MAX_LENGTH);
  /** Marks of the linear pages that were translated since the last change of all translations; pages may share one. */
  readonly #translated = new Uint8Array(PAGE_MARKS);
  /** Whether supervisor code was found in pages that are not global, since the last change of their translations. */
  #hasLocalSupervisorCode = false;
  #arena: number;
  /** What the jump cache's entries must carry, by privilege. */
  #lastKey = 0;
  #supervisorKey = 0;
  #userKey = 0;
  /** One instruction a block: single-stepping and replay. */
  #single = false;
  /** Blocks that are worth a translation. */
  readonly hot = new HotBlocks();
  /** Blocks decoded, dropped, and times everything was dropped. */
  readonly statistics = { decoded: 0, invalidated: 0, flushes: 0 };

  constructor(
    state: CpuState,
    mmu: Mmu,
    map: PhysicalMap,
    decoder: Decoder,
    table: DecodeTable,
    peers: { index: number; vcpus: number } = { index: 0, vcpus: 1 },
  ) {
    this.#state = state;
    this.#mmu = mmu;
    this.#map = map;
    this.#decoder = decoder;
    this.#writer = new RecordWriter(state, table);
    this.#arena = state.base + ARENA;
    const { index, vcpus } = peers;
    this.#pages = new CodePages(state.bytes, state.words, index, codeBit(index), vcpus > 1, () => {
      Atomics.or(state.words, (state.base + S.ATTENTION) >> 2, ATTENTION_ENGINE);
    });
    this.#queue = new InvalidationQueue(state.words, state.base);
    this.#tables = new CodeTables(state);
    this.#tables.clearBlocks();
    this.#clearKeyed();
    mmu.onCodeWrite = (host, length) => this.invalidate(host, length);
    mmu.onFlush = (onlyLocal) => this.#forgetTranslations(onlyLocal);
    mmu.onInvalidate = (low, high) => {
      // Nothing was executed there: no translation of it is remembered.
      if (this.#translated[markOf(low, high)] !== 0) this.#forgetTranslations(false);
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
    this.#supervisorKey = this.#userKey = this.#nextKey();
    this.selectKey();
  }

  #nextKey(): number {
    this.#lastKey = (this.#lastKey + 1) & 0xff_ffff;
    if (this.#lastKey === 0) this.#clearKeyed();
    return this.#lastKey;
  }

  /** Forgets what has keys. */
  #clearKeyed(): void {
    this.#tables.clearTranslations();
    const start = this.#state.base + JUMP_CACHE;
    this.#state.bytes.fill(0xff, start, start + JUMP_ENTRIES * JUMP_ENTRY);
  }

  /** Linear addresses translate differently; `onlyLocal`: but for those of global pages. */
  #forgetTranslations(onlyLocal: boolean): void {
    if (!onlyLocal) this.#translated.fill(0);
    // A kernel's code is in global pages, user code is not.
    if (!onlyLocal || this.#hasLocalSupervisorCode) this.newKey();
    else {
      this.#userKey = this.#nextKey();
      this.selectKey();
    }
    this.#hasLocalSupervisorCode = false;
  }

  /** Makes jump cache entries of the current mode and privilege count. To be called when these change. */
  selectKey(): void {
    const state = this.#state;
    const mode = this.#mode * 2;
    state.setI32(S.SUPERVISOR_KEY, this.#supervisorKey * 128 + mode);
    state.setI32(S.USER_KEY, this.#userKey * 128 + mode + 1);
    state.setI32(S.CODE_KEY, state.i32(state.cpl === 3 ? S.USER_KEY : S.SUPERVISOR_KEY));
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
    const block = this.#find();
    if (block === undefined) return 0;
    if (this.#single && !this.guard.fits(state.view.getUint8(block.record + R.LENGTH))) return 0;
    const { words } = state;
    const low = state.i32(S.RIP);
    const high = state.i32(S.RIP + 4);
    const entry = this.#jumpEntry(low, high);
    words[entry] = low;
    words[entry + 1] = high;
    words[entry + 2] = state.i32(S.CODE_KEY);
    words[entry + 3] = block.record;
    return block.record;
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
    const block = this.#find();
    // A fault is found again, and raised, by the jump that follows.
    if (block === undefined) this.#state.setI32(S.FAULT_VECTOR, -1);
    else if (flushes === this.statistics.flushes) {
      const link = (pc + (taken === 1 ? R.A : R.B)) >> 2;
      // Where the next page is depends on more than where this one is.
      words[link] = block.tail !== undefined ? NO_LINK : block.record;
      if (block.tail !== undefined) return;
      if (block.links === undefined) block.links = [link];
      else block.links.push(link);
    }
  }

  /** The block at S.RIP, if the jump cache has it, is what is executed now: run() came back there. */
  sample(): void {
    const state = this.#state;
    const { words } = state;
    const low = state.i32(S.RIP);
    const high = state.i32(S.RIP + 4);
    const entry = this.#jumpEntry(low, high);
    const isValid =
      words[entry] === low && words[entry + 1] === high && words[entry + 2] === state.i32(S.CODE_KEY);
    if (isValid) this.hot.sample(words[entry + 3]);
  }

  /** Word index of the jump cache's entry for a RIP. The same hash as in run(): rip ^ rip >> 14, low bits. */
  #jumpEntry(low: number, high: number): number {
    const index = (low ^ ((low >>> 14) | (high << 18))) & (JUMP_ENTRIES - 1);
    return (this.#state.base + JUMP_CACHE + index * JUMP_ENTRY) >> 2;
  }

  /** The block at S.RIP; undefined after a fault. */
  #find(): Block | undefined {
    const state = this.#state;
    const { width } = this;
    let low = state.i32(S.RIP);
    let high = state.i32(S.RIP + 4);
    if (width !== 64) {
      low = (low + state.i32(S.SEGMENT_BASE + SEG.CS * 8)) | 0;
      high = 0;
    }
    if (!this.guard.allows(low, high)) return undefined;
    const host = this.#translate(low, high);
    if (host < 0) return undefined;
    const mode = this.#mode;
    const block = this.#byMode[mode].get(host);
    if (block === undefined) return this.#decode(host, mode, width, low, high);
    if (block.tail !== undefined) {
      const next = this.#translateNext(width, low, high);
      if (next < 0) return undefined;
      if (next !== block.tail.host) {
        this.#pages.remove(block);
        this.#drop(block);
        return this.#decode(host, mode, width, low, high);
      }
    } else if (mode === TABLE_MODE) this.#tables.keepBlock(host, block.record);
    return block;
  }

  /** Address of the code at a linear address, or -1 with the fault raised. */
  #translate(low: number, high: number): number {
    const key = this.#state.i32(S.CODE_KEY);
    const known = this.#tables.translation(low, high, key);
    if (known >= 0) return known;
    const host = this.#walkNoted(low, high);
    if (host >= 0) this.#tables.keepTranslation(low, high, key, host);
    return host;
  }

  /** Likewise for the first byte of the page behind. It is not kept: the guard was not asked. */
  #translateNext(width: CodeWidth, low: number, high: number): number {
    const next = (low | (PAGE - 1)) + 1;
    return this.#walkNoted(next | 0, width === 64 && next === 0 ? (high + 1) | 0 : high);
  }

  /** Walks the page tables for code, and remembers that the translation was used. */
  #walkNoted(low: number, high: number): number {
    const host = this.#walk(low, high);
    if (host < 0) return host;
    this.#mmu.noteLarge(low, high);
    const isLocal = !this.#mmu.walker.global;
    this.#translated[markOf(low, high)] = 1;
    if (isLocal && this.#state.cpl !== 3) this.#hasLocalSupervisorCode = true;
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

  #decode(host: number, mode: number, width: CodeWidth, low: number, high: number): Block | undefined {
    if (this.#arena + (MAX_INSTRUCTIONS + 8) * RECORD > this.#state.base + ARENA + ARENA_SIZE)
      this.flushAll();
    const { bytes } = this.#state;
    const pageEnd = host - (host & (PAGE - 1)) + PAGE;
    const limit = this.#single ? 1 : MAX_INSTRUCTIONS;
    const first = this.#arena;
    const writer = this.#writer;
    const page = this.#pages.open(host >>> 12);
    let at = host;
    let count = 0;
    let ended = false;
    let end = host;
    while (count < limit && at < pageEnd && !ended) {
      const length = this.#decoder.decode(bytes, at, pageEnd, width);
      if (length === -1) {
        // The instruction goes on in the next page: it gets a block of its own.
        if (count > 0) break;
        if (page.count === 0) this.#pages.close(page);
        return this.#decodeCrossing(host, mode, width, low, high);
      }
      if (length <= 0) {
        writer.invalid(first + count * RECORD, at - host, count, length);
        end = Math.min(pageEnd, at + MAX_LENGTH);
        ended = true;
      } else {
        ended = writer.write(first + count * RECORD, this.#decoder, at - host, count, length, width, host);
        at += length;
        end = at;
      }
      count++;
    }
    writer.fuse(first, count);
    // Also behind an instruction that ends the block: a system operation may go on with the next record.
    writer.goto(first + count * RECORD, at - host, count, this.#sameRest(at, host));
    const records = count + 1;
    this.#arena = first + records * RECORD;
    const length = end - host;
    const block: Block = {
      record: first,
      count: records,
      host,
      length,
      mode,
      links: undefined,
      tail: undefined,
    };
    this.#byMode[mode].set(host, block);
    if (mode === TABLE_MODE) this.#tables.keepBlock(host, first);
    this.#pages.add(page, block);
    this.statistics.decoded++;
    return block;
  }

  /** Whether the code after a block is in the same page. */
  #sameRest(at: number, host: number): boolean {
    return at >>> 12 === host >>> 12;
  }

  /** An instruction that crosses pages is a block of its own, as long as the same page is behind its first. */
  #decodeCrossing(
    host: number,
    mode: number,
    width: CodeWidth,
    low: number,
    high: number,
  ): Block | undefined {
    const next = this.#translateNext(width, low, high);
    if (next < 0) return undefined;
    const page = this.#pages.open(host >>> 12);
    const nextPage = this.#pages.open(next >>> 12);
    const { bytes } = this.#state;
    const code = this.#crossing;
    const here = PAGE - (host & (PAGE - 1));
    for (let i = 0; i < here; i++) code[i] = bytes[host + i];
    for (let i = here; i < here + MAX_LENGTH; i++) code[i] = bytes[next + i - here];
    const writer = this.#writer;
    const record = this.#arena;
    const decoded = this.#decoder.decode(code, 0, here + MAX_LENGTH, width);
    if (decoded <= 0) writer.invalid(record, 0, 0, decoded);
    else writer.write(record, this.#decoder, 0, 0, decoded, width, -1);
    writer.goto(record + RECORD, Math.max(0, decoded), 1, false);
    this.#arena = record + 2 * RECORD;
    const length = decoded > 0 ? decoded : MAX_LENGTH + 1;
    const tail: BlockTail = { host: next, length: length - here, head: undefined };
    const block: Block = { record, count: 2, host, length: here, mode, links: undefined, tail };
    tail.head = block;
    this.#byMode[mode].set(host, block);
    this.#pages.add(page, block);
    this.#pages.add(nextPage, tail);
    this.statistics.decoded++;
    return block;
  }

  /**
   * Takes what others have stored to decoded bytes. From here on nothing is executed that was stored to before: to be
   * called behind serializing instructions and before run().
   * @param pc the record that is being carried out, if run() goes on behind it
   */
  synchronize(pc = 0): void {
    if (!this.#queue.isEmpty && !this.#queue.drain((host, length) => this.invalidate(host, length))) {
      if (pc !== 0) this.#writer.staleRest(pc);
      this.flushAll();
    }
    if (this.#pages.isSettling) this.#pages.settle((page) => this.invalidate(page * PAGE, PAGE));
  }

  /** Drops blocks whose bytes were written; the bytes lie in one page. */
  invalidate(host: number, length: number): void {
    const dropped = this.#pages.take(host, length);
    if (dropped.length === 0) return;
    for (const block of dropped) this.#drop(block);
    this.statistics.invalidated += dropped.length;
  }

  /**
   * Makes nothing lead to a block that is out of its pages, and the block lead nowhere. The jump cache may go on naming it:
   * its records lead back to a lookup, which replaces the entry.
   */
  #drop({ record, count, host, mode, links }: Block): void {
    const { words } = this.#state;
    this.#byMode[mode].delete(host);
    if (mode === TABLE_MODE) this.#tables.dropBlock(host);
    // It may be running.
    for (let i = 0; i < count; i++) this.#writer.stale(record + i * RECORD);
    if (links !== undefined) {
      for (const link of links) if (words[link] === record) words[link] = UNRESOLVED;
    }
    this.hot.drop(record);
  }

  /** Drops everything. */
  flushAll(): void {
    for (const blocks of this.#byMode) blocks.clear();
    this.#tables.clearBlocks();
    this.#pages.clear();
    this.hot.clear();
    this.#arena = this.#state.base + ARENA;
    this.statistics.flushes++;
    this.newKey();
  }
}

/** Index of a linear page's mark. */
function markOf(low: number, high: number): number {
  return ((low >>> 12) + Math.imul(high, 0x2545f491)) & (PAGE_MARKS - 1);
}
