/** Instructions that only AVX and AVX2 have: lane permutations, broadcasts, variable shifts (Intel SDM vol. 2). */
import type { AssistContext } from './context.ts';
import type { Instruction, MandatoryPrefix, OpcodeMap } from './decode.ts';
import { undefinedOpcode } from './fault.ts';
import { elements, mapElements, mapQuads, selectors, shuffle } from './lanes.ts';
import type { Operation, Outcome } from './operation.ts';
import {
  immediateByte,
  requireNoSecondSource,
  setVectorReg,
  setVectorRm,
  vectorSize,
  vectorSource,
} from './vector-operands.ts';

function vex(
  mnemonic: string,
  map: OpcodeMap,
  opcode: number,
  run: (context: AssistContext, instruction: Instruction) => Outcome | undefined,
  options: { prefix?: MandatoryPrefix; w?: boolean; form?: 'register' | 'memory' } = {},
): Operation {
  return {
    mnemonic,
    encoding: 'vex',
    map,
    opcode,
    prefix: options.prefix ?? 1,
    w: options.w,
    form: options.form,
    run(context, instruction) {
      context.requireAvx();
      return run(context, instruction);
    },
  };
}

function require256(instruction: Instruction): void {
  if (!instruction.l) throw undefinedOpcode();
}

/** destination = f(VEX.vvvv, r/m, immediate) over the whole register. */
function binary(
  mnemonic: string,
  map: OpcodeMap,
  opcode: number,
  compute: (a: Uint8Array, b: Uint8Array, immediate: number) => Uint8Array,
  options: { w?: boolean; only256?: boolean } = {},
): Operation {
  return vex(
    mnemonic,
    map,
    opcode,
    (context, instruction) => {
      if (options.only256) require256(instruction);
      const size = vectorSize(instruction);
      const a = context.vectors.get(instruction.vvvv, size);
      const b = vectorSource(context, instruction, size, false);
      setVectorReg(context, instruction, compute(a, b, immediateByte(instruction)));
      return undefined;
    },
    options,
  );
}

/** A broadcast of the lowest `size` bytes of r/m. */
function broadcast(
  mnemonic: string,
  opcode: number,
  size: number,
  options: { form?: 'memory'; only256?: boolean } = {},
): Operation {
  return vex(
    mnemonic,
    2,
    opcode,
    (context, instruction) => {
      requireNoSecondSource(instruction);
      if (options.only256) require256(instruction);
      const source = vectorSource(context, instruction, size, false);
      const width = vectorSize(instruction);
      setVectorReg(context, instruction, shuffle(source, size, new Array(width / size).fill(0)));
      return undefined;
    },
    { w: false, form: options.form },
  );
}

/** VPERMQ and VPERMPD: four quadwords by an immediate. */
function permuteQuads(mnemonic: string, opcode: number): Operation {
  return vex(
    mnemonic,
    3,
    opcode,
    (context, instruction) => {
      requireNoSecondSource(instruction);
      require256(instruction);
      const source = vectorSource(context, instruction, 32, false);
      setVectorReg(context, instruction, shuffle(source, 8, selectors(immediateByte(instruction))));
      return undefined;
    },
    { w: true },
  );
}

/** VPERM2I128 and VPERM2F128: two of four lanes, or zero. */
const permuteLanes = (a: Uint8Array, b: Uint8Array, immediate: number): Uint8Array => {
  const lanes = [a.slice(0, 16), a.slice(16), b.slice(0, 16), b.slice(16)];
  const pick = (control: number) => (control & 8 ? new Uint8Array(16) : lanes[control & 3]);
  return Uint8Array.of(...pick(immediate), ...pick(immediate >> 4));
};

function insertLane(mnemonic: string, opcode: number): Operation {
  return vex(
    mnemonic,
    3,
    opcode,
    (context, instruction) => {
      require256(instruction);
      const value = context.vectors.get(instruction.vvvv, 32);
      value.set(vectorSource(context, instruction, 16, false), (immediateByte(instruction) & 1) * 16);
      setVectorReg(context, instruction, value);
      return undefined;
    },
    { w: false },
  );
}

function extractLane(mnemonic: string, opcode: number): Operation {
  return vex(
    mnemonic,
    3,
    opcode,
    (context, instruction) => {
      requireNoSecondSource(instruction);
      require256(instruction);
      const at = (immediateByte(instruction) & 1) * 16;
      setVectorRm(context, instruction, context.vectors.get(instruction.reg, 32).slice(at, at + 16), false);
      return undefined;
    },
    { w: false },
  );
}

const select =
  (size: number) =>
  (a: Uint8Array, b: Uint8Array, immediate: number): Uint8Array =>
    a.map((byte, i) => ((immediate >> Math.floor(i / size)) & 1 ? b[i] : byte));

/** VPBLENDVB and VBLENDVPx: the mask is the register in the immediate's upper half. */
function blendByRegister(mnemonic: string, opcode: number, size: number): Operation {
  return vex(
    mnemonic,
    3,
    opcode,
    (context, instruction) => {
      const width = vectorSize(instruction);
      const mask = context.vectors.get(
        (immediateByte(instruction) >> 4) & (context.width === 64 ? 15 : 7),
        width,
      );
      const value = context.vectors.get(instruction.vvvv, width);
      const other = vectorSource(context, instruction, width, false);
      for (let i = 0; i < width; i++) if (mask[i - (i % size) + size - 1] & 0x80) value[i] = other[i];
      setVectorReg(context, instruction, value);
      return undefined;
    },
    { w: false },
  );
}

/** VZEROUPPER and VZEROALL. */
const ZERO: Operation = vex(
  'vzeroupper',
  1,
  0x77,
  (context, instruction) => {
    requireNoSecondSource(instruction);
    const count = context.width === 64 ? 16 : 8;
    for (let i = 0; i < count; i++) {
      const value = instruction.l ? new Uint8Array(16) : context.vectors.get(i, 16);
      context.vectors.set(i, value, true);
    }
    return undefined;
  },
  { prefix: 0 },
);

const shifts = (compute: (x: bigint, count: bigint) => bigint) => (a: Uint8Array, b: Uint8Array) =>
  mapQuads(a, b, compute);

export const AVX: readonly Operation[] = [
  ZERO,
  broadcast('vpbroadcastb', 0x78, 1),
  broadcast('vpbroadcastw', 0x79, 2),
  broadcast('vpbroadcastd', 0x58, 4),
  broadcast('vpbroadcastq', 0x59, 8),
  broadcast('vbroadcasti128', 0x5a, 16, { form: 'memory', only256: true }),
  broadcast('vbroadcastss', 0x18, 4),
  broadcast('vbroadcastsd', 0x19, 8, { only256: true }),
  broadcast('vbroadcastf128', 0x1a, 16, { form: 'memory', only256: true }),
  permuteQuads('vpermq', 0x00),
  permuteQuads('vpermpd', 0x01),
  binary(
    'vpermd',
    2,
    0x36,
    (a, b) =>
      shuffle(
        b,
        4,
        [...elements(a, 'u32')].map((i) => i & 7),
      ),
    {
      w: false,
      only256: true,
    },
  ),
  binary('vperm2f128', 3, 0x06, permuteLanes, { w: false, only256: true }),
  binary('vperm2i128', 3, 0x46, permuteLanes, { w: false, only256: true }),
  insertLane('vinsertf128', 0x18),
  insertLane('vinserti128', 0x38),
  extractLane('vextractf128', 0x19),
  extractLane('vextracti128', 0x39),
  binary('vpblendd', 3, 0x02, select(4), { w: false }),
  binary('vblendps', 3, 0x0c, select(4)),
  binary('vblendpd', 3, 0x0d, select(8)),
  blendByRegister('vblendvps', 0x4a, 4),
  blendByRegister('vblendvpd', 0x4b, 8),
  blendByRegister('vpblendvb', 0x4c, 1),
  binary('vpsrlvd', 2, 0x45, (a, b) => mapElements('u32', a, b, (x, n) => (n > 31 ? 0 : x >>> n)), {
    w: false,
  }),
  binary('vpsravd', 2, 0x46, (a, b) => mapElements('s32', a, b, (x, n) => x >> (n < 0 || n > 31 ? 31 : n)), {
    w: false,
  }),
  binary('vpsllvd', 2, 0x47, (a, b) => mapElements('u32', a, b, (x, n) => (n > 31 ? 0 : x << n)), {
    w: false,
  }),
  binary(
    'vpsrlvq',
    2,
    0x45,
    shifts((x, n) => (n > 63n ? 0n : x >> n)),
    { w: true },
  ),
  binary(
    'vpsllvq',
    2,
    0x47,
    shifts((x, n) => (n > 63n ? 0n : x << n)),
    { w: true },
  ),
];
