// needs: kvm
import { describe, expect, it } from 'vitest';
import * as abi from '../../src/kvm/abi/index.ts';
import { loadNative } from '../../src/kvm/native.ts';
import { enableLapic, lapicPending, TestVm } from '../support/kvm.ts';

const native = loadNative();
describe('memory slots', () => {
  it('lets the guest read and write RAM', () => {
    using vm = new TestVm().load('mov byte ptr [0x3000], 0x5a; mov al, [0x3001]; out 0x10, al; hlt');
    vm.memory.writeU8(0x3001, 0xa5);

    expect(vm.enter()).toBe(abi.KVM_EXIT_IO);

    expect(vm.memory.readU8(0x3000)).toBe(0x5a);
    expect(vm.run.getUint8(Number(vm.run.getBigUint64(abi.KVM_RUN_IO_DATA_OFFSET, true)))).toBe(0xa5);
  });

  it('makes writes to a read-only slot exit and keeps its content', () => {
    using vm = new TestVm().load('mov ax, 0xf000; mov ds, ax; mov al, [0]; mov [1], al; hlt');
    const rom = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
    const bytes = new Uint8Array(rom.buffer, 0, 4096);
    bytes[0] = 0x77;
    // Real-mode segment 0xf000 would be RAM here: the ROM replaces an address above it.
    const gpa = 0x400000;
    const slot = vm.vm.mapMemory(gpa, bytes, { readonly: true });
    const sregs = vm.vcpu.get('sregs');
    vm.load('mov al, [0]; mov [1], al; hlt');
    sregs.ds = { ...vm.vcpu.get('sregs').ds, base: BigInt(gpa) };
    vm.vcpu.set('sregs', { ...vm.vcpu.get('sregs'), ds: sregs.ds });

    expect(vm.enter()).toBe(abi.KVM_EXIT_MMIO);

    expect(vm.run.getUint8(abi.KVM_RUN_MMIO_IS_WRITE)).toBe(1);
    expect(vm.run.getUint8(abi.KVM_RUN_MMIO_DATA)).toBe(0x77);
    expect(bytes[1]).toBe(0);
    vm.vm.unmapMemory(slot);
  });

  it('logs the pages the guest writes, and forgets them when read', () => {
    using vm = new TestVm({ dirtyLog: true }).load('mov byte ptr [0x3000], 1; mov byte ptr [0x5fff], 1; hlt');
    vm.vm.takeDirtyLog();

    vm.enter();
    const [first] = vm.vm.takeDirtyLog();
    const [second] = vm.vm.takeDirtyLog();

    expect(first.has(3)).toBe(true);
    expect(first.has(5)).toBe(true);
    expect(first.has(4)).toBe(false);
    expect(second.count()).toBe(0);
  });

  it('keeps pages marked until they are cleared one by one, where asked', () => {
    using vm = new TestVm({ dirtyLog: true });
    vm.vm.enableCap(abi.KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, [BigInt(abi.KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE)]);
    vm.load('mov byte ptr [0x3000], 1; mov byte ptr [0x5000], 1; hlt').enter();
    const log = vm.vm.dirtyLog(0);
    expect([log.has(3), log.has(5)]).toEqual([true, true]);

    const page3 = vm.vm.dirtyLog(0);
    page3.clear();
    page3.add(3);
    vm.vm.clearDirtyLog(0, 0, 64, page3);

    const left = vm.vm.dirtyLog(0);
    expect([left.has(3), left.has(5)]).toEqual([false, true]);
  });

  it('switches the dirty log on while the VM exists', () => {
    using vm = new TestVm();
    expect(() => vm.vm.takeDirtyLog()).toThrow(/KVM_GET_DIRTY_LOG/);

    vm.vm.setDirtyLog(true);
    vm.load('mov byte ptr [0x3000], 1; hlt').enter();

    expect(vm.vm.takeDirtyLog()[0].has(3)).toBe(true);
    vm.vm.setDirtyLog(false);
    expect(() => vm.vm.takeDirtyLog()).toThrow(/KVM_GET_DIRTY_LOG/);
  });
});

describe('interrupt controllers in the kernel', () => {
  it('passes an interrupt line to the PIC', () => {
    using vm = new TestVm({ irqchip: 'kernel' });

    vm.vm.setIrqLine(4, 1);
    const [master] = vm.vm.save().irqchips as Uint8Array[];

    expect(abi.kvm_pic_state.decode(master.subarray(8)).irr & (1 << 4)).toBe(1 << 4);
    vm.vm.setIrqLine(4, 0);
  });

  it('delivers an MSI to a local APIC', () => {
    using vm = new TestVm({ irqchip: 'kernel' });
    enableLapic(vm);

    vm.vm.signalMsi({ address: 0xfee00000, data: 0x41 });

    expect(lapicPending(vm, 0x41)).toBe(true);
    expect(lapicPending(vm, 0x42)).toBe(false);
  });

  it('drops an MSI that no local APIC takes', () => {
    using vm = new TestVm({ irqchip: 'kernel' });

    expect(() => vm.vm.signalMsi({ address: 0xfee77000, data: 0x41 })).not.toThrow();
  });

  it('lets the clock stand from a pause, by way of a saved state, to the next start', async () => {
    using source = new TestVm();
    using target = new TestVm();
    source.vm.stopClock();
    const { clock } = source.vm.save();
    await new Promise((resolve) => setTimeout(resolve, 5));
    const state = source.vm.save();

    target.vm.restore(state);
    await new Promise((resolve) => setTimeout(resolve, 5));

    expect(state.clock).toBe(clock);
    expect(target.vm.save().clock).toBe(clock);
    target.vm.startClock();
    expect(target.vm.clock).toBeGreaterThanOrEqual(clock as bigint);
  });

  it('saves and restores PIC, I/O APIC, PIT and clock', () => {
    using source = new TestVm({ irqchip: 'kernel', pit: true });
    // Channel 2 in mode 3 with the count 0x1234; PIC master vector base 0x20.
    source.load(`
      mov al, 0xb6; out 0x43, al; mov al, 0x34; out 0x42, al; mov al, 0x12; out 0x42, al
      mov al, 0x11; out 0x20, al; mov al, 0x20; out 0x21, al; mov al, 4; out 0x21, al; mov al, 1; out 0x21, al
      out 0x99, al; hlt`);
    source.enter();
    source.vm.clock = 123_000_000_000n;
    const state = source.vm.save();

    using target = new TestVm({ irqchip: 'kernel', pit: true });
    target.vm.restore(state);
    const restored = target.vm.save();

    expect(restored.irqchips).toEqual(state.irqchips);
    const pit = abi.kvm_pit_state2.decode(restored.pit as Uint8Array);
    expect(pit.channels[2]).toMatchObject({ count: 0x1234, mode: 3 });
    const [master] = restored.irqchips as Uint8Array[];
    expect(abi.kvm_pic_state.decode(master.subarray(8)).irq_base).toBe(0x20);
    expect(target.vm.clock - 123_000_000_000n).toBeGreaterThanOrEqual(0n);
    expect(() => new TestVm().vm.restore(state)).toThrow(/other interrupt controllers/);
  });

  it('creates local APICs alone with the split irqchip', () => {
    using vm = new TestVm({ irqchip: 'split' });
    enableLapic(vm);

    vm.vm.signalMsi({ address: 0xfee00000, data: 0x50 });

    expect(lapicPending(vm, 0x50)).toBe(true);
    expect(vm.vm.save().irqchips).toBeUndefined();
  });
});

describe('accesses that do not exit', () => {
  it('collects coalesced writes in the run area', () => {
    using vm = new TestVm().load('mov al, 0x41; mov [0x10], al; inc al; mov [0x11], al; hlt');
    vm.vcpu.set('sregs', { ...vm.vcpu.get('sregs'), ds: { ...vm.vcpu.get('sregs').ds, base: 0xd0000000n } });
    vm.vm.coalesce({ space: 'mmio', address: 0xd0000000, size: 0x1000 });

    expect(vm.enter()).toBe(abi.KVM_EXIT_HLT);

    const ring = abi.KVM_COALESCED_MMIO_PAGE_OFFSET * 4096;
    const { first, last } = abi.kvm_coalesced_mmio_ring.decode(vm.vcpu.run.subarray(ring));
    const entries = [0, 1].map((i) =>
      abi.kvm_coalesced_mmio.decode(
        vm.vcpu.run.subarray(ring + abi.kvm_coalesced_mmio_ring.size + i * abi.kvm_coalesced_mmio.size),
      ),
    );
    expect([first, last]).toEqual([0, 2]);
    expect(entries.map(({ phys_addr, data }) => [phys_addr, data[0]])).toEqual([
      [0xd0000010, 0x41],
      [0xd0000011, 0x42],
    ]);
    vm.vm.coalesce({ space: 'mmio', address: 0xd0000000, size: 0x1000 }, false);
  });
});

describe('MSRs that userspace takes over', () => {
  it('exits on an MSR the filter denies', () => {
    using vm = new TestVm();
    vm.vm.enableCap(abi.KVM_CAP_X86_USER_SPACE_MSR, [BigInt(abi.KVM_MSR_EXIT_REASON_FILTER)]);
    vm.vm.setMsrFilter(false, [
      {
        flags: abi.KVM_MSR_FILTER_READ | abi.KVM_MSR_FILTER_WRITE,
        base: 0x10,
        nmsrs: 64,
        bitmap: new Uint8Array(8),
      },
    ]);
    vm.load('mov ecx, 0x10; rdmsr; hlt');

    expect(vm.enter()).toBe(abi.KVM_EXIT_X86_RDMSR);

    expect(vm.run.getUint32(abi.KVM_RUN_MSR_INDEX, true)).toBe(0x10);
  });
});

describe('lengths the kernel would overrun', () => {
  it('refuses structures that are too short', () => {
    using vm = new TestVm();
    const EINVAL = -22;

    expect(native.ioctl(vm.vcpu.fd.fd, abi.KVM_GET_REGS, new Uint8Array(8))).toBe(EINVAL);
    expect(native.ioctl(vm.vcpu.fd.fd, abi.KVM_GET_REGS, 0x1000)).toBe(EINVAL);
    const cpuid = abi.kvm_cpuid2.allocate(4);
    new DataView(cpuid.buffer).setUint32(0, 5, true);
    expect(native.ioctl(vm.vm.system.fd.fd, abi.KVM_GET_SUPPORTED_CPUID, cpuid)).toBe(EINVAL);
    for (const request of [abi.KVM_SET_CPUID2, abi.KVM_GET_MSRS, abi.KVM_SET_MSRS, abi.KVM_GET_CPUID2]) {
      expect(native.ioctl(vm.vcpu.fd.fd, request, cpuid.subarray(0, 8))).toBe(EINVAL);
    }
    expect(native.ioctl(vm.vm.fd.fd, abi.KVM_SET_GSI_ROUTING, cpuid.subarray(0, 8))).toBe(EINVAL);
    expect(native.ioctl(vm.vm.system.fd.fd, abi.KVM_GET_MSR_INDEX_LIST, cpuid.subarray(0, 8))).toBe(EINVAL);
    expect(native.getDirtyLog(vm.vm.fd.fd, 0, new Uint8Array(8), 512)).toBe(EINVAL);
    expect(native.ioctl(vm.vm.fd.fd, abi.KVM_SET_USER_MEMORY_REGION, new Uint8Array(32))).toBe(EINVAL);
  });
});
