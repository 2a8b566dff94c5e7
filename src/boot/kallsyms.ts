/**
 * Names for addresses of a Linux kernel that was stripped of its ELF symbols, as distribution kernels are: the table that
 * the kernel itself prints its traces from (CONFIG_KALLSYMS; scripts/kallsyms.c, kernel/kallsyms.c). It is found by its
 * structure and read where the kernel uses it, in guest RAM, so that nothing of the kernel file needs to be kept.
 *
 * Up to Linux 6.3: offsets, relative_base, num_syms, names, markers, (seqs_of_names,) token_table, token_index.
 * From Linux 6.4: num_syms, names, markers, token_table, token_index, offsets, relative_base, seqs_of_names.
 */
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { ElfImage, ElfSegment } from './elf.ts';
import type { SymbolLookup } from './elf-symbols.ts';
import { elfSymbols, hasElfSymbols, toVirtual } from './elf-symbols.ts';
import { alignUp } from './layout.ts';

/** Tokens 0x30 to 0x39 are the digits themselves: every kernel has symbols with all of them. */
const DIGIT_TOKENS = Buffer.from('0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00', 'latin1');
const FIRST_DIGIT_TOKEN = 0x30;
/** Real kernels have one or two places that look so; a guest can fill its memory with them. */
const MAX_CANDIDATES = 100;
const TOKENS = 256;
const TOKEN_INDEX_SIZE = TOKENS * 2;
/** A marker says where every 256th name begins. */
const NAMES_PER_MARKER = 256;
const MAX_SYMBOLS = 4_000_000;
/** Names and markers of a distribution kernel take 2 MiB. */
const MAX_TABLE_SIZE = 64 << 20;
/** The search gives up after this many names, in case the guest has filled its memory with false tables. */
const MAX_NAMES_WALKED = 20_000_000;
/** The kernel is linked into the last 2 GiB of the address space (Documentation/arch/x86/x86_64/mm.rst). */
const KERNEL_MAPPING_START = 0xffff_ffff_8000_0000n;
/** KSYM_NAME_LEN. */
const MAX_NAME_LENGTH = 512;
const ALIGNMENT = 8;

/** The lookup function of a loaded kernel: by its ELF symbols, or by kallsyms where it has none. */
export function kernelSymbols(memory: GuestMemory, elf: ElfImage): SymbolLookup {
  if (hasElfSymbols(elf)) return elfSymbols(elf);
  // Only the program headers are kept, not the file.
  const loads = elf.loads.map((segment) => ({ ...segment }));
  let tables: Kallsyms[] | undefined;
  return (address) => {
    tables ??= findTables(memory, loads);
    const virtual = toVirtual(loads, address);
    for (const table of tables) {
      const name = table.lookup(virtual);
      if (name !== undefined) return name;
    }
    return undefined;
  };
}

function findTables(memory: GuestMemory, loads: readonly ElfSegment[]): Kallsyms[] {
  const end = loads.reduce((max, { vaddr, memsz }) => {
    const top = vaddr + BigInt(memsz);
    return top > max ? top : max;
  }, 0n);
  return loads.flatMap(({ paddr, filesz }) => {
    // The guest goes on running and may change its memory; a copy stays what it was when it was checked.
    const bytes = Buffer.from(memory.read(paddr, filesz));
    const table = findKallsyms(bytes, end);
    return table === undefined ? [] : [table];
  });
}

/**
 * Finds the table in the bytes of a segment.
 * @param end first virtual address behind the kernel
 */
export function findKallsyms(bytes: Buffer, end: bigint): Kallsyms | undefined {
  let digits = -1;
  for (let i = 0; i < MAX_CANDIDATES; i++) {
    digits = bytes.indexOf(DIGIT_TOKENS, digits + 1);
    if (digits === -1) return undefined;
    const tokens = readTokens(bytes, digits);
    if (tokens === undefined) continue;
    const names = findNames(bytes, tokens);
    if (names !== undefined) return new Kallsyms(bytes, tokens, names, end);
  }
  return undefined;
}

interface Tokens {
  /** Where token_table begins and token_index ends. */
  readonly start: number;
  readonly end: number;
  readonly texts: readonly string[];
}

interface Names {
  readonly count: number;
  /** Where the names begin. */
  readonly start: number;
  /** Where every 256th name is, from `start`. */
  readonly markers: readonly number[];
  readonly offsetsAt: number;
  /** relative_base. */
  readonly base: bigint;
}

/** A kernel's symbol table. */
export class Kallsyms {
  readonly #bytes: Buffer;
  readonly #tokens: Tokens;
  readonly #names: Names;
  readonly #addresses: BigUint64Array;
  readonly #end: bigint;

  constructor(bytes: Buffer, tokens: Tokens, names: Names, end: bigint) {
    // Of the segment only the names are needed from here on.
    this.#bytes = Buffer.from(bytes.subarray(names.start, tokens.start));
    this.#tokens = tokens;
    this.#names = names;
    this.#addresses = decodeOffsets(bytes, names);
    this.#end = end;
  }

  /** Number of symbols. */
  get size(): number {
    return this.#names.count;
  }

  /** `name+0x12` of a virtual address. */
  lookup(address: bigint): string | undefined {
    if (address >= this.#end) return undefined;
    let best = -1;
    for (let i = 0; i < this.#addresses.length; i++) {
      if (this.#addresses[i] > address) continue;
      // Of several names for an address the first is the one the kernel prints.
      if (best === -1 || this.#addresses[i] > this.#addresses[best]) best = i;
    }
    if (best === -1) return undefined;
    const base = this.#addresses[best];
    // Below the kernel there are only per-CPU offsets, which are no addresses.
    if (base < KERNEL_MAPPING_START) return undefined;
    const name = this.name(best);
    return base === address ? name : `${name}+0x${(address - base).toString(16)}`;
  }

  /** The name of the n-th symbol. */
  name(index: number): string {
    let at = this.#names.markers[Math.floor(index / NAMES_PER_MARKER)];
    for (let i = 0; i < index % NAMES_PER_MARKER; i++) at = nextName(this.#bytes, at);
    const { start, length } = nameAt(this.#bytes, at);
    let text = '';
    for (let i = start; i < start + length && text.length < MAX_NAME_LENGTH; i++) {
      text += this.#tokens.texts[this.#bytes[i]];
    }
    // The first character is the symbol's type, as nm(1) prints it.
    return text.slice(1);
  }
}

/** Reads both token tables, which confirm each other. @param digits where token "0" is */
function readTokens(bytes: Buffer, digits: number): Tokens | undefined {
  let at = digits;
  for (let token = FIRST_DIGIT_TOKEN; token < TOKENS; token++) {
    const end = bytes.indexOf(0, at);
    if (end === -1 || end - at > MAX_NAME_LENGTH) return undefined;
    at = end + 1;
  }
  const indexAt = alignUp(at, ALIGNMENT);
  if (indexAt + TOKEN_INDEX_SIZE > bytes.length) return undefined;
  const start = digits - bytes.readUInt16LE(indexAt + FIRST_DIGIT_TOKEN * 2);
  if (start < 0) return undefined;
  const texts: string[] = [];
  let expected = start;
  for (let token = 0; token < TOKENS; token++) {
    if (start + bytes.readUInt16LE(indexAt + token * 2) !== expected) return undefined;
    const end = bytes.indexOf(0, expected);
    texts.push(bytes.toString('latin1', expected, end));
    expected = end + 1;
  }
  return { start, end: indexAt + TOKEN_INDEX_SIZE, texts };
}

/** Finds the number of symbols and the names behind it, somewhere before the token table. */
function findNames(bytes: Buffer, tokens: Tokens): Names | undefined {
  const lowest = Math.max(ALIGNMENT, tokens.start - MAX_TABLE_SIZE);
  let work = MAX_NAMES_WALKED;
  for (let at = tokens.start - (tokens.start % ALIGNMENT) - ALIGNMENT; at >= lowest; at -= ALIGNMENT) {
    const count = bytes.readUInt32LE(at);
    if (count === 0 || count > MAX_SYMBOLS || bytes.readUInt32LE(at + 4) !== 0) continue;
    const addresses = locateAddresses(bytes, tokens, at, count);
    if (addresses === undefined) continue;
    work -= count;
    if (work < 0) return undefined;
    const start = at + ALIGNMENT;
    const markers = readMarkers(bytes, start, count, tokens.start);
    if (markers !== undefined) return { count, start, markers, ...addresses };
  }
  return undefined;
}

/** Walks all names and compares with the markers that follow them. */
function readMarkers(bytes: Buffer, start: number, count: number, end: number): number[] | undefined {
  const markers: number[] = [];
  let at = start;
  for (let i = 0; i < count; i++) {
    if (i % NAMES_PER_MARKER === 0) markers.push(at - start);
    at = nextName(bytes, at);
    if (at > end) return undefined;
  }
  const markersAt = alignUp(at, ALIGNMENT);
  if (markersAt + markers.length * 4 > end) return undefined;
  return markers.every((marker, i) => bytes.readUInt32LE(markersAt + i * 4) === marker) ? markers : undefined;
}

/** A name is a length of one or two bytes and that many tokens. */
function nameAt(bytes: Buffer, at: number): { start: number; length: number } {
  const first = bytes[at] ?? 0;
  if ((first & 0x80) === 0) return { start: at + 1, length: first };
  return { start: at + 2, length: (first & 0x7f) | ((bytes[at + 1] ?? 0) << 7) };
}

function nextName(bytes: Buffer, at: number): number {
  const { start, length } = nameAt(bytes, at);
  return start + length;
}

/** Where offsets and relative_base are, in the order of an older or a newer kernel. */
function locateAddresses(
  bytes: Buffer,
  tokens: Tokens,
  countAt: number,
  count: number,
): Pick<Names, 'offsetsAt' | 'base'> | undefined {
  const size = alignUp(count * 4, ALIGNMENT);
  const after = alignUp(tokens.end, ALIGNMENT);
  const orders = [
    { offsetsAt: countAt - ALIGNMENT - size, baseAt: countAt - ALIGNMENT },
    { offsetsAt: after, baseAt: after + size },
  ];
  for (const { offsetsAt, baseAt } of orders) {
    if (offsetsAt < 0 || baseAt + 8 > bytes.length) continue;
    const base = bytes.readBigUInt64LE(baseAt);
    if (base >= KERNEL_MAPPING_START) return { offsetsAt, base };
  }
  return undefined;
}

/**
 * With CONFIG_KALLSYMS_ABSOLUTE_PERCPU (x86-64 until Linux 6.14) a negative offset counts down from relative_base - 1 and
 * others are absolute; else all count up from relative_base.
 */
function decodeOffsets(bytes: Buffer, { offsetsAt: at, count, base }: Names): BigUint64Array {
  const addresses = new BigUint64Array(count);
  let negative = 0;
  for (let i = 0; i < count; i++) if (bytes.readInt32LE(at + i * 4) < 0) negative++;
  const absolutePercpu = negative > count / 2;
  for (let i = 0; i < count; i++) {
    const offset = bytes.readInt32LE(at + i * 4);
    if (!absolutePercpu) addresses[i] = base + BigInt(offset >>> 0);
    else addresses[i] = offset < 0 ? base - 1n - BigInt(offset) : BigInt(offset);
  }
  return addresses;
}
