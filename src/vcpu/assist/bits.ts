/** General-register instructions of SSE4.2, ABM, MOVBE, BMI1, BMI2, ADX and RDRAND (Intel SDM vol. 2). */
import { randomBytes } from 'node:crypto';
import type { AssistContext } from './context.ts';
import type { Instruction, MandatoryPrefix, OpcodeMap } from './decode.ts';
import { undefinedOpcode } from './fault.ts';
import type { Operation, Outcome } from './operation.ts';

const RDX = 2;

/** Population count. */
function ones(value: bigint): number {
  let count = 0;
  for (let rest = value; rest !== 0n; rest >>= 32n) {
    let word = Number(rest & 0xffff_ffffn);
    for (; word !== 0; word &= word - 1) count++;
  }
  return count;
}

/** Number of bits up to the highest one. */
function bitLength(value: bigint): number {
  return value === 0n ? 0 : value.toString(2).length;
}

function trailingZeros(value: bigint, bits: number): number {
  return value === 0n ? bits : bitLength(value & -value) - 1;
}

/** An operation from r/m to a register, by operand size, that also sets flags. */
function count(
  mnemonic: string,
  opcode: number,
  run: (value: bigint, bits: number) => number,
  flags: (context: AssistContext, value: bigint, result: number) => void,
): Operation {
  return {
    mnemonic,
    map: 1,
    opcode,
    prefix: 2,
    run(context, instruction) {
      const size = instruction.operandSize;
      const value = context.rm(instruction, size);
      const result = run(value, size * 8);
      context.setGpr(instruction.reg, size, BigInt(result));
      flags(context, value, result);
      return undefined;
    },
  };
}

function countFlags(context: AssistContext, value: bigint, result: number): void {
  context.setFlags({ CF: value === 0n, ZF: result === 0 });
}

/** Bytes in reverse order. */
function swap(value: bigint, size: number): bigint {
  let out = 0n;
  for (let i = 0; i < size; i++) out = (out << 8n) | ((value >> BigInt(i * 8)) & 0xffn);
  return out;
}

function movbe(opcode: number, prefix: MandatoryPrefix, store: boolean): Operation {
  return {
    mnemonic: 'movbe',
    map: 2,
    opcode,
    prefix,
    form: 'memory',
    run(context, instruction) {
      const size = instruction.operandSize;
      if (store) context.setRm(instruction, size, swap(context.gpr(instruction.reg, size), size));
      else context.setGpr(instruction.reg, size, swap(context.rm(instruction, size), size));
      return undefined;
    },
  };
}

/** The CRC-32C polynomial 0x11EDC6F41, bits reversed. */
const CRC32C = 0x82f6_3b78;

function crc32(opcode: number): Operation {
  return {
    mnemonic: 'crc32',
    map: 2,
    opcode,
    prefix: 3,
    run(context, instruction) {
      const size = opcode === 0xf0 ? 1 : instruction.operandSize;
      const value = context.rm(instruction, size);
      let crc = Number(context.gpr(instruction.reg, 4));
      for (let i = 0; i < size; i++) {
        crc ^= Number((value >> BigInt(i * 8)) & 0xffn);
        for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? CRC32C : 0);
      }
      context.setGpr(instruction.reg, instruction.w ? 8 : 4, BigInt(crc >>> 0));
      return undefined;
    },
  };
}

function random(mnemonic: string, group: number): Operation {
  return {
    mnemonic,
    map: 1,
    opcode: 0xc7,
    group,
    form: 'register',
    run(context, instruction) {
      if (instruction.prefix >= 2) throw undefinedOpcode();
      const size = instruction.operandSize;
      const value = randomBytes(8).readBigUInt64LE();
      context.setGpr(instruction.rm, size, value);
      context.setFlags({ CF: true, OF: false, SF: false, ZF: false, AF: false, PF: false });
      return undefined;
    },
  };
}

/** ADCX and ADOX: addition with a carry of its own flag. */
function addWithFlag(mnemonic: string, prefix: MandatoryPrefix, flag: 'CF' | 'OF', bit: bigint): Operation {
  return {
    mnemonic,
    map: 2,
    opcode: 0xf6,
    prefix,
    run(context, instruction) {
      const size = instruction.w ? 8 : 4;
      const carry = (context.regs.rflags & bit) !== 0n ? 1n : 0n;
      const sum = context.gpr(instruction.reg, size) + context.rm(instruction, size) + carry;
      context.setGpr(instruction.reg, size, sum);
      context.setFlags({ [flag]: sum >> BigInt(size * 8) !== 0n });
      return undefined;
    },
  };
}

/** Operands of a VEX-encoded general-register instruction. */
interface VexOperands {
  /** r/m. */
  source: bigint;
  /** VEX.vvvv. */
  second: bigint;
  bits: number;
}

/** A VEX-encoded instruction whose result goes to ModRM.reg, or to VEX.vvvv for the BLS group. */
function vex(
  mnemonic: string,
  map: OpcodeMap,
  opcode: number,
  prefix: MandatoryPrefix,
  run: (operands: VexOperands, context: AssistContext, instruction: Instruction) => bigint,
  group?: number,
): Operation {
  return {
    mnemonic,
    encoding: 'vex',
    map,
    opcode,
    prefix,
    group,
    run(context, instruction): Outcome {
      if (instruction.l || context.realMode) throw undefinedOpcode();
      // RORX has no second source.
      if (map === 3 && instruction.vvvv !== 0) throw undefinedOpcode();
      const size = instruction.w && context.width === 64 ? 8 : 4;
      const source = context.rm(instruction, size);
      const second = context.gpr(instruction.vvvv, size);
      const result = BigInt.asUintN(size * 8, run({ source, second, bits: size * 8 }, context, instruction));
      context.setGpr(group === undefined ? instruction.reg : instruction.vvvv, size, result);
      return undefined;
    },
  };
}

/** ZF and SF of a result, OF clear, and CF; AF and PF are undefined and stay. */
function logicFlags(context: AssistContext, result: bigint, bits: number, carry: boolean): bigint {
  const value = BigInt.asUintN(bits, result);
  context.setFlags({ ZF: value === 0n, SF: value >> BigInt(bits - 1) === 1n, OF: false, CF: carry });
  return value;
}

const low = (count: number): bigint => (1n << BigInt(count)) - 1n;

function deposit(value: bigint, mask: bigint): bigint {
  let [result, rest] = [0n, value];
  for (let bits = mask; bits !== 0n; bits &= bits - 1n) {
    if ((rest & 1n) !== 0n) result |= bits & -bits;
    rest >>= 1n;
  }
  return result;
}

function extract(value: bigint, mask: bigint): bigint {
  let [result, at] = [0n, 1n];
  for (let bits = mask; bits !== 0n; bits &= bits - 1n) {
    if ((value & bits & -bits) !== 0n) result |= at;
    at <<= 1n;
  }
  return result;
}

const BMI: readonly Operation[] = [
  vex('andn', 2, 0xf2, 0, ({ source, second, bits }, context) => {
    return logicFlags(context, ~second & source, bits, false);
  }),
  vex(
    'blsr',
    2,
    0xf3,
    0,
    ({ source, bits }, context) => logicFlags(context, source & (source - 1n), bits, source === 0n),
    1,
  ),
  vex(
    'blsmsk',
    2,
    0xf3,
    0,
    ({ source, bits }, context) => {
      const result = logicFlags(context, source ^ (source - 1n), bits, source === 0n);
      context.setFlags({ ZF: false });
      return result;
    },
    2,
  ),
  vex(
    'blsi',
    2,
    0xf3,
    0,
    ({ source, bits }, context) => logicFlags(context, source & -source, bits, source !== 0n),
    3,
  ),
  vex('bextr', 2, 0xf7, 0, ({ source, second, bits }, context) => {
    const start = Number(second & 0xffn);
    const length = Number((second >> 8n) & 0xffn);
    const result = (source >> BigInt(start)) & low(length);
    context.setFlags({ ZF: BigInt.asUintN(bits, result) === 0n, CF: false, OF: false });
    return result;
  }),
  vex('bzhi', 2, 0xf5, 0, ({ source, second, bits }, context) => {
    const index = Number(second & 0xffn);
    return logicFlags(context, source & low(Math.min(index, bits)), bits, index > bits - 1);
  }),
  vex('pext', 2, 0xf5, 2, ({ source, second }) => extract(second, source)),
  vex('pdep', 2, 0xf5, 3, ({ source, second }) => deposit(second, source)),
  vex('mulx', 2, 0xf6, 3, ({ source, bits }, context, instruction) => {
    const product = source * context.gpr(RDX, bits / 8);
    context.setGpr(instruction.vvvv, bits / 8, product);
    return product >> BigInt(bits);
  }),
  vex('shlx', 2, 0xf7, 1, ({ source, second, bits }) => source << (second & BigInt(bits - 1))),
  vex(
    'sarx',
    2,
    0xf7,
    2,
    ({ source, second, bits }) => BigInt.asIntN(bits, source) >> (second & BigInt(bits - 1)),
  ),
  vex('shrx', 2, 0xf7, 3, ({ source, second, bits }) => source >> (second & BigInt(bits - 1))),
  vex('rorx', 3, 0xf0, 3, ({ source, bits }, _context, { immediate }) => {
    const by = immediate & BigInt(bits - 1);
    return (source >> by) | (source << (BigInt(bits) - by));
  }),
];

export const BITS: readonly Operation[] = [
  count('popcnt', 0xb8, ones, (context, value) => {
    context.setFlags({ OF: false, SF: false, ZF: value === 0n, AF: false, CF: false, PF: false });
  }),
  count('tzcnt', 0xbc, trailingZeros, countFlags),
  count('lzcnt', 0xbd, (value, bits) => bits - bitLength(value), countFlags),
  movbe(0xf0, 0, false),
  movbe(0xf0, 1, false),
  movbe(0xf1, 0, true),
  movbe(0xf1, 1, true),
  crc32(0xf0),
  crc32(0xf1),
  random('rdrand', 6),
  random('rdseed', 7),
  addWithFlag('adcx', 1, 'CF', 1n << 0n),
  addWithFlag('adox', 2, 'OF', 1n << 11n),
  {
    mnemonic: 'movnti',
    map: 1,
    opcode: 0xc3,
    prefix: 0,
    form: 'memory',
    run(context, instruction) {
      const size = instruction.w ? 8 : 4;
      context.setRm(instruction, size, context.gpr(instruction.reg, size));
      return undefined;
    },
  },
  ...BMI,
];
