// needs: kvm
/**
 * Instructions that a software KVM lacks, met by guests in kernel mode. On hardware the processor executes them, and the
 * guests must end the same.
 */
import { describe, expect, it } from 'vitest';
import { probeKvm, writeIdt } from '../../src/index.ts';
import type { VmConfig } from '../../src/machine/config.ts';
import { Vm } from '../../src/machine/vm.ts';
import { build } from '../boot/support.ts';
import { guestsOn } from '../support/guests.ts';

const { longModeVm } = guestsOn('kvm');
const { software, lacking } = probeKvm();

/** Puts an IDT to 0x200000 with handlers at these addresses, and loads it. */
const LOAD_IDT = 'lidt [rip + idtr]; jmp start; idtr: .word 0xfff; .quad 0x200000; start:';

async function run(source: string, options: Partial<VmConfig> & { gates?: Record<number, bigint> } = {}) {
  const { gates = {}, ...config } = options;
  await using vm = await longModeVm(source, config);
  const { sregs } = await vm.readVcpu(0, 'sregs');
  const selector = sregs.cs.selector;
  writeIdt(
    vm.memory,
    0x200000,
    new Map(Object.entries(gates).map(([n, offset]) => [Number(n), { offset, selector }])),
  );
  vm.start();
  const exit = await vm.exited;
  // The machine's memory is gone with the machine.
  const words = Array.from({ length: 16 }, (_, index) => vm.memory.readU64(0x300000 + 8 * index));
  const at = (index: number) => words[index];
  return { exit, at, assisted: vm.stats().assisted };
}

describe('a guest in kernel mode', () => {
  it('runs its own handler for int3, which returns behind it', async () => {
    const { exit, at, assisted } = await run(
      `${LOAD_IDT} mov eax, 5; int3; inc eax; mov [0x300000], rax; hlt
       .org 0x200; mov rbx, [rsp]; mov [0x300008], rbx; add eax, 100; iretq`,
      { gates: { 3: 0x100200n } },
    );

    expect(exit.reason).toBe('halt');
    expect(at(0)).toBe(106n);
    // The return address is behind the one byte of int3, which is followed by inc eax (ff c0).
    expect(Number(at(1))).toBeGreaterThan(0x100000);
    expect(assisted > 0).toBe(software);
  });

  it('runs its own handler for int n', async () => {
    const { exit, at } = await run(
      `${LOAD_IDT} xor eax, eax; int 0x80; mov [0x300000], rax; hlt
       .org 0x200; mov eax, 0x77; iretq`,
      { gates: { 128: 0x100200n } },
    );

    expect(exit.reason).toBe('halt');
    expect(at(0)).toBe(0x77n);
  });

  it('exchanges 16 bytes with cmpxchg16b, locked and not', async () => {
    const { exit, at, assisted } = await run(`
      mov rdi, 0x300000
      mov qword ptr [rdi], 1; mov qword ptr [rdi+8], 2
      mov eax, 1; mov edx, 2; mov ebx, 3; mov ecx, 4
      lock cmpxchg16b [rdi]
      setz byte ptr [rdi+16]
      mov eax, 9; cmpxchg16b [rdi]
      setz byte ptr [rdi+24]
      mov [rdi+32], rax; mov [rdi+40], rdx
      hlt`);

    expect(exit.reason).toBe('halt');
    // The first finds what it expects, the second does not and loads what is there.
    expect([0, 1, 2, 3, 4, 5].map(at)).toEqual([3n, 4n, 1n, 0n, 3n, 4n]);
    expect(assisted > 0).toBe(lacking.includes('cx16'));
  });

  it('counts with locked cmpxchg16b from two vCPUs without losing one', async () => {
    await using vm = await longModeVm(
      `mov rdi, 0x300000; mov esi, 200
       1: mov rax, [rdi]; mov rdx, [rdi+8]
       2: mov rbx, rax; inc rbx; mov rcx, rdx; dec rcx
       lock cmpxchg16b [rdi]; jnz 2b
       dec esi; jnz 1b; hlt`,
      { cpus: 2, startAll: true },
    );

    vm.start();
    await vm.exited;

    expect(vm.memory.readU64(0x300000)).toBe(400n);
    expect(vm.memory.readU64(0x300008)).toBe(BigInt.asUintN(64, -400n));
  });

  it('gets #UD of its own for ud2', async () => {
    const { exit, at } = await run(
      `${LOAD_IDT} xor eax, eax; ud2; hlt
       .org 0x200; mov rbx, [rsp]; mov [0x300000], rbx; hlt`,
      { gates: { 6: 0x100200n } },
    );

    expect(exit.reason).toBe('halt');
    expect(at(0)).toBeGreaterThan(0x100000n);
  });
});

describe('an instruction that neither KVM nor the assist can carry out', () => {
  // FSIN: x87 arithmetic is beyond a software KVM's emulator.
  const FSIN = 'fninit; fldpi; fsin; hlt';

  it('ends the run with its name, bytes and place, and the registers; hardware runs it', async () => {
    const { exit } = await run(FSIN);

    if (software) {
      expect(exit).toMatchObject({ reason: 'error', status: 6 });
      expect(exit.error?.code).toBe('TSV_E_GUEST_INSTRUCTION');
      expect(exit.error?.message).toMatch(/^KVM cannot emulate "f(ldpi|sin)" \(d9 (eb|fe)\) at 0x1000/);
      expect(exit.error?.hint).not.toBe('');
      expect(exit.registers).toHaveLength(1);
      expect(exit.registers?.[0].code[0]).toBe(0xd9);
    } else expect(exit.reason).toBe('halt');
  });

  it('is found in the kernel by its symbol', async () => {
    const kernel = await build({
      source: `.intel_syntax noprefix\n.globl _start, compute\n_start: call compute\n.type compute, @function\ncompute: fninit; fldpi; fsin; mov al, 1; out 0xf4, al; hlt`,
    });
    await using vm = await Vm.create({ accel: 'kvm', memory: '32M', boot: { kernel } });
    vm.start();
    const exit = await vm.exited;

    if (software) {
      expect(exit.registers?.[0].symbol).toMatch(/^compute/);
      expect(exit.error?.message).toMatch(/ at 0x10000. \(compute\+0x\w\), and /);
    } else expect(exit).toMatchObject({ reason: 'exit', status: 3 });
  });
});
