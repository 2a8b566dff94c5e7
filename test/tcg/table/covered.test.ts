/** No instruction of the table is without a test of what it does. */
import { expect, test } from 'vitest';
import { INSTRUCTIONS } from '../../../src/tcg/table/index.ts';
import { TOPICS } from '../../guests/topics.ts';
import { isComparable } from '../comparable.ts';

/** Compared with the processor in tests of their own. */
const ELSEWHERE: readonly (readonly [names: RegExp, where: string])[] = [
  [/^(j\w+|loop\w*|call|calli|jmp|jmpi|ret|retn)$/, 'instructions.test.ts, branches'],
  [/^(rcp|rsqrt)[ps]s$/, 'sse/instructions.test.ts'],
  [/^(ld|st)mxcsr$/, 'sse/mxcsr.test.ts'],
  [/^(xsave|xrstor|xsaveopt)[01]$/, 'fpu/xsave.test.ts'],
  [/^(rdrand|rdseed)$/, '../machine/virtual-clock.test.ts'],
];

const SEGMENTS = ['es', 'cs', 'ss', 'ds', 'fs', 'gs'];
const POINTERS = ['les', 'lcs', 'lss', 'lds', 'lfs', 'lgs'];
/** How guests write what is called otherwise in the table. */
const WRITTEN: Readonly<Record<string, string>> = {
  undefined: 'ud2',
  int1: '\\.byte 0xf1',
  mov_from_cr: 'mov \\w+, cr\\d',
  mov_to_cr: 'mov cr\\d,',
  mov_from_dr: 'mov \\w+, dr\\d',
  mov_to_dr: 'mov dr\\d,',
  mov_to_seg: 'mov [c-g]s,',
  mov_from_seg: 'mov \\w+, [c-g]s',
  call_far: 'lcall \\w+,',
  jmp_far: 'ljmp \\w+,',
  call_far_memory: '(lcall .*\\[|far_call)',
  jmp_far_memory: '(ljmp .*\\[|far_jmp)',
  ret_far: 'retfq?',
  iret: 'iret[dq]?',
  pushf: 'pushf[dq]?',
  popf: 'popf[dq]?',
  sysret: 'sysretq?',
  sysexit: 'sysexitq?',
  ins: 'ins[bwd]',
  outs: 'outs[bwd]',
};

function written(name: string): RegExp {
  const [, kind, segment] = /^(push_seg|pop_seg|load_far_pointer)(\d)$/.exec(name) ?? [];
  if (kind === 'load_far_pointer') return new RegExp(`\\b${POINTERS[Number(segment)]}\\b`);
  if (kind !== undefined) return new RegExp(`\\b${kind.split('_')[0]} ${SEGMENTS[Number(segment)]}\\b`);
  return new RegExp(`(^|\\W)${WRITTEN[name] ?? `${name}\\b`}`);
}

test('every instruction is compared with the processor, or executed by a small guest', () => {
  const guests = Object.values(TOPICS).flatMap((cases) => cases.map(({ source }) => source));
  const untested = INSTRUCTIONS.filter((instruction) => !isComparable(instruction))
    .map(({ name }) => name)
    .filter((name) => !ELSEWHERE.some(([names]) => names.test(name)))
    .filter((name) => !guests.some((source) => written(name).test(source)));

  expect(untested).toEqual([]);
});
