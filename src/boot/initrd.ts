/** Placing the initial ramdisk. */
import { TsvError } from '../errors.ts';
import { MMIO_HOLE_START } from '../memory/layout.ts';
import type { BootOptions } from './boot-types.ts';
import { hex } from './image-bytes.ts';
import type { MemoryPlan, NamedRange } from './layout.ts';
import { alignUp, mebibytes } from './layout.ts';
import type { SourceFile } from './source-file.ts';

/** Below are boot data and BIOS. */
const LOWEST_INITRD_ADDRESS = 0x100000;
const PAGE_SIZE = 4096;

/**
 * Copies the initrd as high as possible below the kernel's limit and the MMIO hole, page aligned.
 * @param addrMax highest address it may occupy, inclusive (`initrd_addr_max`)
 * @param kernelEnd first address behind the memory the kernel works in, for the advice in the error
 * @returns where it is; undefined when there is none
 * @throws TSV_E_INITRD it does not fit
 * @throws TSV_E_FILE
 */
export async function placeInitrd(
  input: { options: Pick<BootOptions, 'memory'>; plan: MemoryPlan; initrd: SourceFile | undefined },
  addrMax: number,
  kernelEnd: number,
): Promise<NamedRange | undefined> {
  const { options, plan, initrd } = input;
  if (initrd === undefined) return undefined;
  const end = Math.min(addrMax + 1, MMIO_HOLE_START);
  const gpa = plan.findHigh(initrd.size, end, LOWEST_INITRD_ADDRESS);
  if (gpa === undefined) throw tooLarge(initrd, alignUp(kernelEnd, PAGE_SIZE), end);
  const range = { name: 'initrd', gpa, size: initrd.size };
  plan.take(range);
  await initrd.readInto(options.memory, gpa);
  return range;
}

function tooLarge(initrd: SourceFile, kernelEnd: number, end: number): TsvError {
  const needed = kernelEnd + alignUp(initrd.size, PAGE_SIZE);
  return new TsvError(
    'TSV_E_INITRD',
    `The initrd has ${initrd.size} bytes and does not fit into this machine's memory below ${hex(end)} besides the kernel.`,
    {
      hint:
        needed <= end
          ? `Give the machine at least ${mebibytes(needed)} of memory, or make the initrd smaller.`
          : `Make it smaller: this kernel leaves room for ${mebibytes(Math.max(0, end - kernelEnd))}.`,
    },
  );
}
