/** Random encodings of an assisted instruction, with random operands. */
import type { Operation } from '../../../src/vcpu/assist/operation.ts';
import { AT, CODE, GPR, MEMORY, RECORD_SIZE } from './machine.ts';

/** A small reproducible generator (xorshift32). */
export class Random {
  #state: number;
  constructor(seed: number) {
    this.#state = seed | 0 || 1;
  }
  u32(): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return x >>> 0;
  }
  below(limit: number): number {
    return this.u32() % limit;
  }
  chance(percent: number): boolean {
    return this.below(100) < percent;
  }
  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)];
  }
  /** Bytes among which extreme values are frequent. */
  bytes(length: number): Uint8Array {
    const plain = this.chance(50);
    return Uint8Array.from({ length }, () =>
      plain || this.chance(60) ? this.u32() & 0xff : this.pick([0, 1, 0x7f, 0x80, 0xff]),
    );
  }
}

/** Registers the memory forms use: a pointer into memory and a small index, without and with REX bits. */
const BASE = [3, 11];
const INDEX = [6, 14];
const ARITHMETIC_FLAGS = 0x8d5;

/** One encoding of the operation. */
export function encode(operation: Operation, random: Random, wide: boolean): number[] {
  const vex = operation.encoding === 'vex';
  const prefix = operation.prefix ?? 0;
  const w = operation.w ?? random.chance(50);
  const form = operation.form ?? random.pick(['register', 'memory'] as const);
  const b = random.below(2);
  const x = random.below(2);
  const r = random.below(2);
  const reg = operation.group ?? random.below(8);

  const tail: number[] = [];
  if (form === 'register') tail.push(0xc0 | (reg << 3) | (operation.rm ?? random.below(8)));
  else tail.push(...memoryForm(reg, random));
  const usesImmediate =
    operation.map === 3 ||
    (operation.map === 1 && [0x70, 0x71, 0x72, 0x73, 0xc4, 0xc5, 0xc6].includes(operation.opcode));
  if (usesImmediate) tail.push(random.chance(50) ? random.below(256) : random.below(20));
  const noModrm = operation.map === 0 || (operation.map === 1 && operation.opcode === 0x77);
  const operands = noModrm ? [] : tail;

  if (vex) {
    const vvvv = random.chance(50) ? 15 : random.below(16);
    const l = wide ? random.below(2) : 0;
    if (operation.map === 1 && !w && random.chance(30)) {
      return ripRelative(
        [0xc5, ((1 - r) << 7) | (vvvv << 3) | (l << 2) | prefix, operation.opcode],
        operands,
        random,
      );
    }
    const inverted = ((1 - r) << 7) | ((1 - x) << 6) | ((1 - b) << 5);
    const head = [0xc4, inverted | operation.map, ((w ? 1 : 0) << 7) | (vvvv << 3) | (l << 2) | prefix];
    return ripRelative([...head, operation.opcode], operands, random);
  }
  const mandatory = [[], [0x66], [0xf3], [0xf2]][prefix];
  const size16 = OPERAND_SIZED.has(operation.mnemonic) && random.chance(25) ? [0x66] : [];
  const rex = w || random.chance(60) ? [0x40 | ((w ? 1 : 0) << 3) | (r << 2) | (x << 1) | b] : [];
  const opcodeMap = [[], [0x0f], [0x0f, 0x38], [0x0f, 0x3a]][operation.map];
  return ripRelative([...size16, ...mandatory, ...rex, ...opcodeMap, operation.opcode], operands, random);
}

/** Instructions that 66 makes 16-bit besides their mandatory prefix. */
const OPERAND_SIZED = new Set(['popcnt', 'lzcnt', 'tzcnt', 'crc32']);

function memoryForm(reg: number, random: Random): number[] {
  const displacement = random.chance(85)
    ? random.pick([-96, -64, -32, 0, 32, 64, 96])
    : random.below(200) - 100;
  const low = displacement & 0xff;
  switch (random.below(4)) {
    case 0:
      return [0x40 | (reg << 3) | 3, low];
    case 1:
      return [0x80 | (reg << 3) | 3, low, ...(displacement < 0 ? [0xff, 0xff, 0xff] : [0, 0, 0])];
    case 2:
      return [0x44 | (reg << 3), (random.below(4) << 6) | (6 << 3) | 3, low];
    default:
      // RIP-relative; the displacement is filled in once the length is known.
      return [(reg << 3) | 5, 0, 0, 0, 0];
  }
}

/** Joins head and operands; a RIP-relative displacement is made to point into memory. */
function ripRelative(head: readonly number[], operands: readonly number[], random: Random): number[] {
  const code = [...head, ...operands];
  if (operands.length >= 5 && (operands[0] & 0xc7) === 5) {
    const target = MEMORY + 512 + random.pick([-64, 0, 32]);
    const displacement = target - (CODE + code.length);
    for (let i = 0; i < 4; i++) code[head.length + 1 + i] = (displacement >> (8 * i)) & 0xff;
  }
  return code;
}

/** A record with random registers, memory and vector state around the code. */
export function makeRecord(code: readonly number[], random: Random): Uint8Array {
  const record = new Uint8Array(RECORD_SIZE);
  const view = new DataView(record.buffer);
  record.set(code);
  view.setUint32(AT.length, code.length, true);
  view.setBigUint64(AT.rflags, BigInt((random.u32() & ARITHMETIC_FLAGS) | 0x202), true);
  record.set(random.bytes(GPR.length * 8), AT.gpr);
  for (const base of BASE) view.setBigUint64(AT.gpr + base * 8, BigInt(MEMORY + 512), true);
  for (const index of INDEX) view.setBigUint64(AT.gpr + index * 8, BigInt(random.below(4) * 32), true);
  record.set(random.bytes(1024), AT.memory);

  const area = AT.xsave;
  view.setUint16(area, 0x37f, true);
  view.setUint32(area + 24, 0x1f80 | (random.u32() & 0xe03f), true);
  record.set(random.bytes(256), area + 160);
  record.set(random.bytes(256), area + 576);
  view.setBigUint64(area + 512, 7n, true);
  return record;
}
