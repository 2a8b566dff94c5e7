/** Builds one WebAssembly function: locals, statements and structured control flow over {@link Expr} trees. */
import { Expr, type Operand, operand, writeOpcode } from './expr.ts';
import { ATOMIC_CMPXCHG, STORE, type StoreOp, VALUE_TYPE, type ValueType } from './opcodes.ts';
import { Sink } from './sink.ts';

/** A function type. */
export interface Signature {
  readonly params: readonly ValueType[];
  readonly results: readonly ValueType[];
}

/** A function of the module, imported or defined. */
export interface FunctionRef extends Signature {
  readonly index: number;
}

/** A local variable; as an expression it is its current value. */
export class Local extends Expr {
  readonly index: number;
  constructor(type: ValueType, index: number) {
    super(type, (sink) => {
      sink.byte(0x20);
      sink.u32(index);
    });
    this.index = index;
  }
}

/** A branch target. */
export interface Label {
  readonly depth: number;
}

/** Type of a block without a result. */
const BLOCK_VOID = 0x40;

/** A function body being written. */
export class FunctionBuilder implements Signature {
  readonly params: readonly ValueType[];
  readonly results: readonly ValueType[];
  /** Parameters as locals. */
  readonly args: readonly Local[];
  readonly #locals: ValueType[] = [];
  readonly #free: Record<ValueType, Local[]> = { i32: [], i64: [], f32: [], f64: [], v128: [] };
  #scope: Local[] | undefined;
  readonly #body = new Sink();
  #depth = 0;

  constructor(signature: Signature) {
    this.params = signature.params;
    this.results = signature.results;
    this.args = signature.params.map((type, i) => new Local(type, i));
  }

  /** A new local with an undefined value. */
  local(type: ValueType): Local {
    const reused = this.#scope === undefined ? undefined : this.#free[type].pop();
    const local = reused ?? new Local(type, this.params.length + this.#locals.push(type) - 1);
    this.#scope?.push(local);
    return local;
  }

  /** A local holding the value of an expression. */
  let(value: Expr): Local {
    const local = this.local(value.type);
    this.set(local, value);
    return local;
  }

  /** Locals made inside are reused after it. */
  scoped(build: () => void): void {
    const outer = this.#scope;
    this.#scope = [];
    build();
    for (const local of this.#scope) this.#free[local.type].push(local);
    this.#scope = outer;
  }

  set(local: Local, value: Operand): void {
    operand(local.type, value).write(this.#body);
    this.#body.byte(0x21);
    this.#body.u32(local.index);
  }

  /** Assigns and gives the value. */
  tee(local: Local, value: Operand): Expr {
    const from = operand(local.type, value);
    return new Expr(local.type, (sink) => {
      from.write(sink);
      sink.byte(0x22);
      sink.u32(local.index);
    });
  }

  /** Evaluates and discards. */
  drop(value: Expr): void {
    value.write(this.#body);
    this.#body.byte(0x1a);
  }

  store(op: StoreOp, address: Operand, value: Operand, offset = 0): void {
    const [opcode, align] = STORE[op];
    const at = operand('i32', address);
    const isConstant = at.constant !== undefined;
    const type = op.startsWith('v128') ? 'v128' : (op.slice(0, 3) as ValueType);
    (isConstant ? operand('i32', 0) : at).write(this.#body);
    operand(type, value).write(this.#body);
    writeOpcode(this.#body, opcode);
    this.#body.u32(opcode >> 8 === 0xfe ? align : 0);
    this.#body.u32(offset + (isConstant ? Number(BigInt.asUintN(32, at.constant)) : 0));
  }

  /** Atomic compare-and-exchange of 1, 2, 4 or 8 bytes; gives the old value. The address must be aligned. */
  cmpxchg(bytes: 1 | 2 | 4 | 8, address: Expr, expected: Expr, replacement: Expr): Expr {
    const [opcode, align] = ATOMIC_CMPXCHG[bytes];
    return new Expr('i64', (sink) => {
      address.write(sink);
      expected.write(sink);
      replacement.write(sink);
      writeOpcode(sink, opcode);
      sink.u32(align);
      sink.u32(0);
    });
  }

  /** memory.copy */
  copy(to: Expr, from: Expr, length: Expr): void {
    for (const value of [to, from, length]) value.write(this.#body);
    this.#body.bytes([0xfc, 0x0a, 0, 0]);
  }

  /** memory.fill */
  fill(to: Expr, byte: Expr, length: Expr): void {
    for (const value of [to, byte, length]) value.write(this.#body);
    this.#body.bytes([0xfc, 0x0b, 0]);
  }

  /** atomic.fence */
  fence(): void {
    this.#body.bytes([0xfe, 0x03, 0]);
  }

  if_(condition: Expr, then: () => void, otherwise?: () => void): void {
    condition.write(this.#body);
    this.#open(0x04);
    then();
    if (otherwise !== undefined) {
      this.#body.byte(0x05);
      otherwise();
    }
    this.#close();
  }

  /** Branching to the label leaves the block. */
  block(build: (label: Label) => void): void {
    this.#open(0x02);
    build({ depth: this.#depth });
    this.#close();
  }

  /** Branching to the label repeats the loop; its end leaves it. */
  loop(build: (label: Label) => void): void {
    this.#open(0x03);
    build({ depth: this.#depth });
    this.#close();
  }

  /** Opens a loop that {@link end} closes, where a callback does not fit. */
  beginLoop(): Label {
    this.#open(0x03);
    return { depth: this.#depth };
  }

  /** Closes what {@link beginLoop} opened. */
  end(): void {
    this.#close();
  }

  br(label: Label): void {
    this.#body.byte(0x0c);
    this.#body.u32(this.#depth - label.depth);
  }

  brIf(label: Label, condition: Expr): void {
    condition.write(this.#body);
    this.#body.byte(0x0d);
    this.#body.u32(this.#depth - label.depth);
  }

  brTable(index: Expr, labels: readonly Label[], otherwise: Label): void {
    index.write(this.#body);
    this.#body.byte(0x0e);
    this.#body.u32(labels.length);
    for (const label of [...labels, otherwise]) this.#body.u32(this.#depth - label.depth);
  }

  return_(...values: Expr[]): void {
    for (const value of values) value.write(this.#body);
    this.#body.byte(0x0f);
  }

  unreachable(): void {
    this.#body.byte(0x00);
  }

  /** A call that gives one value. */
  call(callee: FunctionRef, ...args: Operand[]): Expr {
    return new Expr(callee.results[0] ?? 'i32', (sink) => this.#call(sink, callee, args));
  }

  /** A call as a statement; a result is dropped. */
  run(callee: FunctionRef, ...args: Operand[]): void {
    this.#call(this.#body, callee, args);
    for (const _ of callee.results) this.#body.byte(0x1a);
  }

  #call(sink: Sink, callee: FunctionRef, args: readonly Operand[]): void {
    args.forEach((value, i) => {
      operand(callee.params[i], value).write(sink);
    });
    sink.byte(0x10);
    sink.u32(callee.index);
  }

  /** A call through the module's table. */
  callIndirect(typeIndex: number, result: ValueType, index: Expr, ...args: Expr[]): Expr {
    return new Expr(result, (sink) => {
      for (const value of args) value.write(sink);
      index.write(sink);
      sink.byte(0x11);
      sink.u32(typeIndex);
      sink.u32(0);
    });
  }

  /** The function's code section entry. */
  encode(): Sink {
    const sink = new Sink();
    const groups: [number, ValueType][] = [];
    for (const type of this.#locals) {
      const last = groups.at(-1);
      if (last !== undefined && last[1] === type) last[0]++;
      else groups.push([1, type]);
    }
    sink.u32(groups.length);
    for (const [count, type] of groups) {
      sink.u32(count);
      sink.byte(VALUE_TYPE[type]);
    }
    sink.bytes(this.#body.view());
    sink.byte(0x0b);
    return sink;
  }

  #open(opcode: number): void {
    this.#body.byte(opcode);
    this.#body.byte(BLOCK_VOID);
    this.#depth++;
  }

  #close(): void {
    this.#body.byte(0x0b);
    this.#depth--;
  }
}
