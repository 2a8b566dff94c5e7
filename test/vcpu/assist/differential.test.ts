/** Unprivileged assisted instructions against the processor this test runs on. */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { assistInstruction } from '../../../src/vcpu/assist/index.ts';
import type { Operation } from '../../../src/vcpu/assist/operation.ts';
import { OPERATIONS } from '../../../src/vcpu/assist/table.ts';
import { encode, makeRecord, Random } from './generate.ts';
import { AT, GPR, MEMORY_SIZE, Oracle, physical, STATE, TestCpu } from './machine.ts';

const SEED = Number(process.env.TSV_TEST_SEED ?? 20240607);
const CASES = 40;
/** Privileged, random by nature, or with operands that need preparing: tested one by one elsewhere. */
const ELSEWHERE = new Set(
  `pause int3 icebp int rdtscp rdpid clac stac swapgs rdfsbase rdgsbase wrfsbase wrgsbase invpcid lar lsl verr verw monitor
   mwait monitorx mwaitx serialize rdrand rdseed xsave xrstor xsaveopt xsavec xsaves xrstors xgetbv xsetbv cmpxchg8b
   fwait ldmxcsr vldmxcsr emms`.split(/\s+/),
);
/** Flags an instruction defines; all of them where it is not named. */
const DEFINED_FLAGS: Readonly<Record<string, number>> = {
  tzcnt: 0x041,
  lzcnt: 0x041,
  andn: 0x8c1,
  blsr: 0x8c1,
  blsmsk: 0x8c1,
  blsi: 0x8c1,
  bextr: 0x841,
  bzhi: 0x8c1,
};
const ALL_FLAGS = 0x8d5;
const FLAGS = new Set((/^flags\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1] ?? '').split(' '));
const WIDE = (name: string) =>
  /aes(enc|dec)/.test(name) ? FLAGS.has('vaes') : /pclmul/.test(name) ? FLAGS.has('vpclmulqdq') : true;

const SIGILL = 4;
const SIGSEGV = 11;
/** The signal Linux sends for an exception. */
const SIGNAL_OF: Readonly<Record<number, number>> = { 6: SIGILL, 13: SIGSEGV, 14: SIGSEGV, 12: 7 };

let oracle: Oracle;
/** One vCPU for all records, because each loads its whole state. */
const cpu = new TestCpu();
beforeAll(() => {
  oracle = new Oracle();
});
afterAll(() => oracle.close());

/** What an instruction changed, as text, so that a difference is readable. */
function outcome(record: Uint8Array, signal: number, flags: number): Record<string, string> {
  if (signal !== 0) return { signal: String(signal) };
  const view = new DataView(record.buffer, record.byteOffset, record.length);
  const hex = (at: number, length: number) => Buffer.from(record.subarray(at, at + length)).toString('hex');
  const out: Record<string, string> = { signal: '0' };
  for (const [i, name] of GPR.entries()) out[name] = view.getBigUint64(AT.gpr + 8 * i, true).toString(16);
  out.flags = (Number(view.getBigUint64(AT.rflags, true)) & flags).toString(16);
  out.mxcsr = view.getUint32(AT.xsave + 24, true).toString(16);
  for (let i = 0; i < 16; i++)
    out[`ymm${i}`] = hex(AT.xsave + 160 + 16 * i, 16) + hex(AT.xsave + 576 + 16 * i, 16);
  out.memory = hex(AT.memory, MEMORY_SIZE);
  return out;
}

/** Runs a record through the assist and returns the record after it. */
function emulate(record: Uint8Array): { record: Uint8Array; signal: number; what: string } {
  cpu.loadRecord(record);
  const result = assistInstruction(cpu, cpu.memory);
  const after = cpu.memory.read(physical(STATE), record.length);
  const view = new DataView(after.buffer);
  for (const [i, name] of GPR.entries()) view.setBigUint64(AT.gpr + 8 * i, cpu.state.regs[name], true);
  view.setBigUint64(AT.rflags, cpu.state.regs.rflags, true);
  after.set(cpu.state.xsave.subarray(0, 1024), AT.xsave);
  if (result.kind === 'completed') return { record: after, signal: 0, what: result.mnemonic };
  if (result.kind === 'exception') {
    return { record: after, signal: SIGNAL_OF[result.vector] ?? -result.vector, what: result.mnemonic };
  }
  // An encoding that no operation matches is none on the processor either.
  return { record: after, signal: SIGILL, what: `unsupported: ${result.mnemonic}` };
}

const name = (operation: Operation) => {
  const { mnemonic, map, opcode, prefix } = operation;
  return `${mnemonic} (${['', '0f ', '0f 38 ', '0f 3a '][map]}${opcode.toString(16)}/${prefix ?? '-'})`;
};

describe('the assist does what the processor does', () => {
  const operations = OPERATIONS.filter(({ mnemonic }) => !ELSEWHERE.has(mnemonic));

  test.each(operations.map((operation) => [name(operation), operation] as const))('%s', (_, operation) => {
    const random = new Random(SEED ^ (operation.opcode * 7919 + operation.map * 104729));
    const records = Array.from({ length: CASES }, () =>
      makeRecord(encode(operation, random, WIDE(operation.mnemonic)), random),
    );
    const flags = DEFINED_FLAGS[operation.mnemonic] ?? ALL_FLAGS;

    const native = oracle.run(records);

    let executed = 0;
    for (const [i, record] of records.entries()) {
      const emulated = emulate(record);
      const signal = new DataView(native[i].buffer, native[i].byteOffset).getUint32(AT.signal, true);
      if (signal === 0) executed++;
      const length = new DataView(record.buffer).getUint32(AT.length, true);
      const code = Buffer.from(record.subarray(0, length)).toString('hex');
      expect({ code, what: emulated.what, ...outcome(emulated.record, emulated.signal, flags) }).toEqual({
        code,
        what: emulated.what,
        ...outcome(native[i], signal, flags),
      });
    }
    expect(executed, `this processor does not execute ${operation.mnemonic}`).toBeGreaterThan(0);
  });
});
