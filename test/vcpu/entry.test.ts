import { describe, expect, test } from 'vitest';
import { kvm_regs, kvm_sregs } from '../../src/kvm/abi/index.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import {
  decodeDescriptor,
  FLAT_CODE_64,
  FLAT_DATA,
  SYSTEM_TYPE,
  segment,
} from '../../src/memory/segments.ts';
import {
  CR0,
  CR4,
  EFER,
  longModeEntry,
  protectedModeEntry,
  realModeEntry,
  resetState,
  userModeEntry,
  writeBootGdt,
} from '../../src/vcpu/entry.ts';

const memory = new GuestMemory({
  memories: [new WebAssembly.Memory({ initial: 2, maximum: 2, shared: true })],
  regions: [{ gpa: 0, size: 0x20000, memory: 0, offset: 0 }],
});
const segments32 = writeBootGdt(memory, 0x500, 32);
const segments64 = writeBootGdt(memory, 0x600, 64);
const tables = {
  gdt: segments64.gdt,
  idt: { base: 0x2000n, limit: 0xfff },
  code: segment({ ...FLAT_CODE_64, dpl: 3 }, 0x2b),
  data: segment({ ...FLAT_DATA, dpl: 3 }, 0x33),
  tss: segments64.tss,
};

const STATES = {
  reset: resetState(),
  real: realModeEntry({ cs: 0x1000, ip: 0x20 }),
  protected: protectedModeEntry({ entry: 0x100000, segments: segments32, stack: 0x8000 }),
  long: longModeEntry({ entry: 0x100000n, cr3: 0x9000n, segments: segments64, stack: 0x8000n }),
  user: userModeEntry({ entry: 0x400000n, stack: 0x500000n, cr3: 0x9000n, tables }),
};

describe.each(Object.entries(STATES))('%s', (_, { regs, sregs }) => {
  test('fits the KVM structs', () => {
    expect(kvm_regs.decode(kvm_regs.encode(regs))).toEqual(regs);
    expect(kvm_sregs.decode(kvm_sregs.encode(sregs))).toEqual(sregs);
  });

  test('is consistent enough for VM entry (SDM vol. 3C 27.3.1)', () => {
    const long = (sregs.efer & EFER.LMA) !== 0n;
    expect((sregs.cr0 & CR0.PG) !== 0n).toBe(long);
    expect(long ? (sregs.cr4 & CR4.PAE) !== 0n && sregs.cs.l === 1 && sregs.cs.db === 0 : true).toBe(true);
    expect([SYSTEM_TYPE.TSS_BUSY, SYSTEM_TYPE.TSS_16_BUSY]).toContain(sregs.tr.type);
    expect(sregs.cs.type & 8).toBe(8);
    expect(sregs.ss.dpl).toBe(sregs.cs.dpl);
    expect(regs.rflags).toBe(2n);
    for (const s of [sregs.cs, sregs.ds, sregs.ss]) expect(s.g === 1 ? s.limit & 0xfff : 0xfff).toBe(0xfff);
  });
});

test('reset starts at the reset vector of the boot processor', () => {
  const { regs, sregs } = resetState({ signature: 0x60fb1 });

  expect(sregs.cs.base + regs.rip).toBe(0xfffffff0n);
  expect(regs.rdx).toBe(0x60fb1n);
  expect(sregs.apic_base).toBe(0xfee00900n);
  expect(resetState({ bsp: false }).sregs.apic_base).toBe(0xfee00800n);
});

test('real mode places base and selector', () => {
  const { regs, sregs } = realModeEntry({ cs: 0x1000, ip: 0x20, ds: 0x2000, sp: 0xfffe });

  expect(sregs.cs.base + regs.rip).toBe(0x10020n);
  expect(sregs.ds).toMatchObject({ selector: 0x2000, base: 0x20000n });
  expect(sregs.ss).toMatchObject({ selector: 0x2000, base: 0x20000n });
  expect(regs.rsp).toBe(0xfffen);
});

test('the boot GDT in memory says what the segment registers hold', () => {
  const at = (table: number, selector: number, length = 8) =>
    decodeDescriptor(memory.read(table + (selector & ~7), length), selector);

  expect(at(0x600, 0x10)).toEqual(segments64.code);
  expect(at(0x600, 0x18)).toEqual(segments64.data);
  expect(at(0x600, 0x20, 16)).toEqual(segments64.tss);
  expect(at(0x500, 0x10)).toEqual(segments32.code);
  expect(segments32.code).toMatchObject({ db: 1, l: 0 });
});

test('entries are where they were asked for, with the boot GDT', () => {
  expect(STATES.long.regs).toMatchObject({ rsp: 0x8000n, rip: 0x100000n });
  expect(STATES.long.sregs.cs.selector).toBe(0x10);
  expect(STATES.long.sregs.ds.selector).toBe(0x18);
});

test('user mode is at privilege level 3', () => {
  const { sregs } = STATES.user;

  expect(sregs.cs).toMatchObject({ selector: 0x2b, dpl: 3, l: 1 });
  expect(sregs.ss).toMatchObject({ selector: 0x33, dpl: 3 });
  expect(sregs.idt).toEqual(tables.idt);
});
