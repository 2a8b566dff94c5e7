/** ELF notes (System V ABI, "Note Section"), of which PVH uses one. */
import type { ElfImage } from './elf.ts';
import { PT_NOTE } from './elf.ts';

/** Note of the 32-bit PVH entry point: physical address, 4 or 8 bytes (Xen public/elfnote.h). */
export const XEN_ELFNOTE_PHYS32_ENTRY = 18;
const XEN_NOTE_NAME = 'Xen';
/** Sizes of name and descriptor, and the type. */
const NOTE_HEADER_SIZE = 12;
/** Real kernels have a few hundred bytes of notes in one segment; a hostile file could make the search take hours. */
const MAX_NOTE_SEGMENTS = 16;
const MAX_NOTE_BYTES = 1 << 20;

/** One note. */
export interface ElfNote {
  readonly name: string;
  readonly type: number;
  readonly desc: Uint8Array;
}

/** The notes of all `PT_NOTE` segments; what is cut off by the end of a segment is left out. */
export function* elfNotes(elf: ElfImage): Generator<ElfNote> {
  const noteSegments = elf.segments.filter((segment) => segment.type === PT_NOTE);
  for (const segment of noteSegments.slice(0, MAX_NOTE_SEGMENTS)) {
    const end = segment.offset + Math.min(segment.filesz, MAX_NOTE_BYTES);
    let at = segment.offset;
    while (at + NOTE_HEADER_SIZE <= end) {
      const namesz = elf.file.u32(at);
      const descsz = elf.file.u32(at + 4);
      const type = elf.file.u32(at + 8);
      const nameAt = at + NOTE_HEADER_SIZE;
      const descAt = nameAt + pad4(namesz);
      if (descAt + descsz > end) break;
      const name = Buffer.from(elf.file.bytes.subarray(nameAt, nameAt + namesz)).toString('latin1');
      yield {
        name: name.replace(/\0+$/, ''),
        type,
        desc: elf.file.bytes.subarray(descAt, descAt + descsz),
      };
      at = descAt + pad4(descsz);
    }
  }
}

/** The PVH entry point of a kernel, a guest-physical address, or undefined when it has none. */
export function pvhEntry(elf: ElfImage): bigint | undefined {
  for (const note of elfNotes(elf)) {
    if (note.name !== XEN_NOTE_NAME || note.type !== XEN_ELFNOTE_PHYS32_ENTRY) continue;
    const view = new DataView(note.desc.buffer, note.desc.byteOffset, note.desc.byteLength);
    if (view.byteLength === 8) return view.getBigUint64(0, true);
    if (view.byteLength === 4) return BigInt(view.getUint32(0, true));
  }
  return undefined;
}

function pad4(size: number): number {
  return Math.ceil(size / 4) * 4;
}
