/** What the decoder must know of an encoding, in numbers: text and nested objects are too slow to look at so often. */
import type { Encoding } from '../table/instruction.ts';

/** What is demanded of ModRM.mod, and of the code segment's width. */
export const ANY = 0;
export const MEMORY = 1;
export const LONG = 1;

/** How the operand size follows (SDM vol. 2A 2.2.1, table 3-4 of vol. 1). */
export const SIZE_FROM = {
  /** It is that of the first operand. */
  operand: 0,
  /** Prefixes and REX.W. */
  prefixes: 1,
  /** Likewise; 64 bits is the default in 64-bit mode. */
  default64: 2,
  /** Always 64 bits in 64-bit mode. */
  force64: 3,
  /** 32 bits, or 64 with REX.W. */
  rexW: 4,
} as const;

/** How many bytes an immediate has; beyond these, its own number of bytes. */
export const IMMEDIATE_SIZE = { operand: 0, upTo4: 3 } as const;

/** Operand letters by code point. */
export const LETTER = Object.fromEntries(Array.from('ERGZABWUVQNPSTKI1OFXJM', (c) => [c, c.charCodeAt(0)]));

const FIXED_SIZES: Readonly<Record<string, number>> = { w: 2, d: 4, q: 8, x: 16 };
/** Their memory operand is at a fixed register, or its address size counts. */
const FIXED_ADDRESS: ReadonlySet<string> = new Set(['xlat', 'maskmovq', 'maskmovdqu']);

/** An encoding as the decoder sees it. */
export class Plan {
  readonly encoding: Encoding;
  readonly hasModrm: boolean;
  readonly prefix: number;
  readonly exact: number;
  readonly extension: number;
  /** 0: any, 1: memory, 2: register. */
  readonly mod: number;
  readonly w: number;
  /** 0: any, 1: 64-bit mode, 2: the others. */
  readonly validIn: number;
  /** One of SIZE_FROM, and the size if it is the operand's. */
  readonly sizeFrom: number;
  readonly fixedSize: number;
  /** Letters of the operands, as code points, and whether they are bytes. */
  readonly letters: readonly number[];
  readonly isByte: readonly boolean[];
  /** For operands that are immediates: IMMEDIATE_SIZE or 1, 2. */
  readonly immediateSizes: readonly number[];
  readonly hasImmediates: boolean;
  readonly isAbsolute: boolean;
  readonly isEnter: boolean;
  readonly isFixedAddress: boolean;
  readonly isExchange: boolean;
  readonly isVex: boolean;
  readonly isLockable: boolean;
  readonly ends: boolean;
  readonly units: number;
  readonly handlers: Int32Array;

  constructor(encoding: Encoding) {
    const { instruction, operands } = encoding;
    this.encoding = encoding;
    this.hasModrm = encoding.modrm;
    this.prefix = encoding.prefix;
    this.exact = encoding.exact;
    this.extension = encoding.extension;
    this.mod = encoding.mod === 'any' ? ANY : encoding.mod === 'memory' ? MEMORY : 2;
    this.w = encoding.w;
    this.validIn = encoding.validIn === 'any' ? ANY : encoding.validIn === 'long' ? LONG : 2;
    this.sizeFrom = sizeFrom(encoding);
    this.fixedSize = FIXED_SIZES[operands[0]?.size ?? ''] ?? 1;
    this.letters = operands.map(({ letter }) => letter.charCodeAt(0));
    this.isByte = operands.map(({ size }) => size === 'b');
    this.immediateSizes = operands.map(({ size }) =>
      size === 'b' || size === 's'
        ? 1
        : size === 'w'
          ? 2
          : size === 'v'
            ? IMMEDIATE_SIZE.operand
            : IMMEDIATE_SIZE.upTo4,
    );
    this.hasImmediates = operands.some(({ letter }) => 'IJOF'.includes(letter));
    this.isAbsolute = operands.some(({ letter }) => letter === 'O');
    this.isEnter = operands.length === 2 && operands[0].letter === 'I';
    this.isFixedAddress = FIXED_ADDRESS.has(instruction.name);
    this.isExchange = instruction.name === 'xchg';
    this.isVex = encoding.vex;
    this.isLockable = instruction.lock === true;
    this.ends = instruction.ends === true;
    this.units = encoding.units;
    this.handlers = encoding.handlers;
  }
}

function sizeFrom({ operands, defaultSize }: Encoding): number {
  if (defaultSize === 'f64') return SIZE_FROM.force64;
  if (defaultSize === 'd64') return SIZE_FROM.default64;
  if (operands.some(({ size }) => size === 'v' || size === 'z')) return SIZE_FROM.prefixes;
  return operands.some(({ size }) => size === 'y') ? SIZE_FROM.rexW : SIZE_FROM.operand;
}
