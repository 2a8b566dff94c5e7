/**
 * Lazy arithmetic flags in two words, from which each flag follows without knowing the instruction that set them.
 *
 * - S.FLAG_RESULT: the sign-extended result. ZF: it is 0. SF: its sign. PF: parity of its low byte.
 * - S.FLAG_AUX: bit 63 CF; bit 62 CF xor OF; bit 3 AF; bit 0 flips SF; bits 8 to 15 are xored to the byte of PF.
 *   The last two let any combination of flags be represented (POPF).
 */
import { S } from '../layout.ts';
import { type Expr, type FunctionBuilder, load, type Operand } from '../wasm/index.ts';
import { FLAG } from './rflags.ts';

const AUX_CF_OF = 0xc000_0000_0000_0000n;

/** Arithmetic flags as single i64 values of 0 or 1. */
export interface FlagBits {
  cf: Expr;
  of: Expr;
  af?: Expr;
}

/** Writes and reads flags in a function; the vCPU's area is at `base`. */
export class Flags {
  readonly #f: FunctionBuilder;
  readonly #base: Expr;
  /** Computes the condition of an even code from what set the flags last, where that is simpler than from the words. */
  #direct: (pair: number) => Expr | undefined = () => undefined;
  /** Nothing is stored: what follows replaces all flags before anything can see them. */
  readonly #muted: boolean;

  constructor(f: FunctionBuilder, base: Expr, muted = false) {
    this.#muted = muted;
    this.#f = f;
    this.#base = base;
  }

  get result(): Expr {
    return load('i64.load', this.#base, S.FLAG_RESULT);
  }
  get aux(): Expr {
    return load('i64.load', this.#base, S.FLAG_AUX);
  }

  #set(result: Expr, aux: Operand): void {
    if (this.#muted) return;
    this.#f.store('i64.store', this.#base, result, S.FLAG_RESULT);
    this.#f.store('i64.store', this.#base, aux, S.FLAG_AUX);
  }

  /** Moves the carries out of the top two bits and out of bit 3 to their places. */
  #pack(carries: Expr, bytes: number): Expr {
    const c = this.#f.let(carries);
    return c
      .shl(64 - bytes * 8)
      .and(AUX_CF_OF)
      .or(c.and(8));
  }

  /** After r = a + b (+ carry). */
  add(a: Expr, b: Expr, r: Expr, bytes: number): void {
    this.#set(r.signed(bytes), this.#pack(a.and(b).or(a.or(b).and(r.not())), bytes));
  }

  /** After r = a - b (- borrow). */
  sub(a: Expr, b: Expr, r: Expr, bytes: number): void {
    this.#direct = (pair) => afterSub(pair, a, b, bytes);
    if (this.#muted) return;
    const na = this.#f.let(a.not());
    this.#set(r.signed(bytes), this.#pack(na.and(b).or(na.or(b).and(r)), bytes));
  }

  /** CF = OF = 0, AF is cleared. */
  logic(r: Expr, bytes: number): void {
    this.#direct = (pair) => afterLogic(pair, r, bytes);
    this.#set(r.signed(bytes), 0);
  }

  /** After r = a + 1 (delta 1) or a - 1 (delta -1): CF stays. */
  step(a: Expr, r: Expr, bytes: number, delta: 1 | -1): void {
    this.#direct = (pair) => (pair === PAIR.zero ? r.low(bytes).eqz() : undefined);
    const f = this.#f;
    const overflow = delta === 1 ? a.not().and(r) : a.and(r.not());
    const half = a.xor(r).shr_u(1).and(8);
    // OF is in bit 62 relative to CF; a carry out of bit 3 shows as bit 4 changing.
    const of = f.let(overflow.shr_u(bytes * 8 - 1).and(1));
    const cf = f.let(this.aux.shr_u(63));
    this.#set(r.signed(bytes), cf.shl(63).or(cf.xor(of).shl(62)).or(half));
  }

  /** Sets ZF, SF, PF by the result and the others to given bits. */
  set(r: Expr, bytes: number, { cf, of, af }: FlagBits): void {
    const c = this.#f.let(cf);
    const aux = c.shl(63).or(c.xor(of).shl(62));
    this.#set(r.signed(bytes), af === undefined ? aux : aux.or(af.shl(3)));
  }

  /** Replaces CF and OF only. */
  setCarryOverflow(cf: Expr, of: Expr): void {
    const c = this.#f.let(cf);
    this.#f.store(
      'i64.store',
      this.#base,
      this.aux.and(~AUX_CF_OF).or(c.shl(63)).or(c.xor(of).shl(62)),
      S.FLAG_AUX,
    );
  }

  /** Replaces CF only. */
  setCarry(cf: Expr): void {
    const of = this.#f.let(this.of);
    this.setCarryOverflow(cf, of);
  }

  /** Loads all six from an image of RFLAGS (i64). */
  load(image: Expr): void {
    const bit = (flag: number) => image.shr_u(Math.log2(flag)).and(1);
    const zero = this.#f.let(bit(FLAG.ZF));
    const c = this.#f.let(bit(FLAG.CF));
    // Result 0 or 1; its parity byte has none or one bit, so PDB is made to give the wanted parity.
    const parity = bit(FLAG.PF).xor(zero);
    this.#set(
      zero.xor(1),
      c
        .shl(63)
        .or(c.xor(bit(FLAG.OF)).shl(62))
        .or(bit(FLAG.AF).shl(3))
        .or(bit(FLAG.SF))
        .or(parity.shl(8)),
    );
  }

  /** ZF only in question: everything else is cleared. */
  onlyZero(value: Expr): void {
    const zero = this.#f.let(value.eqz().wide());
    this.#set(zero.xor(1), zero.shl(8));
  }

  get cf(): Expr {
    return this.aux.shr_u(63);
  }
  get of(): Expr {
    const aux = this.aux;
    return aux.xor(aux.shl(1)).shr_u(63);
  }
  get zf(): Expr {
    return this.result.eqz().wide();
  }
  get sf(): Expr {
    return this.result.shr_u(63).xor(this.aux.and(1));
  }
  get af(): Expr {
    return this.aux.shr_u(3).and(1);
  }
  /** Even parity of the low byte. */
  get pf(): Expr {
    return this.result.xor(this.aux.shr_u(8)).and(0xff).popcnt().and(1).xor(1);
  }

  /** The six flags as an image of RFLAGS (i64). */
  image(): Expr {
    return this.cf
      .or(this.pf.shl(2))
      .or(this.af.shl(4))
      .or(this.zf.shl(6))
      .or(this.sf.shl(7))
      .or(this.of.shl(11));
  }

  /** A condition code (SDM vol. 1 appendix B) as i32. */
  condition(code: number): Expr {
    const positive = this.#positive(code >> 1);
    return code & 1 ? positive.eqz() : positive;
  }

  /**
   * A condition right behind a CMP, SUB, TEST or DEC: computed from its operands where that is possible. They must be locals
   * that still have their values, and a subtraction must have been one without borrow.
   */
  conditionBehind(code: number): Expr {
    const positive = this.#direct(code >> 1) ?? this.#positive(code >> 1);
    return code & 1 ? positive.eqz() : positive;
  }

  #positive(pair: number): Expr {
    const { aux, result } = this;
    switch (pair) {
      case 0:
        return aux.xor(aux.shl(1)).lt_s(0);
      case 1:
        return aux.lt_s(0);
      case 2:
        return result.eqz();
      case 3:
        return aux.lt_s(0).or(result.eqz());
      case 4:
        return result.xor(aux.shl(63)).lt_s(0);
      case 5:
        return this.pf.wrap();
      case 6:
        return this.#less();
      default:
        return this.#less().or(result.eqz());
    }
  }

  #less(): Expr {
    const { aux } = this;
    return this.result.xor(aux.shl(63)).xor(aux).xor(aux.shl(1)).lt_s(0);
  }
}

/** Condition codes without their lowest bit, which inverts them. */
const PAIR = { below: 1, zero: 2, belowOrZero: 3, sign: 4, less: 6, lessOrZero: 7 } as const;

/** A condition behind a - b, both zero-extended. */
function afterSub(pair: number, a: Expr, b: Expr, bytes: number): Expr | undefined {
  switch (pair) {
    case PAIR.below:
      return a.lt_u(b);
    case PAIR.zero:
      return a.eq(b);
    case PAIR.belowOrZero:
      return a.le_u(b);
    case PAIR.less:
      return a.signed(bytes).lt_s(b.signed(bytes));
    case PAIR.lessOrZero:
      return a.signed(bytes).le_s(b.signed(bytes));
    default:
      return undefined;
  }
}

/** A condition where CF and OF are 0. */
function afterLogic(pair: number, r: Expr, bytes: number): Expr | undefined {
  switch (pair) {
    case PAIR.zero:
    case PAIR.belowOrZero:
      return r.signed(bytes).eqz();
    case PAIR.sign:
    case PAIR.less:
      return r.signed(bytes).lt_s(0);
    case PAIR.lessOrZero:
      return r.signed(bytes).le_s(0);
    default:
      return undefined;
  }
}
