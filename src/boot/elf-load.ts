/** Copying an ELF kernel's segments into guest RAM. */
import { TsvError } from '../errors.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { ElfImage } from './elf.ts';
import { hexRange } from './image-bytes.ts';
import type { MemoryPlan, NamedRange } from './layout.ts';
import { IDENTITY_MAP_SIZE } from './layout.ts';

/**
 * Checks all segments, then writes them; memory behind a segment's file bytes is zeroed.
 * @returns the range from the first to the last segment
 * @throws TSV_E_KERNEL_LAYOUT a segment is outside RAM, above 4 GiB, or overlaps something
 */
export function loadSegments(memory: GuestMemory, plan: MemoryPlan, elf: ElfImage): NamedRange {
  for (const { paddr, memsz } of elf.loads) {
    if (paddr + memsz > IDENTITY_MAP_SIZE) {
      throw new TsvError(
        'TSV_E_KERNEL_LAYOUT',
        `A segment of the kernel needs ${hexRange(paddr, memsz)}, above 4 GiB.`,
        { hint: 'Link the kernel at physical addresses from 1 MiB to 3 GiB.' },
      );
    }
    plan.take({ name: 'kernel segment', gpa: paddr, size: memsz });
  }
  for (const { offset, filesz, memsz, paddr } of elf.loads) {
    memory.write(paddr, elf.file.bytes.subarray(offset, offset + filesz));
    memory.fill(paddr + filesz, memsz - filesz);
  }
  const first = elf.loads[0];
  const last = elf.loads.at(-1)!;
  return { name: 'kernel', gpa: first.paddr, size: last.paddr + last.memsz - first.paddr };
}
