// needs: kvm
/** Every instruction of the table against the real processor. */
import { afterAll, expect, test } from 'vitest';
import { INSTRUCTIONS } from '../../src/tcg/table/index.ts';
import type { Encoding, InstructionForm } from '../../src/tcg/table/instruction.ts';
import { budget, patience, SEED } from '../fuzz/support.ts';
import { isComparable } from './comparable.ts';
import { Comparison, type Leniency } from './comparison.ts';
import { Random, randomCase, randomSequence, randomState } from './generate-cases.ts';
import { hostHas } from './host-features.ts';
import { type Case, type CaseWidth, CODE, DATA } from './oracle.ts';

const comparison = new Comparison();
afterAll(() => comparison[Symbol.dispose]());

function comparable(instruction: InstructionForm): boolean {
  return isComparable(instruction) && hostHas(instruction.feature);
}

function firstFailure(
  { name, undefined: undefinedFlags }: InstructionForm,
  encoding: Encoding,
  count: number,
  seed: number,
  { width = 64, faults }: { width?: CaseWidth } & Leniency = {},
): string | undefined {
  for (let i = 0; i < count; i++) {
    const c = randomCase(encoding, new Random(seed + i), { width });
    const failure = comparison.check(`${name}-${width}-${seed + i}`, c, { undefinedFlags, faults });
    if (failure !== undefined) return failure;
  }
  return undefined;
}

const CASES = Number(process.env.TSV_TCG_CASES ?? 12);
const SECONDS = 5;

test('every unprivileged instruction does what the processor does', { timeout: 300_000 }, () => {
  const failures: string[] = [];
  let seed = Number(process.env.TSV_TCG_SEED ?? 1);
  for (const instruction of INSTRUCTIONS.filter(comparable)) {
    for (const encoding of instruction.encodings) {
      if (encoding.validIn === 'legacy') continue;
      seed += 1000;
      const failure = firstFailure(instruction, encoding, CASES, seed);
      if (failure !== undefined) failures.push(failure);
    }
  }
  expect(failures).toEqual([]);
});

test('arithmetic and the conditional branch behind it, alone or as one handler, agree with the processor', () => {
  const names = ['cmp', 'test', 'dec', 'inc', 'sub', 'add', 'and'];
  const encodings = INSTRUCTIONS.filter(({ name }) => names.includes(name)).flatMap((i) => i.encodings);
  const failures: string[] = [];
  const r = new Random(4711);
  for (let i = 0; i < 60 * CASES; i++) {
    const encoding = r.pick(encodings.filter(({ validIn }) => validIn !== 'legacy'));
    const c = randomCase(encoding, r);
    // jcc over mov al, 0x55
    const code = Uint8Array.of(...c.code, 0x70 | r.below(16), 2, 0xb0, 0x55);
    const both = { code, before: c.before };
    const failure = comparison.check(`branch-${i}`, both, { undefinedFlags: encoding.instruction.undefined });
    if (failure !== undefined) failures.push(failure);
  }
  expect(failures).toEqual([]);
});

/** What a branch lies over: `mov al, 0x55`. */
const SKIPPED = [0xb0, 0x55];

/** Branches whose target is {@link SKIPPED} or what follows it, by what they must find in registers and memory. */
function randomBranch(r: Random, width: CaseWidth): Case {
  const before = randomState(r);
  if (width === 32)
    before.gpr = before.gpr.map((value, i) => (i === 4 ? value : i < 8 ? value & 0xffff_ffffn : value));
  const bytes = width / 8;
  const over = r.below(2) * SKIPPED.length;
  const atRsp = Number(before.gpr[4]) - DATA;
  const view = new DataView(before.data.buffer);
  const setTarget = (at: number, length: number) => {
    view.setUint32(at, CODE + length + over, true);
    for (let i = 4; i < bytes; i += 4) view.setUint32(at + i, 0, true);
  };
  const displacement = [over, 0, 0, 0];
  const make = r.pick<() => number[]>([
    () => [0x70 | r.below(16), over],
    () => [0x0f, 0x80 | r.below(16), ...displacement],
    () => [0xeb, over],
    () => [0xe9, ...displacement],
    () => [0xe8, ...displacement],
    () => {
      // LOOPNE, LOOPE, LOOP, JCXZ, with a counter that ends soon or is of the other address size.
      before.gpr[1] = r.chance(50) ? BigInt(r.below(3)) : before.gpr[1];
      return [...(r.chance(30) ? [0x67] : []), 0xe0 | r.below(4), over];
    },
    () => {
      // DEC EAX (or RAX), then LOOP back to it.
      before.gpr[1] = BigInt(1 + r.below(50));
      return width === 64 ? [0x48, 0xff, 0xc8, 0xe2, 0xfb] : [0x48, 0xe2, 0xfd];
    },
    () => {
      // CALL and JMP of a register that the skipped instruction does not change.
      const register = r.pick([1, 2, 3, 5, 6, 7]);
      before.gpr[register] = BigInt(CODE + 2 + over);
      return [0xff, 0xc0 | (r.pick([2, 4]) << 3) | register];
    },
    () => {
      // The same of memory.
      before.gpr[3] = BigInt(DATA + 600);
      setTarget(600, 2);
      return [0xff, 3 | (r.pick([2, 4]) << 3)];
    },
    () => {
      setTarget(atRsp, 1);
      return [0xc3];
    },
    () => {
      setTarget(atRsp, 3);
      return [0xc2, r.below(256), 0];
    },
  ]);
  return { code: Uint8Array.of(...make(), ...SKIPPED), before, width };
}

test.each([64, 32] as const)('branches in code of %i bits agree with the processor', (width) => {
  const failures: string[] = [];
  const r = new Random(4712 + width);
  for (let i = 0; i < 40 * CASES; i++) {
    const failure = comparison.check(`transfer-${width}-${i}`, randomBranch(r, width));
    if (failure !== undefined) failures.push(failure);
  }
  expect(failures).toEqual([]);
});

/** Instructions that need values in registers, may fault for most operands, or leave flags that processors differ in. */
function standsAlone({ name, undefined: flags }: InstructionForm): boolean {
  if (flags !== undefined && flags !== 0) return true;
  return /^(push|pop|leave|enter|xlat|maskmov|i?div|fx|call|ret|lods|stos|movs[bwdq]?$|cmps|scas|x87_d[9d]$|pcmp.str|std)/.test(
    name,
  );
}

/**
 * To the emulator TZCNT and LZCNT are BSF and BSR, long NOPs have no operand, and ENTER does not look at where the stack
 * then ends. PUSH of a segment register leaves or clears the upper half of its slot.
 */
const NOT_EMULATED = new Set([
  'tzcnt',
  'lzcnt',
  'nop',
  'enter',
  'push_seg0',
  'push_seg1',
  'push_seg2',
  'push_seg3',
]);

/** Some hosts' KVM emulates user code in compatibility mode, by an emulator that has no SSE arithmetic. */
function emulatesCompatibilityMode(): boolean {
  const c: Case = { code: Uint8Array.of(0x0f, 0x58, 0xc1), before: randomState(new Random(1)), width: 32 };
  return 'fault' in comparison.oracle.run(c);
}

test('every unprivileged instruction does so in compatibility mode', { timeout: 300_000 }, () => {
  const isEmulated = emulatesCompatibilityMode();
  const failures: string[] = [];
  let seed = Number(process.env.TSV_TCG_SEED ?? 1) + 5_000_000;
  for (const instruction of INSTRUCTIONS.filter(comparable)) {
    for (const encoding of instruction.encodings) {
      if (encoding.validIn === 'long' || encoding.w === 1) continue;
      if (isEmulated && NOT_EMULATED.has(instruction.name)) continue;
      seed += 1000;
      // An instruction that the emulator does not know is undefined.
      const how = { width: 32, faults: isEmulated } as const;
      const failure = firstFailure(instruction, encoding, Math.ceil(CASES / 2), seed, how);
      if (failure !== undefined) failures.push(failure);
    }
  }
  expect(failures).toEqual([]);
});

const SEQUENCED = INSTRUCTIONS.filter((i) => comparable(i) && !standsAlone(i))
  .flatMap((i) => i.encodings)
  .filter(({ validIn, operands }) => validIn !== 'legacy' && !operands.some(({ letter }) => letter === 'X'));

test('sequences of instructions agree with the processor', { timeout: 300_000 }, () => {
  const failures: string[] = [];
  for (let i = 0; i < 100 * CASES; i++) {
    const seed = Number(process.env.TSV_TCG_SEED ?? 1) * 100_000 + i;
    const r = new Random(seed);
    const failure = comparison.check(`sequence-${seed}`, randomSequence(SEQUENCED, r, 2 + r.below(8)));
    if (failure !== undefined) failures.push(failure);
  }
  expect(failures).toEqual([]);
});

test('whatever else there is time for agrees with the processor', { timeout: patience(SECONDS) }, () => {
  const alone = INSTRUCTIONS.filter(comparable)
    .flatMap((i) => i.encodings)
    .filter(({ validIn }) => validIn !== 'legacy');
  const failures: string[] = [];
  const end = performance.now() + budget(SECONDS);
  let count = 0;
  for (; performance.now() < end && failures.length < 10; count++) {
    const r = new Random((SEED + Math.imul(count, 0x9e3779b1)) >>> 0);
    const encoding = r.pick(alone);
    const [c, undefinedFlags] = r.pick<() => [Case, number?]>([
      () => [randomSequence(SEQUENCED, r, 2 + r.below(20))],
      () => [randomCase(encoding, r), encoding.instruction.undefined],
      () => [randomBranch(r, 64)],
    ])();
    const failure = comparison.check(`random-${SEED}-${count}`, c, { undefinedFlags });
    if (failure !== undefined) failures.push(failure);
  }
  expect(failures).toEqual([]);
  if (process.env.TSVISOR_FUZZ_SECONDS) console.log(`${count} cases`);
});
