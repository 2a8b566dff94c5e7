// needs: kvm
/** Floating-point instructions with every kind of operand and MXCSR against the real processor. */
import { afterAll, expect, test } from 'vitest';
import { INSTRUCTIONS } from '../../../src/tcg/table/index.ts';
import type { Encoding } from '../../../src/tcg/table/instruction.ts';
import { hex } from '../../fuzz/support.ts';
import { Comparison } from '../comparison.ts';
import { Random, randomCase } from '../generate-cases.ts';
import { hostHas } from '../host-features.ts';
import type { Case } from '../oracle.ts';
import { type Lanes, randomMxcsr, vectorOf } from './operands.ts';

const CASES = Number(process.env.TSV_TCG_CASES ?? 25);
const SEED = Number(process.env.TSV_TCG_SEED ?? 1);

const comparison = new Comparison();
afterAll(() => comparison[Symbol.dispose]());

const ARITHMETIC = /^(add|sub|mul|div|sqrt|min|max|cmp|u?comi|addsub|hadd|hsub|round|dp)([sp][sd])$/;
const CONVERSION = /^cvtt?(ss|sd|ps|pd|si|dq|pi)2/;

/** What the source holds; undefined for instructions that are no floating-point ones. */
function lanesOf(name: string): Lanes | undefined {
  const suffix = ARITHMETIC.exec(name)?.[2] ?? CONVERSION.exec(name)?.[1];
  switch (suffix) {
    case 'ss':
    case 'ps':
      return 'f32';
    case 'sd':
    case 'pd':
      return 'f64';
    case 'si':
      return 'i64';
    case 'dq':
    case 'pi':
      return 'i32';
    default:
      return undefined;
  }
}

/** A case of the table's generator with registers and memory of floats or integers. */
function floatCase(encoding: Encoding, lanes: Lanes, r: Random): Case {
  const { code, before } = randomCase(encoding, r);
  const xmm = new Uint8Array(256);
  for (let i = 0; i < 256; i += 16) xmm.set(vectorOf(r, lanes), i);
  const data = new Uint8Array(before.data.length);
  for (let i = 0; i < data.length; i += 16) data.set(vectorOf(r, lanes), i);
  const fpr = new Uint8Array(128);
  for (let i = 0; i < 128; i += 16) fpr.set(vectorOf(r, lanes).subarray(0, 8), i);
  return { code, before: { ...before, xmm, data, fpr, mxcsr: randomMxcsr(r) } };
}

const FLOAT_INSTRUCTIONS = INSTRUCTIONS.filter(
  ({ name, feature }) => lanesOf(name) !== undefined && hostHas(feature),
);

test.each(FLOAT_INSTRUCTIONS.map(({ name }) => name))('%s does what the processor does', (name) => {
  const { encodings } = FLOAT_INSTRUCTIONS.find((instruction) => instruction.name === name)!;
  const failures: string[] = [];
  encodings.forEach((encoding, form) => {
    for (let i = 0; i < CASES && failures.length < 5; i++) {
      const seed = SEED * 1_000_003 + i;
      const c = floatCase(encoding, lanesOf(name)!, new Random(seed));
      const failure = comparison.check(`${name}-${form}-${seed}`, c);
      if (failure !== undefined) failures.push(failure);
    }
  });
  expect(failures).toEqual([]);
});

test.each(['rcpps', 'rcpss', 'rsqrtps', 'rsqrtss'])('%s is as near as it must be', (name) => {
  const { encodings } = INSTRUCTIONS.find((instruction) => instruction.name === name)!;
  const failures: string[] = [];
  for (let i = 0; i < CASES; i++) {
    const c = floatCase(encodings[0], 'f32', new Random(SEED * 1_000_003 + i));
    const [wanted, got] = [comparison.oracle.run(c), comparison.subject.run(c)];
    if ('fault' in wanted || 'fault' in got) {
      const failure = comparison.check(`${name}-${i}`, c);
      if (failure !== undefined) failures.push(failure);
      continue;
    }
    expect(got.state.mxcsr).toBe(wanted.state.mxcsr);
    const a = new DataView(wanted.state.xmm.buffer, wanted.state.xmm.byteOffset);
    const b = new DataView(got.state.xmm.buffer, got.state.xmm.byteOffset);
    for (let at = 0; at < 256; at += 4) {
      const [x, y] = [a.getFloat32(at, true), b.getFloat32(at, true)];
      // Each is off by at most 1.5 * 2^-12 of the value; the smallest results may be zeros.
      const same =
        Math.abs(x - y) <= Math.max(Math.abs(y) * 2 ** -10.4, 2 ** -125.999) ||
        a.getInt32(at) === b.getInt32(at);
      if (!same) failures.push(`${hex(c.code)}: processor ${x}, tcg ${y}`);
    }
  }
  expect(failures).toEqual([]);
});
