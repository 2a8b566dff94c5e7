import { expect, test } from 'vitest';
import { unhex } from '../fuzz/support.ts';
import { Random, randomState } from './generate-cases.ts';
import { type Case, Subject } from './oracle.ts';
import { plainState, shrink } from './shrink.ts';

const subject = new Subject();

/** `add rax, rcx; imul rdx, rbx; paddb xmm1, xmm2; xor rsi, rdi; mov [0x8100], rdx` */
const PARTS = ['4801c8', '480fafd3', '660ffcca', '4831fe', '4889142500810000'].map(unhex);

function randomProgram(): Case {
  const code = Uint8Array.from(PARTS.flatMap((part) => [...part]));
  return { code, parts: PARTS, before: randomState(new Random(5)) };
}

/** Stands for a defect of the store at the program's end: it shows in odd products. */
function failsForOdd(c: Case): boolean {
  const result = subject.run(c);
  return !('fault' in result) && (result.state.data[0x100] & 1) === 1 && result.state.gpr[2] !== 0n;
}

test('a case that fails loses the instructions and the state that do not matter', () => {
  const original = randomProgram();
  original.before.gpr[2] = 0x1234_5677n;
  original.before.gpr[3] = 0xabcdefn;
  original.before.data[0x100] = 0;
  expect(failsForOdd(original)).toBe(true);

  const small = shrink(original, failsForOdd);

  expect(failsForOdd(small)).toBe(true);
  expect(small.parts).toEqual([PARTS[4]]);
  const plain = plainState();
  expect(small.before).toEqual({ ...plain, gpr: plain.gpr.with(2, 0x1234_5677n) });
});

test('a case that fails for every reason keeps nothing but one instruction', () => {
  const small = shrink(randomProgram(), () => true);

  expect(small.parts).toHaveLength(1);
  expect(small.before).toEqual(plainState());
});
