import { beforeEach, describe, expect, it } from 'vitest';
import { PageTableBuilder } from '../../../src/memory/page-tables.ts';
import { S, STATUS } from '../../../src/tcg/layout.ts';
import { getFpu, setFpu } from '../../../src/tcg/state-transfer.ts';
import { VECTOR } from '../../../src/tcg/system/fault.ts';
import { TestCpu } from '../machine.ts';

const CODE = 0x2000;
const DATA = 0x3000;
const OSXMMEXCPT = 1n << 10n;
const MASKED = 0x1f80;

const test = new TestCpu();
const tables = new PageTableBuilder(test.memory, { start: 0x10000, end: 0x20000 });
const cr3 = Number(tables.identityMap(0, 16 << 20, { user: true }).cr3);
const { cpu } = test;
const { state } = cpu;

beforeEach(() => {
  test.longMode({ cr3, rip: BigInt(CODE), rsp: 0x8000n });
  state.setI32(S.FAULT_VECTOR, -1);
  state.setI32(S.MXCSR, MASKED);
});

/** Runs an instruction; gives the vector it raises, or undefined. HLT follows it. */
function run(...code: number[]): number | undefined {
  test.memory.write(CODE, Uint8Array.of(...code, 0xf4));
  cpu.mmu.touched(cpu.map.host(CODE), code.length + 1);
  state.rip = BigInt(CODE);
  expect(cpu.exports.run(10)).toBe(STATUS.LEAVE);
  const vector = state.i32(S.FAULT_VECTOR);
  state.setI32(S.FAULT_VECTOR, -1);
  return vector < 0 ? undefined : vector;
}

const ldmxcsr = (value: number) => {
  test.memory.writeU32(DATA, value);
  return run(0x0f, 0xae, 0x14, 0x25, 0, DATA >> 8, 0, 0);
};
const stmxcsr = () => {
  run(0x0f, 0xae, 0x1c, 0x25, 0, DATA >> 8, 0, 0);
  return test.memory.readU32(DATA);
};
const at = (register: number) => state.base + S.XMM + register * 16;
const setDouble = (register: number, value: number) => state.view.setFloat64(at(register), value, true);
const double = (register: number) => state.view.getFloat64(at(register), true);
const addsd = () => run(0xf2, 0x0f, 0x58, 0xc1);
const divsd = () => run(0xf2, 0x0f, 0x5e, 0xc1);

describe('MXCSR', () => {
  it('is loaded and stored with all its bits', () => {
    expect(ldmxcsr(0xffff)).toBeUndefined();
    expect(stmxcsr()).toBe(0xffff);
  });

  it('is not loaded with reserved bits', () => {
    expect(ldmxcsr(0x1_1f80)).toBe(VECTOR.GP);
    expect(ldmxcsr(0x8000_1f80)).toBe(VECTOR.GP);
    expect(stmxcsr()).toBe(MASKED);
  });

  it('loses reserved bits of a state that is written from outside', () => {
    setFpu(cpu, { ...getFpu(cpu), mxcsr: 0xffff_3fa0 });
    expect(stmxcsr()).toBe(0x3fa0);
  });

  it('collects flags: of what is inexact once, and of what is exact none', () => {
    setDouble(0, 0.5);
    setDouble(1, 0.25);
    addsd();
    expect(stmxcsr()).toBe(MASKED);
    setDouble(1, 0.1);
    addsd();
    expect(stmxcsr()).toBe(MASKED | 0x20);
    setDouble(1, 0);
    divsd();
    expect([stmxcsr(), double(0)]).toEqual([MASKED | 0x24, Number.POSITIVE_INFINITY]);
  });

  it('rounds as it is told to as soon as it is loaded', () => {
    const sums = [0x1fa0, 0x3fa0, 0x5fa0, 0x7fa0].map((mxcsr) => {
      ldmxcsr(mxcsr);
      setDouble(0, 1);
      setDouble(1, 2 ** -60);
      addsd();
      return double(0);
    });
    expect(sums).toEqual([1, 1, 1 + 2 ** -52, 1]);
  });
});

describe('an exception that is not masked', () => {
  beforeEach(() => {
    ldmxcsr(MASKED & ~0x200);
    setDouble(0, 1);
    setDouble(1, 0);
  });

  it('is #XM, with its flag set and the destination as it was', () => {
    expect(divsd()).toBe(VECTOR.XM);
    expect([stmxcsr(), double(0)]).toEqual([(MASKED & ~0x200) | 4, 1]);
  });

  it('is #UD when the system does not know of #XM', () => {
    state.setU64(S.CR4, state.u64(S.CR4) & ~OSXMMEXCPT);
    expect(divsd()).toBe(VECTOR.UD);
    expect([stmxcsr(), double(0)]).toEqual([(MASKED & ~0x200) | 4, 1]);
  });

  it('is raised by what raises the flag again, not by the flag that is set', () => {
    ldmxcsr((MASKED & ~0x200) | 4);
    setDouble(1, 2);
    expect(divsd()).toBeUndefined();
    expect(double(0)).toBe(0.5);
  });

  it('of an inexact result is raised even where the flag is set already', () => {
    ldmxcsr((MASKED & ~0x1000) | 0x20);
    setDouble(1, 3);
    expect(divsd()).toBe(VECTOR.XM);
    expect(double(0)).toBe(1);
  });
});
