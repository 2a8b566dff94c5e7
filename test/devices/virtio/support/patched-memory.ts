/** Guest RAM made of pieces that lie apart in the host's memory, with canaries between them. */
import { GuestMemory } from '../../../../src/memory/guest-memory.ts';

const PAGE = 65536;
/** Pages of guest RAM in each piece; the pieces are adjacent for the guest. */
const PIECES = [1, 1, 2, 4, 56];
const CANARY = 0xc5;

const canaries = new WeakMap<GuestMemory, Uint8Array[]>();

/** 4 MiB of RAM at address 0. */
export function patchedMemory(): GuestMemory {
  const pages = PIECES.reduce((sum, size) => sum + size + 1, 1);
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  const between: Uint8Array[] = [];
  let offset = 0;
  let gpa = 0;
  const regions = PIECES.map((size) => {
    between.push(new Uint8Array(memory.buffer, offset, PAGE));
    offset += PAGE;
    const region = { gpa, size: size * PAGE, memory: 0, offset };
    offset += region.size;
    gpa += region.size;
    return region;
  });
  between.push(new Uint8Array(memory.buffer, offset, PAGE));
  for (const canary of between) canary.fill(CANARY);
  const patched = new GuestMemory({ memories: [memory], regions });
  canaries.set(patched, between);
  return patched;
}

/** Whether nothing outside of guest RAM has been written. */
export function isUntouched(memory: GuestMemory): boolean {
  return canaries.get(memory)!.every((canary) => canary.every((byte) => byte === CANARY));
}
