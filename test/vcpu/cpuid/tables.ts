/** CPUID tables for the tests: what engines may say they support. */
import type { CpuidEntry } from '../../../src/vcpu/state.ts';

export function entry(fn: number, index: number, registers: readonly number[]): CpuidEntry {
  const [eax, ebx, ecx, edx] = registers;
  return { function: fn, index, flags: 0, eax, ebx, ecx, edx };
}

/** A host with every feature bit set. */
export const EVERYTHING: readonly CpuidEntry[] = [
  entry(0, 0, [0x20, 0x756e6547, 0x6c65746e, 0x49656e69]),
  entry(1, 0, [0x000806f8, 0, 0xffffffff, 0xffffffff]),
  entry(6, 0, [4, 0, 0, 0]),
  entry(7, 0, [1, 0xffffffff, 0xffffffff, 0xffffffff]),
  entry(7, 1, [0xffffffff, 0, 0, 0]),
  entry(0xa, 0, [0x08300805, 0, 0xf, 0x8603]),
  entry(0xd, 0, [0x602e7, 0xa80, 0x2b00, 0]),
  entry(0xd, 1, [0x1f, 0x988, 0x1800, 0]),
  entry(0xd, 2, [0x100, 0x240, 0, 0]),
  entry(0xd, 5, [0x40, 0x440, 0, 0]),
  entry(0xd, 6, [0x200, 0x480, 0, 0]),
  entry(0xd, 7, [0x400, 0x680, 0, 0]),
  entry(0xd, 9, [8, 0xa80, 0, 0]),
  entry(0xd, 11, [0x10, 0, 1, 0]),
  entry(0xd, 12, [0x18, 0, 1, 0]),
  entry(0xd, 17, [0x40, 0xac0, 2, 0]),
  entry(0xd, 18, [0x2000, 0xb00, 6, 0]),
  entry(0x40000000, 0, [0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d]),
  entry(0x40000001, 0, [0x01ffffff, 0, 0, 1]),
  entry(0x80000000, 0, [0x80000021, 0, 0, 0]),
  entry(0x80000001, 0, [0, 0, 0xffffffff, 0xffffffff]),
  entry(0x80000002, 0, [0x65746e49, 0x2952286c, 0x6f655820, 0x2952286e]),
  entry(0x80000007, 0, [0, 0, 0, 0x100]),
  entry(0x80000008, 0, [0x3034, 0xffffffff, 0, 0]),
];

/** A software KVM on an AMD host: few features, emulated kernel code. */
export const SPARSE_AMD: readonly CpuidEntry[] = [
  entry(0, 0, [0x1c, 0x68747541, 0x444d4163, 0x69746e65]),
  entry(1, 0, [0x00a10f11, 0x01020800, 0x81202000, 0x078bfbff]),
  entry(2, 0, [0, 0, 0, 0]),
  entry(6, 0, [4, 0, 0, 0]),
  entry(7, 0, [1, 0x01800002, 0x104, 0x20000000]),
  entry(7, 1, [0, 0, 0, 0]),
  entry(0xd, 0, [0xe7, 0x980, 0x980, 0]),
  entry(0xd, 1, [0, 0, 0, 0]),
  entry(0xd, 2, [0x100, 0x240, 0, 0]),
  entry(0x80000000, 0, [0x80000021, 0x68747541, 0x444d4163, 0x69746e65]),
  entry(0x80000001, 0, [0x00a10f11, 0x40000000, 0x00400393, 0x23d3fbff]),
  entry(0x80000008, 0, [0x3030, 0x50020005, 0x7001, 0]),
  entry(0x80000021, 0, [0x204, 0, 6, 0]),
  entry(0x40000000, 0, [0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d]),
  entry(0x40000001, 0, [0x01007efb, 0, 0, 0]),
];
