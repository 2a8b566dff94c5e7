// needs: kvm
import { describe, expect, it } from 'vitest';
import * as abi from '../../src/kvm/abi/index.ts';
import { loadNative } from '../../src/kvm/native.ts';
import { MP_STATE } from '../../src/vcpu/state.ts';
import { TestVm } from '../support/kvm.ts';

const EINTR = -4;

describe('state of a vCPU', () => {
  it('comes back as it was written, component by component', () => {
    using vm = new TestVm({ irqchip: 'kernel' });
    const { vcpu } = vm;

    const regs = {
      ...vcpu.get('regs'),
      rax: 0xffff_ffff_ffff_fff1n,
      r15: 0x8000_0000_0000_0000n,
      rip: 0x1234n,
    };
    vcpu.set('regs', regs);
    expect(vcpu.get('regs')).toEqual(regs);

    const sregs = { ...vcpu.get('sregs'), cr2: 0xdead_beefn };
    vcpu.set('sregs', sregs);
    expect(vcpu.get('sregs')).toEqual(sregs);

    const debugregs = { ...vcpu.get('debugregs'), db: [1n, 2n, 3n, 4n] };
    vcpu.set('debugregs', debugregs);
    expect(vcpu.get('debugregs')).toEqual(debugregs);

    const xsave = vcpu.get('xsave');
    // Legacy region: FCW at 0, XMM0 at 160; the component bitmap at 512 (SDM vol. 1, 13.4).
    xsave.set([0x7f, 0x02], 0);
    xsave.set([1, 2, 3, 4, 5, 6, 7, 8], 160);
    xsave[512] |= 3;
    vcpu.set('xsave', xsave);
    expect(vcpu.get('xsave').subarray(160, 168)).toEqual(Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8));
    const fpu = vcpu.get('fpu');
    expect(fpu.fcw).toBe(0x27f);

    const xcrs = vcpu.get('xcrs');
    vcpu.set('xcrs', xcrs);
    expect(vcpu.get('xcrs')).toEqual(xcrs);

    const lapic = vcpu.get('lapic');
    new DataView(lapic.buffer).setUint32(0x80, 0x20, true);
    vcpu.set('lapic', lapic);
    expect(new DataView(vcpu.get('lapic').buffer).getUint32(0x80, true)).toBe(0x20);

    vcpu.set('mp_state', MP_STATE.HALTED);
    expect(vcpu.get('mp_state')).toBe(MP_STATE.HALTED);

    const events = vcpu.get('events');
    events.nmi.masked = 1;
    vcpu.set('events', events);
    expect(vcpu.get('events').nmi.masked).toBe(1);

    expect(vcpu.get('tsc_khz')).toBeGreaterThan(100_000);
  });

  it('keeps MSRs, and names one that it refuses', () => {
    using vm = new TestVm();
    const LSTAR = 0xc0000082;
    vm.vcpu.set('msrs', [{ index: LSTAR, data: 0xffff_8000_1234_5678n }]);

    expect(vm.vcpu.getMsrs([LSTAR])).toEqual([{ index: LSTAR, data: 0xffff_8000_1234_5678n }]);
    expect(vm.vcpu.get('msrs').find(({ index }) => index === LSTAR)?.data).toBe(0xffff_8000_1234_5678n);
    expect(() => vm.vcpu.getMsrs([0x12345678])).toThrow(/0x12345678/);
  });

  it('shows the guest the CPUID it was given', () => {
    using vm = new TestVm();
    const entries = vm.vcpu.get('cpuid');
    const changed = entries.map((e) => (e.function === 0x80000002 ? { ...e, eax: 0x41424344 } : e));
    vm.vcpu.set('cpuid', changed);

    expect(vm.vcpu.get('cpuid').find((e) => e.function === 0x80000002)?.eax).toBe(0x41424344);
    vm.load('mov eax, 0x80000002; cpuid; mov [0x3000], eax; hlt').enter();
    expect(vm.memory.readU32(0x3000)).toBe(0x41424344);
  });
});

describe('running', () => {
  it('comes back at once with immediate_exit, having completed the last access', () => {
    using vm = new TestVm().load('in al, 0x10; mov [0x3000], al; hlt');
    expect(vm.enter()).toBe(abi.KVM_EXIT_IO);
    vm.run.setUint8(Number(vm.run.getBigUint64(abi.KVM_RUN_IO_DATA_OFFSET, true)), 0x99);
    vm.run.setUint8(abi.KVM_RUN_IMMEDIATE_EXIT, 1);

    expect(vm.enter()).toBe(EINTR);

    expect(vm.vcpu.get('regs').rax & 0xffn).toBe(0x99n);
    vm.run.setUint8(abi.KVM_RUN_IMMEDIATE_EXIT, 0);
    expect(vm.enter()).toBe(abi.KVM_EXIT_HLT);
  });

  it('takes an external interrupt through the IDT', () => {
    using vm = new TestVm().load('sti; nop; 1: jmp 1b; .org 0x100; mov al, 0x21; out 0x10, al; hlt');
    // Real-mode vector 0x21 points at the handler.
    vm.memory.writeU16(0x21 * 4, 0x1100);
    vm.memory.writeU16(0x21 * 4 + 2, 0);
    vm.vcpu.set('regs', { ...vm.vcpu.get('regs'), rflags: 0x202n });
    vm.vcpu.interrupt(0x21);

    expect(vm.enter()).toBe(abi.KVM_EXIT_IO);
    expect(vm.vcpu.get('regs').rax & 0xffn).toBe(0x21n);
  });

  it('takes an NMI', () => {
    using vm = new TestVm({ irqchip: 'kernel' }).load('1: jmp 1b; .org 0x100; mov al, 2; out 0x10, al; hlt');
    vm.memory.writeU16(2 * 4, 0x1100);
    vm.memory.writeU16(2 * 4 + 2, 0);
    vm.vcpu.nmi();

    expect(vm.enter()).toBe(abi.KVM_EXIT_IO);
  });

  it('stops after every instruction when single-stepped', () => {
    using vm = new TestVm().load('mov ax, 1; mov bx, 2; hlt');
    vm.vcpu.setGuestDebug({
      control: abi.KVM_GUESTDBG_ENABLE | abi.KVM_GUESTDBG_SINGLESTEP,
      debugregs: { db: [0n, 0n, 0n, 0n], dr7: 0x400n },
    });

    expect(vm.enter()).toBe(abi.KVM_EXIT_DEBUG);
    expect(vm.vcpu.get('regs').rip).toBe(0x1003n);
    expect(vm.enter()).toBe(abi.KVM_EXIT_DEBUG);
    expect(vm.vcpu.get('regs').rip).toBe(0x1006n);
  });

  it('translates linear addresses', () => {
    using vm = new TestVm().load('hlt');

    expect(vm.vcpu.translate(0x1234n)).toMatchObject({ valid: 1, physical_address: 0x1234n });
  });
});

describe('threads', () => {
  it('pins the calling thread to host CPUs', () => {
    const native = loadNative();
    const before = native.getAffinity(0) as number[];

    expect(native.setAffinity(0, [before[0]])).toBe(0);
    expect(native.getAffinity(0)).toEqual([before[0]]);
    expect(native.setAffinity(0, before)).toBe(0);
  });

  it('kicks itself without harm', () => {
    const native = loadNative();
    expect(native.enableKick()).toBe(0);

    expect(native.kick(native.gettid())).toBe(0);
  });
});
