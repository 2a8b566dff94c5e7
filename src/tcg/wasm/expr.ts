/**
 * Typed WebAssembly expressions as trees. An {@link Expr} is a recipe, not a value: using it twice computes it twice.
 * Bind it to a local (FunctionBuilder.let) to use it more than once.
 */
import { CONVERT, LANE, LOAD, type LoadOp, NUMERIC, VALUE_TYPE, type ValueType, VECTOR } from './opcodes.ts';
import type { Sink } from './sink.ts';

/** An expression or a constant of the type the context wants. */
export type Operand = Expr | number | bigint;

/** Writes an opcode that may have a prefix byte (0xFC, 0xFD, 0xFE). */
export function writeOpcode(sink: Sink, opcode: number): void {
  if (opcode > 0xff) {
    sink.byte(opcode >> 8);
    sink.u32(opcode & 0xff);
  } else sink.byte(opcode);
}

const OPERAND_OF: Readonly<Record<string, ValueType>> = { i32: 'i32', i64: 'i64', f32: 'f32', f64: 'f64' };

/** An expression of one type. */
export class Expr {
  readonly type: ValueType;
  readonly write: (sink: Sink) => void;
  /** The value when it is a constant integer, as the type's signed number. */
  readonly constant: bigint | undefined;

  constructor(type: ValueType, write: (sink: Sink) => void, constant?: bigint) {
    this.type = type;
    this.write = write;
    this.constant = constant;
  }

  #binary(name: string, other: Operand, result: ValueType = this.type): Expr {
    const opcode = NUMERIC[this.type as 'i32'][name];
    const right = operand(this.type, other);
    if (this.constant !== undefined && right.constant !== undefined) {
      const folded = fold(name, this.type, this.constant, right.constant);
      if (folded !== undefined) return constant(this.type, folded);
    }
    if (right.constant === 0n && NEUTRAL_ZERO.has(name)) return this;
    return new Expr(result, (sink) => {
      this.write(sink);
      right.write(sink);
      sink.byte(opcode);
    });
  }

  #unary(name: string, result: ValueType = this.type): Expr {
    const opcode = NUMERIC[this.type as 'i32'][name];
    return new Expr(result, (sink) => {
      this.write(sink);
      sink.byte(opcode);
    });
  }

  add(other: Operand): Expr {
    return this.#binary('add', other);
  }
  sub(other: Operand): Expr {
    return this.#binary('sub', other);
  }
  mul(other: Operand): Expr {
    return this.#binary('mul', other);
  }
  div(other: Operand): Expr {
    return this.#binary('div', other);
  }
  div_s(other: Operand): Expr {
    return this.#binary('div_s', other);
  }
  div_u(other: Operand): Expr {
    return this.#binary('div_u', other);
  }
  rem_s(other: Operand): Expr {
    return this.#binary('rem_s', other);
  }
  rem_u(other: Operand): Expr {
    return this.#binary('rem_u', other);
  }
  and(other: Operand): Expr {
    return this.#binary('and', other);
  }
  or(other: Operand): Expr {
    return this.#binary('or', other);
  }
  xor(other: Operand): Expr {
    return this.#binary('xor', other);
  }
  shl(other: Operand): Expr {
    return this.#binary('shl', other);
  }
  shr_s(other: Operand): Expr {
    return this.#binary('shr_s', other);
  }
  shr_u(other: Operand): Expr {
    return this.#binary('shr_u', other);
  }
  rotl(other: Operand): Expr {
    return this.#binary('rotl', other);
  }
  rotr(other: Operand): Expr {
    return this.#binary('rotr', other);
  }
  not(): Expr {
    return this.xor(-1);
  }

  eq(other: Operand): Expr {
    return this.#binary('eq', other, 'i32');
  }
  ne(other: Operand): Expr {
    return this.#binary('ne', other, 'i32');
  }
  lt_s(other: Operand): Expr {
    return this.#binary('lt_s', other, 'i32');
  }
  lt_u(other: Operand): Expr {
    return this.#binary('lt_u', other, 'i32');
  }
  gt_s(other: Operand): Expr {
    return this.#binary('gt_s', other, 'i32');
  }
  gt_u(other: Operand): Expr {
    return this.#binary('gt_u', other, 'i32');
  }
  le_s(other: Operand): Expr {
    return this.#binary('le_s', other, 'i32');
  }
  le_u(other: Operand): Expr {
    return this.#binary('le_u', other, 'i32');
  }
  ge_s(other: Operand): Expr {
    return this.#binary('ge_s', other, 'i32');
  }
  ge_u(other: Operand): Expr {
    return this.#binary('ge_u', other, 'i32');
  }
  lt(other: Operand): Expr {
    return this.#binary('lt', other, 'i32');
  }
  gt(other: Operand): Expr {
    return this.#binary('gt', other, 'i32');
  }
  le(other: Operand): Expr {
    return this.#binary('le', other, 'i32');
  }
  ge(other: Operand): Expr {
    return this.#binary('ge', other, 'i32');
  }
  eqz(): Expr {
    return this.#unary('eqz', 'i32');
  }

  clz(): Expr {
    return this.#unary('clz');
  }
  ctz(): Expr {
    return this.#unary('ctz');
  }
  popcnt(): Expr {
    return this.#unary('popcnt');
  }
  neg(): Expr {
    return this.#unary('neg');
  }
  abs(): Expr {
    return this.#unary('abs');
  }
  sqrt(): Expr {
    return this.#unary('sqrt');
  }
  nearest(): Expr {
    return this.#unary('nearest');
  }
  floor(): Expr {
    return this.#unary('floor');
  }
  ceil(): Expr {
    return this.#unary('ceil');
  }
  trunc(): Expr {
    return this.#unary('trunc');
  }

  /** Sign-extends from the low `bytes` bytes (1, 2, 4; 8 is the value itself). */
  signed(bytes: number): Expr {
    return bytes === 8 || (bytes === 4 && this.type === 'i32') ? this : this.#unary(`extend${bytes * 8}_s`);
  }

  /** Keeps the low `bytes` bytes of an i64. */
  low(bytes: number): Expr {
    return bytes === 8 ? this : this.and((1n << BigInt(bytes * 8)) - 1n);
  }

  wrap(): Expr {
    return this.constant === undefined
      ? this.convert('i32.wrap_i64')
      : constant('i32', BigInt.asIntN(32, this.constant));
  }
  /** i32 to i64 without sign. */
  wide(): Expr {
    return this.constant === undefined
      ? this.convert('i64.extend_i32_u')
      : constant('i64', BigInt.asUintN(32, this.constant));
  }

  convert(name: keyof typeof CONVERT): Expr {
    return new Expr(name.slice(0, 3) as ValueType, (sink) => {
      this.write(sink);
      writeOpcode(sink, CONVERT[name]);
    });
  }

  /** A vector operator with this as its first operand. */
  vector(name: string, ...others: Expr[]): Expr {
    return vector(name, this, ...others);
  }

  /** Reads a lane. */
  lane(shape: 'i8x16' | 'i16x8' | 'i32x4' | 'i64x2' | 'f32x4' | 'f64x2', index: number): Expr {
    const name = `${shape}.extract_lane${shape === 'i8x16' || shape === 'i16x8' ? '_u' : ''}`;
    const type = { i8x16: 'i32', i16x8: 'i32', i32x4: 'i32', i64x2: 'i64', f32x4: 'f32', f64x2: 'f64' }[
      shape
    ];
    return new Expr(type as ValueType, (sink) => {
      this.write(sink);
      simd(sink, LANE[name]);
      sink.byte(index);
    });
  }

  /** The vector with one lane replaced. */
  withLane(shape: string, index: number, value: Expr): Expr {
    return new Expr('v128', (sink) => {
      this.write(sink);
      value.write(sink);
      simd(sink, LANE[`${shape}.replace_lane`]);
      sink.byte(index);
    });
  }

  /** i8x16.shuffle: bytes by number, 0 to 15 from this, 16 to 31 from the other. */
  shuffle(other: Expr, lanes: readonly number[]): Expr {
    return new Expr('v128', (sink) => {
      this.write(sink);
      other.write(sink);
      simd(sink, 13);
      sink.bytes(lanes);
    });
  }
}

function simd(sink: Sink, opcode: number): void {
  sink.byte(0xfd);
  sink.u32(opcode);
}

const NEUTRAL_ZERO = new Set(['add', 'sub', 'or', 'xor', 'shl', 'shr_s', 'shr_u']);

function fold(name: string, type: ValueType, a: bigint, b: bigint): bigint | undefined {
  const bits = type === 'i64' ? 64 : 32;
  const shift = BigInt.asUintN(bits, b) % BigInt(bits);
  switch (name) {
    case 'add':
      return a + b;
    case 'sub':
      return a - b;
    case 'and':
      return a & b;
    case 'or':
      return a | b;
    case 'xor':
      return a ^ b;
    case 'shl':
      return a << shift;
    case 'shr_u':
      return BigInt.asUintN(bits, a) >> shift;
    default:
      return undefined;
  }
}

/** An integer or float constant. */
export function constant(type: ValueType, value: number | bigint): Expr {
  switch (type) {
    case 'i32': {
      const k = BigInt.asIntN(32, BigInt(value));
      return new Expr(
        type,
        (sink) => {
          sink.byte(0x41);
          sink.s32(Number(k));
        },
        k,
      );
    }
    case 'i64': {
      const k = BigInt.asIntN(64, BigInt(value));
      return new Expr(
        type,
        (sink) => {
          sink.byte(0x42);
          sink.s64(k);
        },
        k,
      );
    }
    case 'f32':
      return new Expr(type, (sink) => {
        sink.byte(0x43);
        sink.f32(Number(value));
      });
    case 'f64':
      return new Expr(type, (sink) => {
        sink.byte(0x44);
        sink.f64(Number(value));
      });
    case 'v128': {
      const low = BigInt.asUintN(128, BigInt(value));
      const bytes = Array.from({ length: 16 }, (_, i) => Number((low >> BigInt(i * 8)) & 0xffn));
      return new Expr(type, (sink) => {
        simd(sink, 12);
        sink.bytes(bytes);
      });
    }
  }
}

export const i32 = (value: number | bigint) => constant('i32', value);
export const i64 = (value: number | bigint) => constant('i64', value);
export const f32 = (value: number) => constant('f32', value);
export const f64 = (value: number) => constant('f64', value);
/** A vector constant from its 128 bits. */
export const v128 = (value: bigint) => constant('v128', value);

/** An operand as an expression. */
export function operand(type: ValueType, value: Operand): Expr {
  return value instanceof Expr ? value : constant(type, value);
}

/** Any vector operator by its text name; the result type follows from the name. */
export function vector(name: string, ...operands: Expr[]): Expr {
  const opcode = VECTOR[name];
  if (opcode === undefined) throw new RangeError(`unknown vector operator ${name}`);
  const scalar = /bitmask|all_true|any_true/.test(name);
  return new Expr(scalar ? 'i32' : 'v128', (sink) => {
    for (const value of operands) value.write(sink);
    simd(sink, opcode);
  });
}

/** Loads from linear memory at `address + offset`. */
export function load(op: LoadOp, address: Operand, offset = 0): Expr {
  const [opcode, align] = LOAD[op];
  const at = operand('i32', address);
  // A constant address becomes part of the offset.
  const base = at.constant === undefined ? at : constant('i32', 0);
  const total = offset + (at.constant === undefined ? 0 : Number(BigInt.asUintN(32, at.constant)));
  const type = (op.slice(0, 4) === 'v128' ? 'v128' : OPERAND_OF[op.slice(0, 3)]) as ValueType;
  // Atomic accesses must state their natural alignment; the others may be unaligned.
  const hint = opcode >> 8 === 0xfe ? align : 0;
  return new Expr(type, (sink) => {
    base.write(sink);
    writeOpcode(sink, opcode);
    sink.u32(hint);
    sink.u32(total);
  });
}

/** Chooses by an i32 condition; both values are computed. */
export function select(condition: Expr, whenTrue: Expr, whenFalse: Expr): Expr {
  return new Expr(whenTrue.type, (sink) => {
    whenTrue.write(sink);
    whenFalse.write(sink);
    condition.write(sink);
    if (whenTrue.type === 'v128') {
      sink.byte(0x1c);
      sink.u32(1);
      sink.byte(VALUE_TYPE.v128);
    } else sink.byte(0x1b);
  });
}
