/** SSE and AVX data movement (Intel SDM vol. 2, MOVAPS ... MOVNTDQA). */
import type { AssistContext } from './context.ts';
import type { Instruction, MandatoryPrefix, OpcodeMap } from './decode.ts';
import { undefinedOpcode } from './fault.ts';
import { shuffle } from './lanes.ts';
import type { Operation } from './operation.ts';
import {
  bothEncodings,
  byLane,
  firstSource,
  require128,
  requireNoSecondSource,
  setVectorReg,
  setVectorRm,
  vectorSize,
  vectorSource,
} from './vector-operands.ts';

/** Whole registers, r/m to reg. */
function load(
  mnemonic: string,
  opcode: number,
  prefix: MandatoryPrefix,
  aligned: boolean,
  options: { map?: OpcodeMap; form?: 'memory' } = {},
) {
  return bothEncodings(mnemonic, options.map ?? 1, opcode, prefix, {
    form: options.form,
    run(context, instruction) {
      requireNoSecondSource(instruction);
      setVectorReg(
        context,
        instruction,
        vectorSource(context, instruction, vectorSize(instruction), aligned),
      );
      return undefined;
    },
  });
}

/** Whole registers, reg to r/m. */
function store(mnemonic: string, opcode: number, prefix: MandatoryPrefix, aligned: boolean, form?: 'memory') {
  return bothEncodings(mnemonic, 1, opcode, prefix, {
    form,
    run(context, instruction) {
      requireNoSecondSource(instruction);
      setVectorRm(
        context,
        instruction,
        context.vectors.get(instruction.reg, vectorSize(instruction)),
        aligned,
      );
      return undefined;
    },
  });
}

/** MOVSS and MOVSD: one element; from memory it zeroes the rest, between registers it leaves it. */
function scalar(mnemonic: string, prefix: MandatoryPrefix, size: 4 | 8): Operation[] {
  const merge = (context: AssistContext, instruction: Instruction, target: number, source: number) => {
    const value = context.vectors.get(instruction.encoding === 'vex' ? instruction.vvvv : target, 16);
    value.set(context.vectors.get(source, 16).subarray(0, size));
    context.vectors.set(target, value, instruction.encoding === 'vex');
  };
  return [
    ...bothEncodings(mnemonic, 1, 0x10, prefix, {
      run(context, instruction) {
        if (instruction.memory === undefined) {
          merge(context, instruction, instruction.reg, instruction.rm);
          return undefined;
        }
        requireNoSecondSource(instruction);
        const value = new Uint8Array(16);
        value.set(vectorSource(context, instruction, size, false));
        setVectorReg(context, instruction, value);
        return undefined;
      },
    }),
    ...bothEncodings(mnemonic, 1, 0x11, prefix, {
      run(context, instruction) {
        if (instruction.memory === undefined) {
          merge(context, instruction, instruction.rm, instruction.reg);
          return undefined;
        }
        requireNoSecondSource(instruction);
        setVectorRm(context, instruction, context.vectors.get(instruction.reg, 16).slice(0, size), false);
        return undefined;
      },
    }),
  ];
}

/**
 * MOVLPS, MOVHPS and the like: one quadword of a register from memory, or from the other half of a register.
 * @param half the destination's, 0 or 1
 */
function quadword(mnemonic: string, opcode: number, prefix: MandatoryPrefix, half: 0 | 1): Operation[] {
  return [
    ...bothEncodings(mnemonic, 1, opcode, prefix, {
      run(context, instruction) {
        if (instruction.memory === undefined && prefix !== 0) throw undefinedOpcode();
        require128(instruction);
        const value = firstSource(context, instruction, 16);
        if (instruction.memory !== undefined)
          value.set(vectorSource(context, instruction, 8, false), half * 8);
        else {
          // MOVHLPS and MOVLHPS take the half that the destination is not.
          const from = (1 - half) * 8;
          value.set(context.vectors.get(instruction.rm, 16).subarray(from, from + 8), half * 8);
        }
        setVectorReg(context, instruction, value);
        return undefined;
      },
    }),
    ...bothEncodings(mnemonic, 1, opcode + 1, prefix, {
      form: 'memory',
      run(context, instruction) {
        requireNoSecondSource(instruction);
        require128(instruction);
        const value = context.vectors.get(instruction.reg, 16).slice(half * 8, half * 8 + 8);
        setVectorRm(context, instruction, value, false);
        return undefined;
      },
    }),
  ];
}

/** MOVSLDUP, MOVSHDUP: copies of every other element. */
function duplicate(mnemonic: string, opcode: number, prefix: MandatoryPrefix, size: number, order: number[]) {
  return bothEncodings(mnemonic, 1, opcode, prefix, {
    run(context, instruction) {
      requireNoSecondSource(instruction);
      const width = vectorSize(instruction);
      const legacy = instruction.encoding === 'legacy';
      const narrow = mnemonic === 'movddup' && width === 16;
      const source = new Uint8Array(width);
      source.set(vectorSource(context, instruction, narrow ? 8 : width, legacy && !narrow));
      setVectorReg(
        context,
        instruction,
        byLane((lane) => shuffle(lane, size, order), source, source, 0),
      );
      return undefined;
    },
  });
}

const GENERAL: readonly Operation[] = [
  ...bothEncodings('movd', 1, 0x6e, 1, {
    run(context, instruction) {
      requireNoSecondSource(instruction);
      require128(instruction);
      const value = new Uint8Array(16);
      const size = instruction.w && context.width === 64 ? 8 : 4;
      new DataView(value.buffer).setBigUint64(0, context.rm(instruction, size), true);
      setVectorReg(context, instruction, value);
      return undefined;
    },
  }),
  ...bothEncodings('movd', 1, 0x7e, 1, {
    run(context, instruction) {
      requireNoSecondSource(instruction);
      require128(instruction);
      const value = context.vectors.get(instruction.reg, 16);
      const size = instruction.w && context.width === 64 ? 8 : 4;
      context.setRm(instruction, size, new DataView(value.buffer).getBigUint64(0, true));
      return undefined;
    },
  }),
  ...bothEncodings('movq', 1, 0x7e, 2, {
    run(context, instruction) {
      requireNoSecondSource(instruction);
      require128(instruction);
      const value = new Uint8Array(16);
      value.set(vectorSource(context, instruction, 8, false));
      setVectorReg(context, instruction, value);
      return undefined;
    },
  }),
  ...bothEncodings('movq', 1, 0xd6, 1, {
    run(context, instruction) {
      requireNoSecondSource(instruction);
      require128(instruction);
      const low = context.vectors.get(instruction.reg, 16).slice(0, 8);
      if (instruction.memory !== undefined) setVectorRm(context, instruction, low, false);
      else {
        const value = new Uint8Array(16);
        value.set(low);
        setVectorRm(context, instruction, value, false);
      }
      return undefined;
    },
  }),
];

export const MOVES: readonly Operation[] = [
  ...load('movups', 0x10, 0, false),
  ...load('movupd', 0x10, 1, false),
  ...store('movups', 0x11, 0, false),
  ...store('movupd', 0x11, 1, false),
  ...load('movaps', 0x28, 0, true),
  ...load('movapd', 0x28, 1, true),
  ...store('movaps', 0x29, 0, true),
  ...store('movapd', 0x29, 1, true),
  ...load('movdqa', 0x6f, 1, true),
  ...load('movdqu', 0x6f, 2, false),
  ...store('movdqa', 0x7f, 1, true),
  ...store('movdqu', 0x7f, 2, false),
  ...store('movntps', 0x2b, 0, true, 'memory'),
  ...store('movntpd', 0x2b, 1, true, 'memory'),
  ...store('movntdq', 0xe7, 1, true, 'memory'),
  ...load('movntdqa', 0x2a, 1, true, { map: 2, form: 'memory' }),
  ...load('lddqu', 0xf0, 3, false, { form: 'memory' }),
  ...scalar('movss', 2, 4),
  ...scalar('movsd', 3, 8),
  ...quadword('movlps', 0x12, 0, 0),
  ...quadword('movlpd', 0x12, 1, 0),
  ...quadword('movhps', 0x16, 0, 1),
  ...quadword('movhpd', 0x16, 1, 1),
  ...duplicate('movsldup', 0x12, 2, 4, [0, 0, 2, 2]),
  ...duplicate('movshdup', 0x16, 2, 4, [1, 1, 3, 3]),
  ...duplicate('movddup', 0x12, 3, 8, [0, 0]),
  ...GENERAL,
];
