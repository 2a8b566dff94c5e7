/** CMPXCHG8B and CMPXCHG16B, atomic towards all threads that share guest memory (Intel SDM vol. 2A). */
import type { AssistContext } from './context.ts';
import { generalProtection, undefinedOpcode } from './fault.ts';
import type { Operation } from './operation.ts';

const MASK64 = 0xffff_ffff_ffff_ffffn;

/** Runs `action` while no other vCPU of the machine is in here. */
function exclusively<T>(lock: Int32Array | undefined, action: () => T): T {
  if (lock === undefined) return action();
  while (Atomics.compareExchange(lock, 0, 0, 1) !== 0) Atomics.wait(lock, 0, 1, 1);
  try {
    return action();
  } finally {
    Atomics.store(lock, 0, 0);
    Atomics.notify(lock, 0, 1);
  }
}

/** Compares and exchanges an aligned 64-bit word. @returns what it held before */
function exchange8(context: AssistContext, gpa: number, expected: bigint, replacement: bigint): bigint {
  const bytes = context.guest.bytes(gpa, 8);
  const word = new BigUint64Array(bytes.buffer, bytes.byteOffset, 1);
  return Atomics.compareExchange(word, 0, expected, replacement);
}

/** 64 bits: by the host's atomic operation where the address is aligned. */
function cmpxchg8b(context: AssistContext, linear: bigint, expected: bigint, replacement: bigint): bigint {
  const gpa = context.writable(linear);
  if (gpa % 8 === 0) return exchange8(context, gpa, expected, replacement);
  return exclusively(context.options.lock, () => {
    const old = context.readInt(linear, 8);
    context.writeInt(linear, 8, old === expected ? replacement : old);
    return old;
  });
}

/**
 * 128 bits: two 64-bit exchanges, undone when the second fails. The lock keeps other assisted vCPUs out; a vCPU that
 * writes the words natively cannot be lost over, because each word is exchanged atomically.
 */
function cmpxchg16b(context: AssistContext, linear: bigint, expected: bigint, replacement: bigint): bigint {
  const gpa = context.writable(linear);
  return exclusively(context.options.lock, () => {
    const [low, high] = [expected & MASK64, expected >> 64n];
    const oldHigh = context.guest.readU64(gpa + 8);
    const oldLow = exchange8(context, gpa, low, oldHigh === high ? replacement & MASK64 : low);
    if (oldLow !== low || oldHigh !== high) return (oldHigh << 64n) | oldLow;
    const found = exchange8(context, gpa + 8, high, replacement >> 64n);
    if (found !== high) exchange8(context, gpa, replacement & MASK64, low);
    return (found << 64n) | oldLow;
  });
}

export const CMPXCHG: readonly Operation[] = [
  {
    mnemonic: 'cmpxchg8b',
    mnemonicW: 'cmpxchg16b',
    map: 1,
    opcode: 0xc7,
    group: 1,
    lockable: true,
    run(context, instruction) {
      if (instruction.memory === undefined) throw undefinedOpcode();
      const half = instruction.w && instruction.width === 64 ? 8 : 4;
      const shift = BigInt(half * 8);
      const pair = (high: number, low: number) => (context.gpr(high, half) << shift) | context.gpr(low, half);
      const linear = context.linear(instruction, instruction.memory, half * 2, true);
      if (half === 8 && linear % 16n !== 0n) throw generalProtection();
      const expected = pair(2, 0);
      const replacement = pair(1, 3);
      const exchange = half === 8 ? cmpxchg16b : cmpxchg8b;
      const old = exchange(context, linear, expected, replacement);
      if (old !== expected) {
        context.setGpr(0, half, old);
        context.setGpr(2, half, old >> shift);
      }
      context.setFlags({ ZF: old === expected });
      return undefined;
    },
  },
];
