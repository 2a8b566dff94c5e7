import { describe, expect, it } from 'vitest';
import { S } from '../../../src/tcg/layout.ts';
import { getDebugRegs, setDebugRegs } from '../../../src/tcg/state-transfer.ts';
import { GuestFault, VECTOR } from '../../../src/tcg/system/fault.ts';
import { msrIndices } from '../../../src/tcg/system/msrs.ts';
import { MSR } from '../../../src/vcpu/msrs.ts';
import { TestCpu } from '../machine.ts';

function makeRegisters(hasFeature?: (name: string) => boolean) {
  const { cpu } = new TestCpu({ ram: 1 << 20, hasFeature });
  const { registers, notices } = cpu.system;
  let tsc = 1000n;
  registers.peripherals = {
    ...registers.peripherals,
    tsc: () => tsc,
    setTsc: (value) => {
      tsc = value;
    },
  };
  return { cpu, registers, notices };
}

const refusal = expect.objectContaining({ vector: VECTOR.GP, error: 0 });
function thrown(action: () => void): unknown {
  try {
    action();
  } catch (error) {
    if (error instanceof GuestFault) return error;
    throw error;
  }
  return undefined;
}

describe('MSRs of a saved state', () => {
  it('can all be read, and written back as read', () => {
    const { registers } = makeRegisters();

    for (const index of msrIndices()) {
      const value = registers.getMsr(index);
      expect(value, index.toString(16)).toBeTypeOf('bigint');
      expect(registers.setMsr(index, value!), index.toString(16)).toBe(true);
    }
  });

  it('do not move each other when they are restored', () => {
    const { registers } = makeRegisters();

    registers.setMsr(MSR.IA32_TSC, 5000n);
    registers.setMsr(MSR.IA32_TSC_ADJUST, 7n);

    expect(registers.getMsr(MSR.IA32_TSC)).toBe(5000n);
    expect(registers.getMsr(MSR.IA32_TSC_ADJUST)).toBe(7n);
  });

  it('are refused where there is none, or not such a value', () => {
    const { registers } = makeRegisters();

    expect(registers.getMsr(0x1234_5678)).toBeUndefined();
    expect(registers.setMsr(0x1234_5678, 0n)).toBe(false);
    expect(registers.setMsr(MSR.IA32_PAT, 2n)).toBe(false);
  });
});

describe('WRMSR', () => {
  it('moves TSC and TSC_ADJUST by the same amount', () => {
    const { registers } = makeRegisters();

    registers.writeMsr(MSR.IA32_TSC, 1500n);
    expect(registers.readMsr(MSR.IA32_TSC_ADJUST)).toBe(500n);
    registers.writeMsr(MSR.IA32_TSC_ADJUST, 0n);
    expect(registers.readMsr(MSR.IA32_TSC)).toBe(1000n);
  });

  it('raises #GP for what a device has and refuses', () => {
    const { registers } = makeRegisters();
    const { peripherals } = registers;
    registers.peripherals = {
      ...peripherals,
      readMsr: (index) => (index === MSR.IA32_APIC_BASE ? 0xfee0_0900n : undefined),
      writeMsr: () => false,
    };

    expect(thrown(() => registers.writeMsr(MSR.IA32_APIC_BASE, 0xfee0_0400n))).toEqual(refusal);
  });

  it('tells of an unknown MSR once', () => {
    const { registers, notices } = makeRegisters();
    const said: string[] = [];
    notices.listener = (message) => said.push(message);

    for (let i = 0; i < 3; i++) expect(thrown(() => registers.writeMsr(0x1234, 0n))).toEqual(refusal);

    expect(said).toHaveLength(1);
    expect(said[0]).toContain('0x1234');
  });
});

describe('CR4', () => {
  it('has the bits of the features there are', () => {
    const { registers } = makeRegisters((name) => name === 'smep');

    registers.writeCr(4, 1n << 20n);

    expect(registers.readCr(4)).toBe(1n << 20n);
    expect(thrown(() => registers.writeCr(4, 1n << 21n))).toEqual(refusal);
  });
});

describe('CR3', () => {
  it('refuses PDPTEs with reserved bits when PAE paging would use them', () => {
    const t = new TestCpu({ ram: 1 << 20 });
    const { registers } = t.cpu.system;
    t.cpu.state.setU64(S.CR0, 0x8000_0011n);
    t.cpu.state.setU64(S.CR4, 0x20n);
    t.memory.writeU64(0x1000, 0x2001n);
    t.memory.writeU64(0x2000, 0x2003n);

    registers.writeCr(3, 0x1000n);

    expect(thrown(() => registers.writeCr(3, 0x2000n))).toEqual(refusal);
    expect(registers.readCr(3)).toBe(0x1000n);
  });
});

describe('debug registers', () => {
  it('act when they were restored', () => {
    const { cpu } = makeRegisters();

    setDebugRegs(cpu, { db: [0x1000n, 0x2000n, 0n, 0n], dr6: 0xffff_0ff0n, dr7: 0x10_0405n, flags: 0n });

    expect([cpu.system.debug.hasCode, cpu.system.debug.hasData]).toEqual([true, true]);
    expect(getDebugRegs(cpu).dr7).toBe(0x10_0405n);
  });
});
