// needs: kvm
/** Our PIC and I/O APIC beside the local APICs of KVM: a split irqchip. */
import { afterEach, beforeEach, expect, it } from 'vitest';
import { APIC } from '../../../src/devices/irqchip/apic-registers.ts';
import { InterruptRouter } from '../../../src/devices/irqchip/interrupt-router.ts';
import { IOREGSEL, IOWIN } from '../../../src/devices/irqchip/io-apic.ts';
import { encodeMsi } from '../../../src/devices/irqchip/msi.ts';
import * as abi from '../../../src/kvm/abi/index.ts';
import { TestVm } from '../../support/kvm.ts';

const VECTOR = 0x49;
const LEVEL = 0x8000;
/** kvm_run.eoi.vector. */
const EOI_VECTOR = 32;

let test: TestVm;
let router: InterruptRouter;
beforeEach(() => {
  test = new TestVm({ irqchip: 'split' });
  router = new InterruptRouter(
    {
      deliver: (message) => {
        const { address, data } = encodeMsi(message);
        const msi = { address_lo: address, address_hi: 0, data, flags: 0, devid: 0 };
        return test.vm.fd.tryIoctl(abi.KVM_SIGNAL_MSI, abi.kvm_msi.encode(msi)) > 0;
      },
      setIntr: () => {},
    },
    {
      onRoute: (pin, message) => test.vm.routePin(pin, encodeMsi(message)),
    },
  );
});
afterEach(() => test[Symbol.dispose]());

function route(pin: number, low: number): void {
  router.ioApic.write(IOREGSEL, 4, 0x10 + 2 * pin);
  router.ioApic.write(IOWIN, 4, low);
}

/** Enables the local APIC and puts it into a state. */
function loadApic(words: [number, number][]): void {
  const page = test.vcpu.get('lapic');
  const view = new DataView(page.buffer, page.byteOffset);
  for (const [register, value] of [[APIC.SPIV, 0x1ff], ...words]) view.setUint32(register, value, true);
  test.vcpu.set('lapic', page);
}

function apicWord(register: number): number {
  const page = test.vcpu.get('lapic');
  return new DataView(page.buffer, page.byteOffset).getUint32(register, true);
}

it('delivers the I/O APIC’s interrupts to KVM’s local APIC', () => {
  loadApic([]);
  route(9, VECTOR | LEVEL);
  router.setIrqLine(9, 1);
  const bit = 1 << (VECTOR & 31);
  expect([apicWord(APIC.IRR + 0x20), apicWord(APIC.TMR + 0x20)]).toEqual([bit, bit]);
});

it('hears of the end of a level-triggered interrupt', () => {
  // The guest ends what is in service, with flat segments in real mode.
  test.load('mov ebx, 0xfee000b0\n xor eax, eax\n mov [ebx], eax\n 1: out 0xf4, al\n jmp 1b');
  const sregs = test.vcpu.get('sregs');
  Object.assign(sregs.ds, { limit: 0xffff_ffff, g: 1 });
  test.vcpu.set('sregs', sregs);
  route(9, VECTOR | LEVEL);
  loadApic([
    [APIC.ISR + 0x20, 1 << (VECTOR & 31)],
    [APIC.TMR + 0x20, 1 << (VECTOR & 31)],
  ]);
  // A KVM that emulates the guest reports it only after the exits of the instructions that follow.
  const reasons: number[] = [];
  while (reasons.at(-1) !== abi.KVM_EXIT_IOAPIC_EOI && reasons.length < 10) reasons.push(test.enter());
  expect([reasons.at(-1), test.run.getUint8(EOI_VECTOR)]).toEqual([abi.KVM_EXIT_IOAPIC_EOI, VECTOR]);
});
