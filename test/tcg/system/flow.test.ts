import { describe, expect, it } from 'vitest';
import { PageTableBuilder } from '../../../src/memory/page-tables.ts';
import { S, SEG } from '../../../src/tcg/layout.ts';
import { RIGHTS } from '../../../src/tcg/system/segments.ts';
import type { CpuidEntry } from '../../../src/vcpu/state.ts';
import { TestCpu } from '../machine.ts';

const CODE = 0x2000;
const ENTRY = 0x3000;
const SYSCALL = [0x0f, 0x05];
const SYSENTER = [0x0f, 0x34];
const VENDOR = { intel: 0x756e_6547, amd: 0x6874_7541 } as const;

/** User code of one instruction, in compatibility mode or 64-bit mode. @returns the exception it raised, or RIP */
function execute(vendor: keyof typeof VENDOR, instruction: number[], isCompatible: boolean): string | bigint {
  const t = new TestCpu();
  const { cpu } = t;
  const leaf: CpuidEntry = { function: 0, index: 0, flags: 0, eax: 0, ebx: VENDOR[vendor], ecx: 0, edx: 0 };
  cpu.system.registers.cpuid = [leaf];
  const tables = new PageTableBuilder(t.memory, { start: 0x10000, end: 0x40000 });
  const { cr3 } = tables.identityMap(0, 4 << 20, { user: true });
  t.memory.write(CODE, Uint8Array.from(instruction));
  t.memory.write(ENTRY, Uint8Array.of(0xf4));
  t.longMode({ cr3: Number(cr3), rip: BigInt(CODE), rsp: 0x9000n, cpl: 3 });
  if (isCompatible) {
    const rights = (cpu.system.segments.rights(SEG.CS) & ~RIGHTS.L) | RIGHTS.DB;
    cpu.system.segments.set(SEG.CS, 0x23, 0n, 0xffff_ffff, rights);
  }
  cpu.state.setU64(S.STAR, 0x10n << 32n);
  cpu.state.setU64(S.LSTAR, BigInt(ENTRY));
  cpu.state.setU64(S.CSTAR, BigInt(ENTRY + 0x100));
  cpu.state.setU64(S.SYSENTER_CS, 0x10n);
  cpu.state.setU64(S.SYSENTER_EIP, BigInt(ENTRY + 0x200));
  let raised = '';
  cpu.system.raise = (vector) => {
    raised = `#${vector}`;
    return false;
  };
  // No instruction behind it: it stops at the entry.
  cpu.system.debugStep = true;
  cpu.run(1);
  return raised === '' ? cpu.state.rip : raised;
}

describe('fast system calls', () => {
  it('of 64-bit mode are the same with both vendors but for SYSENTER', () => {
    expect(execute('intel', SYSCALL, false)).toBe(BigInt(ENTRY));
    expect(execute('amd', SYSCALL, false)).toBe(BigInt(ENTRY));
    expect(execute('intel', SYSENTER, false)).toBe(BigInt(ENTRY + 0x200));
    expect(execute('amd', SYSENTER, false)).toBe('#6');
  });

  it('of compatibility mode are SYSCALL with AMD and SYSENTER with Intel', () => {
    expect(execute('amd', SYSCALL, true)).toBe(BigInt(ENTRY + 0x100));
    expect(execute('intel', SYSCALL, true)).toBe('#6');
    expect(execute('intel', SYSENTER, true)).toBe(BigInt(ENTRY + 0x200));
    expect(execute('amd', SYSENTER, true)).toBe('#6');
  });
});
