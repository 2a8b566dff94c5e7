import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type Expr, i64, load, ModuleBuilder, select } from '../../../src/tcg/wasm/index.ts';

const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });

function instantiate(build: (m: ModuleBuilder) => void): Record<string, (...args: never[]) => unknown> {
  const module = new ModuleBuilder({ initial: 1, maximum: 1 });
  build(module);
  const instance = new WebAssembly.Instance(new WebAssembly.Module(module.encode()), { env: { memory } });
  return instance.exports as Record<string, (...args: never[]) => unknown>;
}

const binary = (meaning: (a: Expr, b: Expr) => Expr) =>
  instantiate((m) =>
    m.define(
      { params: ['i64', 'i64'], results: ['i64'] },
      (f) => f.return_(meaning(f.args[0], f.args[1])),
      'f',
    ),
  ).f as unknown as (a: bigint, b: bigint) => bigint;

test('64-bit constants and arithmetic survive the encoding', () => {
  fc.assert(
    fc.property(fc.bigInt(-(2n ** 63n), 2n ** 63n - 1n), (k) => {
      expect(binary((a, b) => a.add(b).xor(k))(1n, 2n)).toBe(3n ^ k);
    }),
    { numRuns: 50 },
  );
});

test('constant folding agrees with the machine', () => {
  const ops = ['add', 'sub', 'and', 'or', 'xor', 'shl', 'shr_u'] as const;
  fc.assert(
    fc.property(fc.constantFrom(...ops), fc.bigInt(0n, 2n ** 64n - 1n), fc.bigInt(0n, 70n), (op, a, b) => {
      const folded = binary(() => i64(a)[op](b))(0n, 0n);
      expect(folded).toBe(binary((x, y) => x[op](y))(BigInt.asIntN(64, a), b));
    }),
    { numRuns: 100 },
  );
});

test('loops, locals and loads work together', () => {
  const { sum } = instantiate((m) =>
    m.define(
      { params: ['i32'], results: ['i64'] },
      (f) => {
        const total = f.let(i64(0));
        const at = f.let(f.args[0]);
        f.loop((again) => {
          f.set(total, total.add(load('i64.load8_u', at, 16)));
          f.set(at, at.sub(1));
          f.brIf(again, at.ge_s(0));
        });
        f.return_(select(total.eq(0), i64(-1), total));
      },
      'sum',
    ),
  );
  new Uint8Array(memory.buffer).set([1, 2, 3, 4], 16);
  expect(sum(3 as never)).toBe(10n);
});

test('a table calls the function at the index', () => {
  const { pick } = instantiate((m) => {
    const signature = { params: ['i32'], results: ['i32'] } as const;
    m.exportTable(
      'table',
      [1, 2, 3].map((k) => m.define(signature, (f) => f.return_(f.args[0].add(k)))),
    );
    m.define(
      signature,
      (f) => f.return_(f.callIndirect(m.type(signature), 'i32', f.args[0], f.args[0])),
      'pick',
    );
  });
  expect([0, 1, 2].map((i) => pick(i as never))).toEqual([1, 3, 5]);
});

test('a module uses the table and the constants of another', () => {
  const signature = { params: ['i32'], results: ['i32'] } as const;
  const plus = new ModuleBuilder({ initial: 1, maximum: 1 });
  const one = plus.importGlobal('one');
  const ten = plus.importGlobal('ten');
  plus.exportTable(
    'table',
    [one, ten].map((k) => plus.define(signature, (f) => f.return_(f.args[0].add(k)))),
  );
  const { table } = new WebAssembly.Instance(new WebAssembly.Module(plus.encode()), {
    env: { memory, one: 1, ten: 10 },
  }).exports;
  const user = new ModuleBuilder({ initial: 1, maximum: 1 });
  user.importTable('functions');
  user.define(
    signature,
    (f) => f.return_(f.callIndirect(user.type(signature), 'i32', f.args[0], f.args[0])),
    'pick',
  );

  const { pick } = new WebAssembly.Instance(new WebAssembly.Module(user.encode()), {
    env: { memory, functions: table },
  }).exports as { pick(index: number): number };

  expect([pick(0), pick(1)]).toEqual([1, 11]);
});
