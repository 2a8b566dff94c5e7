/** SSE and AVX instructions on packed data: the two-operand ones of packed.ts, shuffles, masks and conversions. */
import { aesimc, aeskeygenassist } from './aes.ts';
import type { MandatoryPrefix, OpcodeMap } from './decode.ts';
import { elements, mapElements, selectors, shuffle } from './lanes.ts';
import type { Operation } from './operation.ts';
import { type LaneFunction, type PackedOperation, PREFIXED, shift, UNPREFIXED } from './packed.ts';
import {
  bothEncodings,
  byLane,
  firstSource,
  immediateByte,
  require128,
  requireNoSecondSource,
  setVectorReg,
  vectorSize,
  vectorSource,
} from './vector-operands.ts';

/** destination = f(first source, r/m). */
function packed(operation: PackedOperation, prefix: MandatoryPrefix): Operation[] {
  const { mnemonic, map, opcode, compute, count = false } = operation;
  return bothEncodings(mnemonic, map, opcode, prefix, {
    run(context, instruction) {
      const size = vectorSize(instruction);
      const legacy = instruction.encoding === 'legacy';
      const operand = vectorSource(context, instruction, count ? 16 : size, legacy);
      const second = count && size === 32 ? Uint8Array.of(...operand, ...operand) : operand;
      const first = firstSource(context, instruction, size);
      setVectorReg(context, instruction, byLane(compute, first, second, immediateByte(instruction)));
      return undefined;
    },
  });
}

/** destination = f(r/m), lane by lane. */
function unary(
  mnemonic: string,
  map: OpcodeMap,
  opcode: number,
  prefix: MandatoryPrefix,
  compute: (a: Uint8Array, immediate: number) => Uint8Array,
  only128 = false,
): Operation[] {
  return bothEncodings(mnemonic, map, opcode, prefix, {
    run(context, instruction) {
      requireNoSecondSource(instruction);
      if (only128) require128(instruction);
      const legacy = instruction.encoding === 'legacy';
      const source = vectorSource(context, instruction, vectorSize(instruction), legacy);
      const lane: LaneFunction = (a, _b, immediate) => compute(a, immediate);
      setVectorReg(context, instruction, byLane(lane, source, source, immediateByte(instruction)));
      return undefined;
    },
  });
}

/** Shift of r/m by an immediate; the destination is r/m, or VEX.vvvv. */
function shiftImmediate(mnemonic: string, opcode: number, group: number, compute: LaneFunction): Operation[] {
  return bothEncodings(mnemonic, 1, opcode, 1, {
    group,
    form: 'register',
    run(context, instruction) {
      const size = vectorSize(instruction);
      const amount = new Uint8Array(size);
      for (let at = 0; at < size; at += 16) amount[at] = immediateByte(instruction);
      const value = byLane(compute, context.vectors.get(instruction.rm, size), amount, 0);
      const vex = instruction.encoding === 'vex';
      context.vectors.set(vex ? instruction.vvvv : instruction.rm, value, vex);
      return undefined;
    },
  });
}

const shiftBytes =
  (direction: 1 | -1): LaneFunction =>
  (a, b) =>
    a.map((_, i) => a[i - direction * Math.min(b[0], 16)] ?? 0);

/** PMOVSX and PMOVZX: `from` and `to` are element sizes in bytes. */
function widen(mnemonic: string, opcode: number, from: number, to: number, signed: boolean): Operation[] {
  return bothEncodings(mnemonic, 2, opcode, 1, {
    run(context, instruction) {
      requireNoSecondSource(instruction);
      const size = vectorSize(instruction);
      const source = vectorSource(context, instruction, (size * from) / to, false);
      const out = new Uint8Array(size);
      for (let i = 0; i < size / to; i++) {
        out.set(source.subarray(i * from, (i + 1) * from), i * to);
        if (signed && source[(i + 1) * from - 1] & 0x80) out.fill(0xff, i * to + from, (i + 1) * to);
      }
      setVectorReg(context, instruction, out);
      return undefined;
    },
  });
}

/** PMOVMSKB, MOVMSKPS, MOVMSKPD: sign bits of elements of `size` bytes. */
function signMask(mnemonic: string, opcode: number, prefix: MandatoryPrefix, size: number): Operation[] {
  return bothEncodings(mnemonic, 1, opcode, prefix, {
    form: 'register',
    run(context, instruction) {
      requireNoSecondSource(instruction);
      const value = context.vectors.get(instruction.rm, vectorSize(instruction));
      let mask = 0n;
      for (let i = 0; i < value.length / size; i++) {
        if (value[(i + 1) * size - 1] & 0x80) mask |= 1n << BigInt(i);
      }
      context.setGpr(instruction.reg, 8, mask);
      return undefined;
    },
  });
}

/** PINSRx: an integer from r/m into an element. */
function insert(
  mnemonic: string,
  map: OpcodeMap,
  opcode: number,
  sizeOf: (w: boolean) => number,
): Operation[] {
  return bothEncodings(mnemonic, map, opcode, 1, {
    run(context, instruction) {
      require128(instruction);
      const size = sizeOf(instruction.w && context.width === 64);
      const at = (immediateByte(instruction) % (16 / size)) * size;
      const integer =
        instruction.memory === undefined ? context.gpr(instruction.rm, 8) : context.rm(instruction, size);
      const value = firstSource(context, instruction, 16);
      for (let i = 0; i < size; i++) value[at + i] = Number((integer >> BigInt(8 * i)) & 0xffn);
      setVectorReg(context, instruction, value);
      return undefined;
    },
  });
}

/** PEXTRx: an element to r/m; a register is zero-extended. */
function extract(mnemonic: string, opcode: number, sizeOf: (w: boolean) => number): Operation[] {
  return bothEncodings(mnemonic, 3, opcode, 1, {
    run(context, instruction) {
      requireNoSecondSource(instruction);
      require128(instruction);
      const size = sizeOf(instruction.w && context.width === 64);
      const at = (immediateByte(instruction) % (16 / size)) * size;
      const value = elementAt(context.vectors.get(instruction.reg, 16), at, size);
      context.setRm(instruction, instruction.memory === undefined ? 8 : size, value);
      return undefined;
    },
  });
}

function elementAt(bytes: Uint8Array, at: number, size: number): bigint {
  return bytes.slice(at, at + size).reduceRight((value, byte) => (value << 8n) | BigInt(byte), 0n);
}

const words = (lane: Uint8Array, immediate: number, high: boolean): Uint8Array => {
  const picked = selectors(immediate).map((i) => i + (high ? 4 : 0));
  return shuffle(lane, 2, high ? [0, 1, 2, 3, ...picked] : [...picked, 4, 5, 6, 7]);
};
const absolute = (element: 's8' | 's16' | 's32') => (a: Uint8Array) =>
  mapElements(element, a, a, (x) => Math.abs(x));

const TEST: readonly Operation[] = bothEncodings('ptest', 2, 0x17, 1, {
  run(context, instruction) {
    requireNoSecondSource(instruction);
    const size = vectorSize(instruction);
    const a = context.vectors.get(instruction.reg, size);
    const b = vectorSource(context, instruction, size, instruction.encoding === 'legacy');
    const ZF = a.every((byte, i) => (byte & b[i]) === 0);
    const CF = a.every((byte, i) => (~byte & b[i]) === 0);
    context.setFlags({ ZF, CF, AF: false, OF: false, PF: false, SF: false });
    return undefined;
  },
});

/** PBLENDVB, BLENDVPS, BLENDVPD: XMM0 decides, by the sign of each element of `size` bytes. */
function blendByMask(mnemonic: string, opcode: number, size: number): Operation {
  const [legacy] = bothEncodings(mnemonic, 2, opcode, 1, {
    run(context, instruction) {
      const mask = context.vectors.get(0, 16);
      const value = context.vectors.get(instruction.reg, 16);
      const other = vectorSource(context, instruction, 16, true);
      for (let i = 0; i < 16; i++) if (mask[i - (i % size) + size - 1] & 0x80) value[i] = other[i];
      setVectorReg(context, instruction, value);
      return undefined;
    },
  });
  return legacy;
}

/** PEXTRW in its SSE2 form, register to register. */
const EXTRACT_WORD = bothEncodings('pextrw', 1, 0xc5, 1, {
  form: 'register',
  run(context, instruction) {
    requireNoSecondSource(instruction);
    require128(instruction);
    const at = (immediateByte(instruction) & 7) * 2;
    context.setGpr(instruction.reg, 8, elementAt(context.vectors.get(instruction.rm, 16), at, 2));
    return undefined;
  },
});

const blend = (size: number): LaneFunction => {
  return (a, b, immediate) => a.map((byte, i) => ((immediate >> Math.floor(i / size)) & 1 ? b[i] : byte));
};

export const VECTORS: readonly Operation[] = [
  ...PREFIXED.flatMap((operation) => packed(operation, 1)),
  ...UNPREFIXED.flatMap((operation) => packed(operation, 0)),
  ...packed({ mnemonic: 'blendps', map: 3, opcode: 0x0c, compute: blend(4) }, 1).slice(0, 1),
  ...packed({ mnemonic: 'blendpd', map: 3, opcode: 0x0d, compute: blend(8) }, 1).slice(0, 1),
  ...unary('pshufd', 1, 0x70, 1, (a, immediate) => shuffle(a, 4, selectors(immediate))),
  ...unary('pshufhw', 1, 0x70, 2, (a, immediate) => words(a, immediate, true)),
  ...unary('pshuflw', 1, 0x70, 3, (a, immediate) => words(a, immediate, false)),
  ...unary('pabsb', 2, 0x1c, 1, absolute('s8')),
  ...unary('pabsw', 2, 0x1d, 1, absolute('s16')),
  ...unary('pabsd', 2, 0x1e, 1, absolute('s32')),
  ...unary('aesimc', 2, 0xdb, 1, aesimc, true),
  ...unary('aeskeygenassist', 3, 0xdf, 1, aeskeygenassist, true),
  ...unary(
    'phminposuw',
    2,
    0x41,
    1,
    (a) => {
      const values = [...elements(a, 'u16')];
      const least = Math.min(...values);
      return new Uint8Array(Uint16Array.of(least, values.indexOf(least), 0, 0, 0, 0, 0, 0).buffer);
    },
    true,
  ),
  ...shiftImmediate('psrlw', 0x71, 2, shift(16, 'right')),
  ...shiftImmediate('psraw', 0x71, 4, shift(16, 'arithmetic')),
  ...shiftImmediate('psllw', 0x71, 6, shift(16, 'left')),
  ...shiftImmediate('psrld', 0x72, 2, shift(32, 'right')),
  ...shiftImmediate('psrad', 0x72, 4, shift(32, 'arithmetic')),
  ...shiftImmediate('pslld', 0x72, 6, shift(32, 'left')),
  ...shiftImmediate('psrlq', 0x73, 2, shift(64, 'right')),
  ...shiftImmediate('psrldq', 0x73, 3, shiftBytes(-1)),
  ...shiftImmediate('psllq', 0x73, 6, shift(64, 'left')),
  ...shiftImmediate('pslldq', 0x73, 7, shiftBytes(1)),
  ...widen('pmovsxbw', 0x20, 1, 2, true),
  ...widen('pmovsxbd', 0x21, 1, 4, true),
  ...widen('pmovsxbq', 0x22, 1, 8, true),
  ...widen('pmovsxwd', 0x23, 2, 4, true),
  ...widen('pmovsxwq', 0x24, 2, 8, true),
  ...widen('pmovsxdq', 0x25, 4, 8, true),
  ...widen('pmovzxbw', 0x30, 1, 2, false),
  ...widen('pmovzxbd', 0x31, 1, 4, false),
  ...widen('pmovzxbq', 0x32, 1, 8, false),
  ...widen('pmovzxwd', 0x33, 2, 4, false),
  ...widen('pmovzxwq', 0x34, 2, 8, false),
  ...widen('pmovzxdq', 0x35, 4, 8, false),
  ...signMask('pmovmskb', 0xd7, 1, 1),
  ...signMask('movmskps', 0x50, 0, 4),
  ...signMask('movmskpd', 0x50, 1, 8),
  ...insert('pinsrb', 3, 0x20, () => 1),
  ...insert('pinsrw', 1, 0xc4, () => 2),
  ...insert('pinsrd', 3, 0x22, (w) => (w ? 8 : 4)),
  ...extract('pextrb', 0x14, () => 1),
  ...extract('pextrw', 0x15, () => 2),
  ...extract('pextrd', 0x16, (w) => (w ? 8 : 4)),
  ...extract('extractps', 0x17, () => 4),
  ...EXTRACT_WORD,
  ...TEST,
  blendByMask('pblendvb', 0x10, 1),
  blendByMask('blendvps', 0x14, 4),
  blendByMask('blendvpd', 0x15, 8),
];
