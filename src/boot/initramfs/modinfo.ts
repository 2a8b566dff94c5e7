/** Reads the `.modinfo` section of a kernel module: NUL-terminated `key=value` strings (include/linux/module.h). */
import { TsvError } from '../../errors.ts';

// Elf64_Ehdr and Elf64_Shdr (System V ABI).
const EHDR_SIZE = 64;
const E_SHOFF = 40;
const E_SHENTSIZE = 58;
const E_SHNUM = 60;
const E_SHSTRNDX = 62;
const SHDR_SIZE = 64;
const SH_NAME = 0;
const SH_OFFSET = 24;
const SH_SIZE = 32;
const ELF64_LE_MAGIC = [0x7f, 0x45, 0x4c, 0x46, 2, 1];

/**
 * The values of a module's `.modinfo`; a key may be there several times.
 * @param module an uncompressed ELF64 module
 * @param what its name, for messages
 * @throws TSV_E_INITRAMFS when it is not a module
 */
export function readModinfo(module: Uint8Array, what: string): Map<string, string[]> {
  const section = findSection(module, '.modinfo');
  if (section === undefined) {
    throw new TsvError('TSV_E_INITRAMFS', `"${what}" is not a kernel module.`, {
      hint: 'The file is damaged, or in a format other than ELF64, gzip, xz or zstd.',
    });
  }
  const info = new Map<string, string[]>();
  for (const line of Buffer.from(section).toString('latin1').split('\0')) {
    const equals = line.indexOf('=');
    if (equals <= 0) continue;
    const key = line.slice(0, equals);
    info.set(key, [...(info.get(key) ?? []), line.slice(equals + 1)]);
  }
  return info;
}

function findSection(file: Uint8Array, wanted: string): Uint8Array | undefined {
  if (file.length < EHDR_SIZE || !ELF64_LE_MAGIC.every((byte, i) => file[i] === byte)) return undefined;
  const view = new DataView(file.buffer, file.byteOffset, file.length);
  const table = Number(view.getBigUint64(E_SHOFF, true));
  const count = view.getUint16(E_SHNUM, true);
  if (view.getUint16(E_SHENTSIZE, true) !== SHDR_SIZE || table + count * SHDR_SIZE > file.length)
    return undefined;
  const contents = (index: number): Uint8Array | undefined => {
    if (index >= count) return undefined;
    const header = table + index * SHDR_SIZE;
    const offset = Number(view.getBigUint64(header + SH_OFFSET, true));
    const size = Number(view.getBigUint64(header + SH_SIZE, true));
    return offset + size <= file.length ? file.subarray(offset, offset + size) : undefined;
  };
  const names = contents(view.getUint16(E_SHSTRNDX, true));
  if (names === undefined) return undefined;
  const encoded = Buffer.from(`${wanted}\0`);
  for (let i = 0; i < count; i++) {
    const name = view.getUint32(table + i * SHDR_SIZE + SH_NAME, true);
    if (
      name + encoded.length <= names.length &&
      encoded.equals(names.subarray(name, name + encoded.length))
    ) {
      return contents(i);
    }
  }
  return undefined;
}
