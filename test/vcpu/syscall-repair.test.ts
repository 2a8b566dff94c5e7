// needs: kvm
/** SYSCALL where a KVM leaves it unfinished: the repair on a vCPU of plain objects, and system calls on the real one. */
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { TsvError } from '../../src/errors.ts';
import * as abi from '../../src/kvm/abi/index.ts';
import { GuestMemory } from '../../src/memory/guest-memory.ts';
import { writeIdt } from '../../src/memory/interrupt-tables.ts';
import { PageTableBuilder } from '../../src/memory/page-tables.ts';
import { FLAT_CODE_64, FLAT_DATA, SYSTEM_TYPE, segment } from '../../src/memory/segments.ts';
import type { EngineVcpu, GuestDebug } from '../../src/vcpu/engine.ts';
import { longModeEntry } from '../../src/vcpu/entry.ts';
import { MSR } from '../../src/vcpu/msrs.ts';
import type { DebugRegs, Regs, Sregs, VcpuState } from '../../src/vcpu/state.ts';
import { SyscallRepair } from '../../src/vcpu/syscall-repair.ts';
import { CODE, prepare } from '../fuzz/guest-image.ts';
import { HostileMachine } from '../fuzz/hostile-machine.ts';
import { Random } from '../fuzz/support.ts';
import { assemble } from '../support/assemble.ts';

const RAM = 1 << 20;
/** DR6 after a breakpoint in DR0. */
const DR6 = 0xffff_0ff1n;
const IDT = 0x8000;
const HANDLER = 0xffff_ffff_8100_0abcn;
const LSTAR = 0xffff_ffff_8200_0000n;
const STACK = 0x9000n;
const USER_CODE = 0xa000n;
const PF_USER_FETCH = 0x15n;
/** Where a program on the real KVM finds itself. */
const USER_MAP = 0x4000_0000;
const STAR = (0x23n << 48n) | (0x10n << 32n);

const memory = new GuestMemory({
  memories: [new WebAssembly.Memory({ initial: RAM >> 16, maximum: RAM >> 16, shared: true })],
  regions: [{ gpa: 0, size: RAM, memory: 0, offset: 0 }],
});

/** A vCPU in its page-fault handler, the frame of a fault at LSTAR from user mode on its stack. */
class FakeVcpu {
  regs: Regs;
  sregs: Sregs;
  debugregs: DebugRegs = { db: [0n, 0n, 0n, 0n], dr6: 0n, dr7: 0x400n, flags: 0n };
  events = { exception: { injected: 0, nr: 0 } };
  readonly debugs: GuestDebug[] = [];
  readonly msrs = new Map<number, bigint>([[MSR.IA32_STAR, STAR]]);

  constructor() {
    memory.fill(0, RAM);
    const tables = new PageTableBuilder(memory, { start: 0x1000, end: 0x8000 });
    tables.identityMap(0x8000, 0x10000);
    const segments = {
      gdt: { base: 0n, limit: 0 },
      code: segment(FLAT_CODE_64, 0x10),
      data: segment(FLAT_DATA, 0x18),
      tss: segment({ ...FLAT_DATA, limit: 0x67, type: SYSTEM_TYPE.TSS_BUSY, s: 0, g: 0, db: 0 }, 0x20),
    };
    const { regs, sregs } = longModeEntry({ entry: HANDLER, cr3: tables.cr3, segments, stack: STACK });
    this.regs = { ...regs, rcx: USER_CODE + 2n, r11: 0x246n };
    this.sregs = {
      ...sregs,
      idt: writeIdt(memory, IDT, new Map([[14, { offset: HANDLER, selector: 0x10 }]])),
    };
    memory.write(Number(USER_CODE), Uint8Array.of(0x0f, 0x05));
    this.frame(PF_USER_FETCH, LSTAR, 0x33n, 0x10246n, 0x7fff_0000n, 0x2bn);
  }

  frame(...words: bigint[]): void {
    for (const [i, word] of words.entries()) memory.writeU64(Number(STACK) + 8 * i, word);
  }

  get(key: 'regs' | 'sregs' | 'debugregs' | 'events'): unknown {
    return structuredClone(this[key]);
  }
  set(key: 'regs' | 'sregs' | 'debugregs' | 'events' | 'msrs', value: never): void {
    if (key !== 'msrs') {
      this[key] = value;
      return;
    }
    for (const { index, data } of value as VcpuState['msrs']) {
      // As KVM does with an address that is none.
      if (BigInt.asUintN(64, BigInt.asIntN(48, data)) !== data) throw new TsvError('TSV_E_IOCTL', 'refused');
      this.msrs.set(index, data);
    }
  }
  getMsrs(indices: readonly number[]): VcpuState['msrs'] {
    return indices.map((index) => ({ index, data: this.msrs.get(index) ?? 0n }));
  }
  setGuestDebug(debug: GuestDebug): void {
    this.debugs.push(debug);
  }
}

function repaired(vcpu = new FakeVcpu()) {
  const repair = new SyscallRepair(vcpu as unknown as EngineVcpu, memory);
  repair.setLstar(LSTAR);
  return { vcpu, repair };
}

const AT_HANDLER = {
  control: abi.KVM_GUESTDBG_ENABLE | abi.KVM_GUESTDBG_USE_HW_BP,
  debugregs: { db: [HANDLER, 0n, 0n, 0n], dr7: 0x402n },
};

describe('a write to LSTAR', () => {
  it('is carried out, and a breakpoint waits at the page-fault handler', () => {
    const { vcpu } = repaired();

    expect(vcpu.msrs.get(MSR.IA32_LSTAR)).toBe(LSTAR);
    expect(vcpu.debugs).toEqual([AT_HANDLER]);
  });

  it('is carried out where the IDT cannot be read, and no breakpoint waits any more', () => {
    const { vcpu, repair } = repaired();
    vcpu.sregs.idt.base = 0x7fff_ffff_0000n;

    const done = repair.setLstar(LSTAR + 16n);

    expect(done).toBe(true);
    expect(vcpu.msrs.get(MSR.IA32_LSTAR)).toBe(LSTAR + 16n);
    expect(vcpu.debugs.at(-1)?.control).toBe(0);
    expect(repair.onDebug(HANDLER, DR6)).toBe(false);
  });

  it('that KVM refuses is a fault of the guest', () => {
    const { vcpu, repair } = repaired();

    const done = repair.setLstar(0x8000_0000_0000_0000n);

    expect(done).toBe(false);
    expect(vcpu.msrs.get(MSR.IA32_LSTAR)).toBe(LSTAR);
    expect(vcpu.debugs).toEqual([AT_HANDLER]);
  });
});

describe('a fault that is a SYSCALL in disguise', () => {
  it('is taken back: the vCPU is where the instruction should have left it', () => {
    const { vcpu, repair } = repaired();
    const { rcx } = vcpu.regs;

    const ours = repair.onDebug(HANDLER, DR6);

    expect(ours).toBe(true);
    expect(repair.count).toBe(1);
    expect(vcpu.regs).toMatchObject({ rip: LSTAR, rsp: 0x7fff_0000n, rcx, rflags: 0x246n });
    expect(vcpu.regs.r11 & 0x202n).toBe(0x202n);
    expect(vcpu.sregs.cs).toMatchObject({ selector: 0x10, dpl: 0, l: 1, db: 0 });
    expect(vcpu.sregs.ss).toMatchObject({ selector: 0x18, dpl: 0 });
  });

  it('is one too where the guest has neither NX nor SMEP, and is not told of fetches', () => {
    const { vcpu, repair } = repaired();
    vcpu.frame(0x4n);

    repair.onDebug(HANDLER, DR6);

    expect(repair.count).toBe(1);
  });

  it('leaves guest memory as it was', () => {
    const { repair } = repaired();
    const before = memory.read(0, RAM);

    repair.onDebug(HANDLER, DR6);

    expect(Buffer.compare(memory.read(0, RAM), before)).toBe(0);
  });

  it('brings no flags back through R11 that a program cannot set', () => {
    const { vcpu, repair } = repaired();
    vcpu.regs.r11 = 0xffff_ffff_ffff_ffffn;

    repair.onDebug(HANDLER, DR6);

    const [IOPL, NT_VM_VIF_VIP] = [0x3000n, 0x1a_0000n];
    expect(vcpu.regs.r11 & (IOPL | NT_VM_VIF_VIP)).toBe(0n);
  });
});

describe('any other fault', () => {
  const ordinary: [string, (vcpu: FakeVcpu) => void][] = [
    ['of the kernel', (vcpu) => vcpu.frame(0x11n, LSTAR, 0x10n)],
    ['somewhere else', (vcpu) => vcpu.frame(PF_USER_FETCH, LSTAR + 1n, 0x33n)],
    ['from kernel code, whatever its error code says', (vcpu) => vcpu.frame(PF_USER_FETCH, LSTAR, 0x10n)],
    ['that no SYSCALL came before', () => memory.write(Number(USER_CODE), Uint8Array.of(0x90, 0x90))],
    ['whose return address cannot be read', (vcpu) => (vcpu.regs.rcx = 0x1000_0000n)],
    ['with the stack outside memory', (vcpu) => (vcpu.regs.rsp = 0x1000_0000n)],
    ['with a stack pointer that is no address', (vcpu) => (vcpu.regs.rsp = 0x8000_0000_0000_0000n)],
    ['at the end of the address space', (vcpu) => (vcpu.regs.rsp = 0xffff_ffff_ffff_fffcn)],
  ];

  it.each(ordinary)('%s: is stepped over, and the breakpoint waits again', (_, arrange) => {
    const { vcpu, repair } = repaired();
    arrange(vcpu);
    const before = structuredClone([vcpu.regs, vcpu.sregs]);

    const first = repair.onDebug(HANDLER, DR6);
    const step = vcpu.debugs.at(-1);
    const second = repair.onDebug(HANDLER + 4n, DR6);

    expect([first, second]).toEqual([true, true]);
    expect(step?.control).toBe(abi.KVM_GUESTDBG_ENABLE | abi.KVM_GUESTDBG_SINGLESTEP);
    expect(vcpu.debugs.at(-1)).toEqual(AT_HANDLER);
    expect([vcpu.regs, vcpu.sregs]).toEqual(before);
    expect(repair.count).toBe(0);
  });
});

describe('a debug exit elsewhere', () => {
  it('is an exception of the guest, which it gets', () => {
    const { vcpu, repair } = repaired();

    const dealtWith = repair.onDebug(0x1234n, 0xffff_4ff0n);

    expect(dealtWith).toBe(true);
    expect(vcpu.debugregs.dr6).toBe(0xffff_4ff0n);
    expect(vcpu.events.exception).toMatchObject({ injected: 1, nr: 1 });
  });

  it('has nothing to do with a repair that does not wait for anything', () => {
    expect(new SyscallRepair(new FakeVcpu() as unknown as EngineVcpu, memory).onDebug(0n, DR6)).toBe(false);
  });
});

describe('whatever the guest has in its registers and memory', () => {
  it('the repair answers and changes nothing but registers', () => {
    const u64 = fc.oneof(
      fc.bigInt(0n, 2n ** 64n - 1n),
      fc.constantFrom(0n, STACK, LSTAR, HANDLER, 2n ** 64n - 1n),
    );
    fc.assert(
      fc.property(
        fc.array(u64, { minLength: 6, maxLength: 6 }),
        u64,
        u64,
        u64,
        u64,
        (frame, rsp, rcx, cr3, idt) => {
          const vcpu = new FakeVcpu();
          vcpu.frame(...frame);
          Object.assign(vcpu.regs, { rsp, rcx });
          if (cr3 % 3n === 0n) vcpu.sregs.cr3 = cr3;
          if (idt % 3n === 0n) vcpu.sregs.idt.base = idt;
          const repair = new SyscallRepair(vcpu as unknown as EngineVcpu, memory);
          const before = memory.read(0, RAM);

          repair.setLstar(LSTAR);
          repair.onDebug(HANDLER, DR6);
          repair.onDebug(rsp, DR6);

          expect(Buffer.compare(memory.read(0, RAM), before)).toBe(0);
          for (const value of Object.values(vcpu.regs)) expect(value >= 0n && value < 2n ** 64n).toBe(true);
        },
      ),
      { numRuns: 60 },
    );
  });
});

describe('system calls on this KVM', () => {
  let machine: HostileMachine;
  beforeAll(async () => {
    machine = await HostileMachine.create('none', []);
  });
  afterAll(() => machine[Symbol.asyncDispose]());

  /** The kernel counts calls at 0x7000 and keeps what it was called with; the program makes `calls` of them. */
  const program = (calls: number, efer: number) => `
    mov ecx, 0xc0000080; rdmsr; or eax, ${efer}; wrmsr
    mov ecx, 0xc0000081; xor eax, eax; mov edx, 0x180010; wrmsr
    mov ecx, 0xc0000084; mov eax, 0x200; xor edx, edx; wrmsr
    mov ecx, 0xc0000082; lea rax, [rip + kernel]; mov rdx, rax; shr rdx, 32; wrmsr
    lea rbx, [rip + user]; add rbx, ${USER_MAP - CODE}; push 0x23; push ${USER_MAP + 0xf00}; push 0x202; push 0x2b; push rbx; iretq
  kernel:
    inc dword ptr [0x7000]; add [0x7008], rax; mov [0x7010], rcx; mov [0x7018], r11; mov [0x7020], rsp
    mov [0x7028], cs; mov [0x7030], ss
    lea rax, [rax + rax + 1]
    cmp dword ptr [0x7000], ${calls}; je done
    sysretq
  done: mov dword ptr [0x7038], 1; hlt; jmp done
  user: xor eax, eax; mov r9, ${calls}
  next: syscall
  after: dec r9; jnz next; ud2`;

  it.each([
    ['without NX', 1],
    ['with NX', 0x801],
  ])('enter the kernel as the manual says and return, as often as they are made, %s', async (_, efer) => {
    const CALLS = 20;
    const state = prepare(machine.memory, 'long', 'sound', new Random(3));
    state.regs.rflags = 2n;
    const code = assemble(program(CALLS, efer), CODE);
    machine.memory.write(CODE, code);
    // The kernel's pages are its own; the program sees its code at another address.
    const tables = new PageTableBuilder(machine.memory, { start: 0x180000, end: 0x190000 });
    tables.identityMap(0, 0x200000).map(BigInt(USER_MAP), CODE, 0x1000, { user: true });
    state.sregs.cr3 = tables.cr3;

    const end = await machine.run(state, 5000);
    expect(end).toBe('halted');
    expect(machine.memory.readU32(0x7000)).toBe(CALLS);
    // RAX went in and came back doubled plus one: 0, 1, 3, 7 ...
    const sums = Array.from({ length: CALLS }, (_, i) => 2n ** BigInt(i) - 1n).reduce((a, b) => a + b);
    expect(machine.memory.readU64(0x7008)).toBe(sums);
    expect(machine.memory.readU64(0x7018) & 0x202n).toBe(0x202n);
    expect(machine.memory.readU64(0x7020)).toBe(BigInt(USER_MAP + 0xf00));
    expect([machine.memory.readU16(0x7028), machine.memory.readU16(0x7030)]).toEqual([0x10, 0x18]);
    // RCX: the instruction after SYSCALL, which two bytes precede.
    const rcx = Number(machine.memory.readU64(0x7010));
    expect([...machine.memory.read(rcx - 2 - USER_MAP + CODE, 2)]).toEqual([0x0f, 0x05]);
  });
});
