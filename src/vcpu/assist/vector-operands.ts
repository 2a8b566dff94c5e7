/** Operands of SSE and AVX instructions, and the checks their encodings share. */
import type { AssistContext } from './context.ts';
import type { Instruction, MandatoryPrefix, OpcodeMap } from './decode.ts';
import { generalProtection, undefinedOpcode } from './fault.ts';
import type { Operation } from './operation.ts';

/** Checks that the instruction may execute at all. */
export function requireVectors(context: AssistContext, instruction: Instruction): void {
  if (instruction.encoding === 'vex') context.requireAvx();
  else context.requireSse();
}

/** #UD when an instruction without a second source names one: VEX.vvvv must be 1111b. */
export function requireNoSecondSource(instruction: Instruction): void {
  if (instruction.encoding === 'vex' && instruction.vvvv !== 0) throw undefinedOpcode();
}

/** #UD when an instruction that has no 256-bit form asks for it. */
export function require128(instruction: Instruction): void {
  if (instruction.l) throw undefinedOpcode();
}

/** Bytes of the operands: 16, or 32 with VEX.L. */
export function vectorSize(instruction: Instruction): 16 | 32 {
  return instruction.encoding === 'vex' && instruction.l ? 32 : 16;
}

/**
 * The r/m operand.
 * @param size bytes
 * @param aligned whether memory must be aligned to its size (legacy SSE; SDM vol. 1 14.9)
 * @throws GuestFault #GP when it is not
 */
export function vectorSource(
  context: AssistContext,
  instruction: Instruction,
  size: number,
  aligned: boolean,
): Uint8Array {
  if (instruction.memory === undefined)
    return context.vectors.get(instruction.rm, Math.max(size, 16)).slice(0, size);
  const linear = context.linear(instruction, instruction.memory, size, false);
  if (aligned && linear % BigInt(size) !== 0n) throw generalProtection();
  return context.read(linear, size);
}

/** Writes the r/m operand; a register is written as a whole. */
export function setVectorRm(
  context: AssistContext,
  instruction: Instruction,
  value: Uint8Array,
  aligned: boolean,
): void {
  if (instruction.memory === undefined) {
    context.vectors.set(instruction.rm, value, instruction.encoding === 'vex');
    return;
  }
  const linear = context.linear(instruction, instruction.memory, value.length, true);
  if (aligned && linear % BigInt(value.length) !== 0n) throw generalProtection();
  context.write(linear, value);
}

/** Writes ModRM.reg. */
export function setVectorReg(context: AssistContext, instruction: Instruction, value: Uint8Array): void {
  context.vectors.set(instruction.reg, value, instruction.encoding === 'vex');
}

/** The first source: VEX.vvvv, or the destination itself in legacy encoding. */
export function firstSource(context: AssistContext, instruction: Instruction, size: number): Uint8Array {
  const number = instruction.encoding === 'vex' ? instruction.vvvv : instruction.reg;
  return context.vectors.get(number, size);
}

/** Applies a function to each 128-bit lane. */
export function byLane(
  compute: (a: Uint8Array, b: Uint8Array, immediate: number, lane: number) => Uint8Array,
  a: Uint8Array,
  b: Uint8Array,
  immediate: number,
): Uint8Array {
  const out = new Uint8Array(a.length);
  for (let at = 0; at < a.length; at += 16) {
    // Copies, so that wider elements are aligned.
    out.set(compute(a.slice(at, at + 16), b.slice(at, at + 16), immediate, at / 16), at);
  }
  return out;
}

/** The immediate as an unsigned byte. */
export function immediateByte(instruction: Instruction): number {
  return Number(instruction.immediate & 0xffn);
}

/** An instruction in its legacy and its VEX encoding; the latter has a `v` before its mnemonic. */
export function bothEncodings(
  mnemonic: string,
  map: OpcodeMap,
  opcode: number,
  prefix: MandatoryPrefix,
  rest: Pick<Operation, 'run' | 'form' | 'group' | 'w'>,
): Operation[] {
  const run: Operation['run'] = (context, instruction) => {
    requireVectors(context, instruction);
    return rest.run(context, instruction);
  };
  return [
    { ...rest, mnemonic, map, opcode, prefix, run },
    { ...rest, mnemonic: `v${mnemonic}`, encoding: 'vex', map, opcode, prefix, run },
  ];
}
