/** Names for addresses, from an ELF symbol table (System V ABI, "Symbol Table"). */
import type { ElfImage, ElfSegment } from './elf.ts';
import { ImageBytes } from './image-bytes.ts';

const SHT_SYMTAB = 2;
const SHN_UNDEF = 0;
const STT_OBJECT = 1;
const STT_FUNC = 2;
const STT_NOTYPE = 0;
const MAX_NAME = 512;

/** Looks up `name+0x12` of an address; undefined where there is no name. */
export type SymbolLookup = (address: bigint) => string | undefined;

/** For kernels without symbols. */
export const noSymbols: SymbolLookup = () => undefined;

/**
 * The lookup function of a kernel. Addresses may be virtual, or physical as they are early in the boot. The table is
 * read on the first use; a damaged one has no symbols.
 */
export function elfSymbols(elf: ElfImage): SymbolLookup {
  if (!hasElfSymbols(elf)) return noSymbols;
  let table: SymbolTable | undefined;
  return (address) => {
    table ??= readSymbols(elf);
    return table.lookup(address) ?? table.lookup(toVirtual(elf.loads, address));
  };
}

/** True when the file has a symbol table. */
export function hasElfSymbols(elf: ElfImage): boolean {
  return findSymtab(elf) !== undefined;
}

class SymbolTable {
  readonly #addresses: BigUint64Array;
  readonly #names: readonly string[];
  readonly #end: bigint;

  /** @param symbols in any order */
  constructor(symbols: { address: bigint; name: string }[], end: bigint) {
    symbols.sort((a, b) => (a.address < b.address ? -1 : a.address > b.address ? 1 : 0));
    this.#addresses = BigUint64Array.from(symbols, (symbol) => symbol.address);
    this.#names = symbols.map((symbol) => symbol.name);
    this.#end = end;
  }

  lookup(address: bigint): string | undefined {
    if (this.#addresses.length === 0 || address < this.#addresses[0] || address >= this.#end)
      return undefined;
    let low = 0;
    let high = this.#addresses.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.#addresses[middle] <= address) low = middle;
      else high = middle - 1;
    }
    const offset = address - this.#addresses[low];
    return offset === 0n ? this.#names[low] : `${this.#names[low]}+0x${offset.toString(16)}`;
  }
}

interface Section {
  readonly type: number;
  readonly offset: number;
  readonly size: number;
  readonly link: number;
}

function readSection(elf: ElfImage, index: number): Section | undefined {
  const { sections, file, bits } = elf;
  if (sections === undefined || index >= sections.count) return undefined;
  const wide = bits === 64;
  const at = sections.offset + index * (wide ? 64 : 40);
  const word = (offset64: number, offset32: number): number =>
    wide ? Number(file.u64(at + offset64)) : file.u32(at + offset32);
  return {
    type: file.u32(at + 4),
    offset: word(24, 16),
    size: word(32, 20),
    link: file.u32(at + (wide ? 40 : 24)),
  };
}

function findSymtab(elf: ElfImage): { symbols: Section; strings: Section } | undefined {
  for (let i = 0; i < (elf.sections?.count ?? 0); i++) {
    const symbols = readSection(elf, i)!;
    if (symbols.type !== SHT_SYMTAB) continue;
    const strings = readSection(elf, symbols.link);
    if (strings === undefined) continue;
    if (elf.file.has(symbols.offset, symbols.size) && elf.file.has(strings.offset, strings.size)) {
      return { symbols, strings };
    }
  }
  return undefined;
}

function readSymbols(elf: ElfImage): SymbolTable {
  const { symbols, strings } = findSymtab(elf)!;
  const wide = elf.bits === 64;
  const entrySize = wide ? 24 : 16;
  const { file } = elf;
  const names = new ImageBytes(file.slice(strings.offset, strings.size, 'string table'), 'the string table');
  const found: { address: bigint; name: string }[] = [];
  const end = elf.loads.reduce((max, { vaddr, memsz }) => {
    const top = vaddr + BigInt(memsz);
    return top > max ? top : max;
  }, 0n);
  for (let at = symbols.offset; at + entrySize <= symbols.offset + symbols.size; at += entrySize) {
    const type = file.u8(at + (wide ? 4 : 12)) & 0xf;
    const section = file.u16(at + (wide ? 6 : 14));
    if (section === SHN_UNDEF || (type !== STT_NOTYPE && type !== STT_OBJECT && type !== STT_FUNC)) continue;
    const address = wide ? file.u64(at + 8) : BigInt(file.u32(at + 4));
    // Linux's per-CPU symbols are small offsets, not addresses.
    if (
      !elf.loads.some(
        ({ vaddr, memsz }) => vaddr !== 0n && address >= vaddr && address < vaddr + BigInt(memsz),
      )
    ) {
      continue;
    }
    const name = names.text(file.u32(at), MAX_NAME);
    if (name !== undefined) found.push({ address, name });
  }
  return new SymbolTable(found, end);
}

/** The virtual address of a physical one, as the segments say; any other address unchanged. */
export function toVirtual(loads: readonly ElfSegment[], address: bigint): bigint {
  for (const { paddr, vaddr, memsz } of loads) {
    const offset = address - BigInt(paddr);
    if (offset >= 0n && offset < BigInt(memsz)) return vaddr + offset;
  }
  return address;
}
