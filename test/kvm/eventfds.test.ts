// needs: kvm
import { describe, expect, it } from 'vitest';
import * as abi from '../../src/kvm/abi/index.ts';
import { KvmFd } from '../../src/kvm/fd.ts';
import { GsiRoutes, PC_ROUTES } from '../../src/kvm/gsi-routes.ts';
import { KvmInterrupts } from '../../src/kvm/interrupts.ts';
import { KvmNotifiers } from '../../src/kvm/notifiers.ts';
import { countEventfds } from '../support/descriptors.ts';
import { enableLapic, lapicPending, TestVm } from '../support/kvm.ts';

async function eventually(condition: () => boolean): Promise<void> {
  while (!condition()) await turn();
}
const turn = () => new Promise((resolve) => setTimeout(resolve, 5));
const message = (vector: number) => ({ address: 0xfee00000, data: vector });

/** Whether the master PIC has a request on an input. Taking the state waits for what is on its way. */
function picRequest({ vm }: TestVm, input: number): boolean {
  const [master] = vm.save().irqchips as Uint8Array[];
  return (abi.kvm_pic_state.decode(master.subarray(8)).irr & (1 << input)) !== 0;
}

describe('writes that the kernel watches', () => {
  const WRITES = 'mov al, 1; out 0x60, al; out 0x60, al; mov byte ptr [0], al; mov byte ptr [0], 2; hlt';

  function watching(source = WRITES): TestVm {
    const vm = new TestVm().load(source);
    const sregs = vm.vcpu.get('sregs');
    vm.vcpu.set('sregs', { ...sregs, ds: { ...sregs.ds, base: 0xd0000000n } });
    return vm;
  }

  it('do not exit, and are told on the event loop; those of other values exit', async () => {
    using vm = watching();
    const told: string[] = [];
    const port = vm.vm.watchWrite({ space: 'pio', address: 0x60 }, () => told.push('port'));
    const memory = vm.vm.watchWrite({ space: 'mmio', address: 0xd0000000, size: 1, value: 1 }, () =>
      told.push('memory'),
    );

    expect(vm.enter()).toBe(abi.KVM_EXIT_MMIO);
    expect(vm.run.getUint8(abi.KVM_RUN_MMIO_DATA)).toBe(2);
    expect(vm.enter()).toBe(abi.KVM_EXIT_HLT);

    expect(told).toEqual([]);
    await eventually(() => told.length === 2);
    expect(told.sort()).toEqual(['memory', 'port']);
    expect(vm.vm.eventfdCounts().ioeventfd).toBe(2);
    port?.close();
    memory?.close();
  });

  it('can be taken before they are told, and are not told then', async () => {
    using vm = watching();
    let told = 0;
    const port = vm.vm.watchWrite({ space: 'pio', address: 0x60, size: 1 }, () => told++);
    vm.enter();

    expect([port?.take(), port?.take()]).toEqual([true, false]);

    await turn();
    expect(told).toBe(0);
  });

  it('exit again once it is closed', () => {
    using vm = watching();
    vm.vm.watchWrite({ space: 'pio', address: 0x60, size: 1 }, () => {})?.close();

    expect(vm.enter()).toBe(abi.KVM_EXIT_IO);
  });

  it('are not watched twice, nor where the engine shall not use eventfds', () => {
    using vm = watching();
    const place = { space: 'pio', address: 0x60, size: 1 } as const;
    vm.vm.watchWrite(place, () => {});

    expect(vm.vm.watchWrite(place, () => {})).toBeUndefined();
    using without = new TestVm({ eventfds: 'none' });
    expect(without.vm.watchWrite(place, () => {})).toBeUndefined();
  });

  it('are not watched when the host has no more file descriptors', () => {
    const EMFILE = -24;
    using vm = watching();
    const notifiers = new KvmNotifiers(
      new KvmFd({ ...vm.vm.fd.native, watchEvent: () => EMFILE }, vm.vm.fd.fd),
    );

    expect(notifiers.open({ space: 'pio', address: 0x60, size: 1 }, () => {})).toBeUndefined();

    expect(vm.enter()).toBe(abi.KVM_EXIT_IO);
  });

  it('leave no descriptor behind when the VM ends', async () => {
    const before = countEventfds();
    const vm = new TestVm();
    for (let i = 0; i < 100; i++) vm.vm.watchWrite({ space: 'mmio', address: 0xd0000000 + 4 * i }, () => {});
    expect(countEventfds()).toBeGreaterThan(before + 80);

    vm[Symbol.dispose]();

    await eventually(() => countEventfds() <= before);
  });
});

describe('edges of an interrupt line', () => {
  it('go by an irqfd if asked for', () => {
    using vm = new TestVm({ irqchip: 'kernel', eventfds: 'all' });

    vm.vm.pulseIrqLine(4);

    expect(picRequest(vm, 4)).toBe(true);
    expect(picRequest(vm, 5)).toBe(false);
    expect(vm.vm.eventfdCounts().irqfd).toBe(1);
  });

  it.each(['auto', 'none'] as const)('go by KVM_IRQ_LINE, eventfds %s', (eventfds) => {
    using vm = new TestVm({ irqchip: 'kernel', eventfds });

    vm.vm.pulseIrqLine(4);

    expect(picRequest(vm, 4)).toBe(true);
    expect(vm.vm.eventfdCounts().irqfd).toBe(0);
  });

  it('do not take a level back that is driven after them', () => {
    using vm = new TestVm({ irqchip: 'kernel', eventfds: 'all' });
    const level = () => {
      vm.vm.save();
      const chip = abi.kvm_irqchip.encode({ chip_id: abi.KVM_IRQCHIP_PIC_MASTER, chip: new Uint8Array(512) });
      vm.vm.fd.ioctl(abi.KVM_GET_IRQCHIP, chip);
      return abi.kvm_pic_state.decode(chip.subarray(8)).last_irr & (1 << 5);
    };

    for (let i = 0; i < 50; i++) vm.vm.pulseIrqLine(5);
    vm.vm.setIrqLine(5, 1);

    expect(level()).not.toBe(0);
    vm.vm.setIrqLine(5, 0);
    expect(level()).toBe(0);
    vm.vm.pulseIrqLine(5);
    expect(vm.vm.eventfdCounts().irqfd).toBe(50);
  });
});

describe('messages', () => {
  it.each(['kernel', 'split'] as const)('that come again go by an irqfd, irqchip %s', async (irqchip) => {
    using vm = new TestVm({ irqchip });
    enableLapic(vm);
    vm.vm.signalMsi(message(0x45));
    vm.vm.signalMsi(message(0x46));
    expect([0x45, 0x46, 0x47].map((vector) => lapicPending(vm, vector))).toEqual([true, true, false]);
    expect(vm.vm.eventfdCounts().irqfd).toBe(0);
    enableLapic(vm);
    const lapic = vm.vcpu.get('lapic');
    lapic.fill(0, 0x200, 0x280);
    vm.vcpu.set('lapic', lapic);

    vm.vm.signalMsi(message(0x45));
    vm.vm.signalMsi(message(0x47));

    await eventually(() => lapicPending(vm, 0x45) && lapicPending(vm, 0x47));
    expect(lapicPending(vm, 0x46)).toBe(false);
    expect(vm.vm.eventfdCounts().irqfd).toBe(1);
  });

  it('keep the wires of the board as they are', () => {
    using vm = new TestVm({ irqchip: 'kernel' });
    for (let i = 0; i < 3; i++) vm.vm.signalMsi(message(0x45));

    vm.vm.setIrqLine(4, 1);

    expect(picRequest(vm, 4)).toBe(true);
    vm.vm.setIrqLine(4, 0);
  });

  it('may be more than there are irqfds for, and arrive all the same', async () => {
    const before = countEventfds();
    using vm = new TestVm({ irqchip: 'kernel' });
    enableLapic(vm);
    const own = countEventfds();
    // To the first processor, to it with the redirection hint, and to all: the same to a machine with one.
    const messages = [0xfee00000, 0xfee00008, 0xfeeff000].flatMap((address) =>
      Array.from({ length: 100 }, (_, i) => ({ address, data: 0x30 + i })),
    );
    for (let round = 0; round < 3; round++) for (const each of messages) vm.vm.signalMsi(each);

    await eventually(() => messages.every(({ data }) => lapicPending(vm, data)));

    expect(vm.vm.eventfdCounts().irqfd).toBeGreaterThan(300);
    expect(countEventfds() - own).toBeLessThanOrEqual(128);
    vm[Symbol.dispose]();
    expect(countEventfds()).toBeLessThanOrEqual(before);
  });

  it('and edges go by ioctls when the host has no more file descriptors', () => {
    const EMFILE = -24;
    using vm = new TestVm({ irqchip: 'kernel' });
    enableLapic(vm);
    const fd = new KvmFd({ ...vm.vm.fd.native, eventfd: () => EMFILE }, vm.vm.fd.fd);
    const interrupts = new KvmInterrupts(fd, new GsiRoutes(fd, PC_ROUTES), 'all');

    for (let i = 0; i < 3; i++) interrupts.send(message(0x45));
    interrupts.pulse(4);

    expect(lapicPending(vm, 0x45)).toBe(true);
    expect(picRequest(vm, 4)).toBe(true);
    expect(interrupts.signalled).toBe(0);
  });

  it('that no local APIC takes are dropped', () => {
    using vm = new TestVm({ irqchip: 'kernel' });

    expect(() => {
      for (let i = 0; i < 3; i++) vm.vm.signalMsi({ address: 0xfee77000, data: 0x41 });
    }).not.toThrow();
  });
});
