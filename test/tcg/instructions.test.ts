// needs: kvm
/** Every instruction of the table against the real processor. */
import { afterAll, expect, test } from 'vitest';
import { FLAG } from '../../src/tcg/emit/flags.ts';
import { INSTRUCTIONS } from '../../src/tcg/table/index.ts';
import type { Encoding, InstructionForm } from '../../src/tcg/table/instruction.ts';
import { Random, randomCase, randomSequence, randomState } from './generate-cases.ts';
import { hostHas } from './host-features.ts';
import { type Case, type CaseWidth, Oracle, type Result, Subject } from './oracle.ts';

const oracle = new Oracle();
const subject = new Subject();
afterAll(() => oracle[Symbol.dispose]());

/** Not to be compared: results differ by nature, or they are privileged, or they have tests of their own. */
const EXCLUDED = new Set([
  // Estimates.
  'rcpps',
  'rcpss',
  'rsqrtps',
  'rsqrtss',
  'ldmxcsr',
  'stmxcsr',

  'push_seg4',
  'push_seg5',
  'mov_from_seg',
  'enter',
  'pushf',
  'popf',
  'nop',
  'lsl',
  'lar',
  'verr',
  'verw',
]);

function comparable(instruction: InstructionForm): boolean {
  const { name, ends, feature } = instruction;
  if (ends || EXCLUDED.has(name) || !hostHas(feature)) return false;
  return !/^(mov_(to|from)|pop_seg|load_far|s[gil]dt|str|smsw|smsw|l[gil]dt|ltr|lmsw|cpuid|rd|wr|int|in$|out|ins$|cli|sti|hlt|vmcall|xgetbv|xsetbv|stac|clac|xsave|xrstor|invd|wbinvd|swapgs|fwait)/.test(
    name,
  );
}

function difference(instruction: InstructionForm, c: Case, wanted: Result, got: Result): string | undefined {
  if ('fault' in wanted || 'fault' in got) {
    const text = (x: Result) => ('fault' in x ? `fault ${x.fault}` : 'no fault');
    return text(wanted) === text(got) ? undefined : `processor: ${text(wanted)}, tcg: ${text(got)}`;
  }
  const [a, b] = [wanted.state, got.state];
  for (let i = 0; i < 16; i++) {
    if (a.gpr[i] !== b.gpr[i])
      return `r${i}: processor ${a.gpr[i].toString(16)}, tcg ${b.gpr[i].toString(16)} (was ${c.before.gpr[i].toString(16)})`;
  }
  const mask =
    ~(instruction.undefined ?? 0) & (FLAG.CF | FLAG.PF | FLAG.AF | FLAG.ZF | FLAG.SF | FLAG.OF | FLAG.DF);
  if ((a.flags ^ b.flags) & mask)
    return `flags: processor ${(a.flags & mask).toString(16)}, tcg ${(b.flags & mask).toString(16)}`;
  const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');
  for (let i = 0; i < 16; i++) {
    const slice = (s: Uint8Array) => s.subarray(i * 16, i * 16 + 16);
    const [x, y] = [hex(slice(a.xmm)), hex(slice(b.xmm))];
    if (x !== y) return `xmm${i}: processor ${x}, tcg ${y} (was ${hex(slice(c.before.xmm))})`;
  }
  for (let i = 0; i < 8; i++) {
    const slice = (s: Uint8Array) => s.subarray(i * 16, i * 16 + 10);
    const [x, y] = [hex(slice(a.fpr)), hex(slice(b.fpr))];
    if (x !== y) return `r${i} of x87: processor ${x}, tcg ${y} (was ${hex(slice(c.before.fpr))})`;
  }
  if (a.fsw !== b.fsw) return `FSW: processor ${a.fsw.toString(16)}, tcg ${b.fsw.toString(16)}`;
  if (a.ftw !== b.ftw) return `FTW: processor ${a.ftw.toString(16)}, tcg ${b.ftw.toString(16)}`;
  if (a.fcw !== b.fcw) return `FCW: processor ${a.fcw.toString(16)}, tcg ${b.fcw.toString(16)}`;
  if (a.mxcsr !== b.mxcsr) return `MXCSR: processor ${a.mxcsr.toString(16)}, tcg ${b.mxcsr.toString(16)}`;
  const at = a.data.findIndex((byte, i) => byte !== b.data[i] && !c.varies?.includes(i));
  return at < 0
    ? undefined
    : `data+${at}: processor ${a.data[at].toString(16)}, tcg ${b.data[at].toString(16)}`;
}

function firstDifference(
  instruction: InstructionForm,
  encoding: Encoding,
  count: number,
  seed: number,
  width: CaseWidth = 64,
): string | undefined {
  for (let i = 0; i < count; i++) {
    const c = randomCase(encoding, new Random(seed + i), { width });
    let found = difference(instruction, c, oracle.run(c), subject.run(c));
    // A software KVM rarely repeats an instruction that it was interrupted in: what differs must differ twice.
    if (found !== undefined) found = difference(instruction, c, oracle.run(c), subject.run(c));
    if (found !== undefined) {
      return `${instruction.name} "${encoding.text}" ${Buffer.from(c.code).toString('hex')} seed ${seed + i}: ${found}`;
    }
  }
  return undefined;
}

const NO_FLAGS_UNDEFINED: InstructionForm = { name: 'sequence', encodings: [] };
const CASES = Number(process.env.TSV_TCG_CASES ?? 12);

test('every unprivileged instruction does what the processor does', { timeout: 300_000 }, () => {
  const failures: string[] = [];
  let seed = Number(process.env.TSV_TCG_SEED ?? 1);
  for (const instruction of INSTRUCTIONS.filter(comparable)) {
    for (const encoding of instruction.encodings) {
      if (encoding.validIn === 'legacy') continue;
      seed += 1000;
      const failure = firstDifference(instruction, encoding, CASES, seed);
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
    const { instruction } = encoding;
    const found = difference(instruction, both, oracle.run(both), subject.run(both));
    if (found !== undefined) failures.push(`${Buffer.from(code).toString('hex')}: ${found}`);
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

/** PUSH of a segment register leaves or clears the upper half of its slot; the others are BSF and BSR to the emulator. */
const NOT_EMULATED = new Set(['tzcnt', 'lzcnt', 'push_seg0', 'push_seg1', 'push_seg2', 'push_seg3']);

/** Some hosts' KVM emulates user code in compatibility mode, by an emulator that has no SSE arithmetic. */
function emulatesCompatibilityMode(): boolean {
  const c: Case = { code: Uint8Array.of(0x0f, 0x58, 0xc1), before: randomState(new Random(1)), width: 32 };
  return 'fault' in oracle.run(c);
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
      const failure = firstDifference(instruction, encoding, Math.ceil(CASES / 2), seed, 32);
      // An instruction that the emulator does not know is undefined.
      if (failure !== undefined && !(isEmulated && failure.includes(': processor: fault')))
        failures.push(failure);
    }
  }
  expect(failures).toEqual([]);
});

test('sequences of instructions agree with the processor', { timeout: 300_000 }, () => {
  const encodings = INSTRUCTIONS.filter((i) => comparable(i) && !standsAlone(i))
    .flatMap((i) => i.encodings)
    .filter(
      ({ validIn, operands }) => validIn !== 'legacy' && !operands.some(({ letter }) => letter === 'X'),
    );
  const failures: string[] = [];
  for (let i = 0; i < 100 * CASES; i++) {
    const seed = Number(process.env.TSV_TCG_SEED ?? 1) * 100_000 + i;
    const r = new Random(seed);
    const c = randomSequence(encodings, r, 2 + r.below(8));
    const run = () => difference(NO_FLAGS_UNDEFINED, c, oracle.run(c), subject.run(c));
    const found = run() === undefined ? undefined : run();
    if (found !== undefined) failures.push(`${Buffer.from(c.code).toString('hex')} seed ${seed}: ${found}`);
  }
  expect(failures).toEqual([]);
});
