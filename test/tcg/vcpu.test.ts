/** A vCPU behind the engine seam, in the test's own thread. */
import { expect, it } from 'vitest';
import { SharedTime } from '../../src/devices/shared-time.ts';
import { KVM_EXIT_IO } from '../../src/kvm/abi/constants.ts';
import { KVM_RUN_EXIT_REASON, KVM_RUN_IMMEDIATE_EXIT } from '../../src/kvm/abi/run.ts';
import { allocateRam } from '../../src/memory/allocate.ts';
import { RUN_PIO_DATA, S } from '../../src/tcg/layout.ts';
import { openVcpu, type TcgVcpu } from '../../src/tcg/vcpu.ts';
import { TcgVm } from '../../src/tcg/vm.ts';
import { protectedModeEntry, writeBootGdt } from '../../src/vcpu/entry.ts';
import type { TraceTopic } from '../../src/vcpu/protocol.ts';
import { assemble } from '../support/assemble.ts';

const CODE = 0x2000;
const APIC_ENABLED = 'mov dword ptr [0xfee000f0], 0x1ff';
const DIVIDE = { by1: 0xb, by128: 0xa } as const;

interface Options {
  time?: SharedTime;
  /** Where a trace of instructions goes, and what is logged. */
  trace?: string[];
  log?: string[];
}

/** A vCPU at a program in 32-bit protected mode, whose output to a port is an exit. */
function vcpuAt(source: string, { time = new SharedTime(), trace, log }: Options = {}): TcgVcpu {
  const memory = allocateRam({ size: 2 << 20, reserve: TcgVm.reserve(1) });
  const vm = TcgVm.create({ memory, irqchip: 'kernel', pit: false, time }, 1);
  const tracer = {
    has: (topic: TraceTopic) => trace !== undefined && topic === 'insn',
    add: (line: string) => trace?.push(line),
  };
  const vcpu = openVcpu(vm.vcpuPort(0), { tracer, log: (_, text) => log?.push(text) }) as TcgVcpu;
  vcpu.set('cpuid', vm.supportedCpuid());
  memory.write(CODE, assemble(`.code32\n${source}`, CODE));
  const { regs, sregs } = protectedModeEntry({
    entry: CODE,
    segments: writeBootGdt(memory, 0x1000, 32),
    stack: 0x8000,
  });
  vcpu.set('sregs', sregs);
  vcpu.set('regs', regs);
  return vcpu;
}

function runToOutput(vcpu: TcgVcpu): void {
  const run = new DataView(vcpu.run.buffer, vcpu.run.byteOffset);
  expect(vcpu.enter()).toBe(0);
  expect(run.getUint32(KVM_RUN_EXIT_REASON, true)).toBe(KVM_EXIT_IO);
}

it('keeps virtual time whole when the guest divides the timer differently while it runs', () => {
  const time = new SharedTime();
  time.isVirtual = true;
  const vcpu = vcpuAt(
    `${APIC_ENABLED}
    mov dword ptr [0xfee00320], 0x20
    mov dword ptr [0xfee003e0], ${DIVIDE.by128}; mov dword ptr [0xfee00380], 100000
    nop; nop; nop
    mov dword ptr [0xfee003e0], ${DIVIDE.by1}
    1: rdtsc; test dword ptr [0xfee00210], 1; jz 1b
    out 0x80, al`,
    { time },
  );

  runToOutput(vcpu);

  expect(time.now()).toBeGreaterThan(100_000);
  expect(Number.isInteger(time.now())).toBe(true);
  expect(vcpu.cpu.state.u64(S.RETIRED)).toBeLessThan(1_000_000n);
});

it('fires the TSC deadline timer when the guest moves its TSC past the deadline', () => {
  const time = new SharedTime();
  time.isVirtual = true;
  const vcpu = vcpuAt(
    `${APIC_ENABLED}
    mov dword ptr [0xfee00320], 0x40020
    mov ecx, 0x6e0; mov edx, 0x100; xor eax, eax; wrmsr
    mov ecx, 0x10; mov edx, 0x200; wrmsr
    mov ecx, 10; 1: dec ecx; jnz 1b
    mov eax, [0xfee00210]
    out 0x80, al`,
    { time },
  );

  runToOutput(vcpu);

  expect(vcpu.cpu.state.gpr(0)).toBe(1n);
});

it('comes back from a long string instruction, for what is due meanwhile', () => {
  const vcpu = vcpuAt('cld; mov ecx, 0x1f0000; rep lodsb');
  vcpu.mailbox.takeWake();

  vcpu.cpu.run(1000);

  expect(vcpu.cpu.state.gpr(1)).toBeGreaterThan(0x1d_0000n);
});

it('comes back from operations that each take long', () => {
  const vcpu = vcpuAt('1: fld1; fstp st(0); jmp 1b');
  vcpu.mailbox.takeWake();

  vcpu.cpu.run(1_000_000);

  expect(vcpu.cpu.state.u64(S.RETIRED)).toBeLessThan(2000n);
});

it('traces an instruction that waits for a device once, with what it has read', () => {
  const lines: string[] = [];
  const vcpu = vcpuAt('inc ebx; in al, 0x80; out 0x81, al; out 0x82, al', { trace: lines });

  runToOutput(vcpu);
  vcpu.run[RUN_PIO_DATA] = 7;
  for (let exit = 0; exit < 2; exit++) runToOutput(vcpu);

  expect(lines).toEqual([
    'insn 0x2000 43 inc rbx=0x1',
    'insn 0x2001 e480 in rax=0x7',
    'insn 0x2003 e681 out',
  ]);
});

it('resets the debug registers with INIT, and keeps the x87 registers', () => {
  const vcpu = vcpuAt('mov eax, 0x5000; mov dr0, eax; mov eax, 2; mov dr7, eax; fld1; out 0x80, al');
  runToOutput(vcpu);
  const before = vcpu.get('debugregs');
  const { fpr } = vcpu.get('fpu');

  vcpu.mailbox.postInit();
  vcpu.run[KVM_RUN_IMMEDIATE_EXIT] = 1;
  vcpu.enter();

  expect([before.db[0], before.dr7]).toEqual([0x5000n, 0x402n]);
  expect(vcpu.get('debugregs')).toEqual({ db: [0n, 0n, 0n, 0n], dr6: 0xffff0ff0n, dr7: 0x400n, flags: 0n });
  expect(vcpu.get('fpu').fpr).toEqual(fpr);
  expect(vcpu.get('regs').rip).toBe(0xfff0n);
});

it('says once in the log which instruction it does not have', () => {
  const said: string[] = [];
  const handler = 'handler: pop eax; add eax, 3; push eax; iretd';
  const vcpu = vcpuAt(
    `mov word ptr [0x6030], offset handler; mov word ptr [0x6032], 0x10; mov dword ptr [0x6034], 0x8e00
    lidt [idt]; .byte 0x0f, 0x04, 0xc0; .byte 0x0f, 0x04, 0xc0; out 0x80, al
    ${handler}
    idt: .word 0x7f; .long 0x6000`,
    { log: said },
  );

  runToOutput(vcpu);

  expect(said).toEqual([expect.stringMatching(/^vCPU 0: no such instruction at 0x[0-9a-f]+: 0f04c00f04c0/)]);
});
