// needs: kvm
/** Who receives a message: four local APICs, ours and KVM’s, must agree. */
import fc from 'fast-check';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { exportLapicState } from '../../../src/devices/irqchip/apic-page.ts';
import { APIC } from '../../../src/devices/irqchip/apic-registers.ts';
import * as abi from '../../../src/kvm/abi/index.ts';
import { KvmVcpu } from '../../../src/kvm/vcpu.ts';
import { TestVm } from '../../support/kvm.ts';
import { ApicMachine } from './apic-bench.ts';

const CPUS = 4;
const VECTOR = 0x41;
const RUNS = Number(process.env.TSVISOR_FUZZ_RUNS ?? 200);
const DISABLED = 0xfee0_0000n;
const XAPIC = 0xfee0_0800n;
const X2APIC = 0xfee0_0c00n;

let test: TestVm;
let vcpus: KvmVcpu[];
beforeAll(() => {
  test = new TestVm({ irqchip: 'kernel' });
  const others = Array.from({ length: CPUS - 1 }, (_, i) => new KvmVcpu(test.vm.vcpuPort(i + 1)));
  for (const vcpu of others) vcpu.set('cpuid', test.vm.supportedCpuid());
  vcpus = [test.vcpu, ...others];
});
afterAll(() => {
  for (const vcpu of vcpus.slice(1)) vcpu.close();
  test[Symbol.dispose]();
});

const byte = fc.nat(0xff);
const cpu = fc.record({
  isPresent: fc.constantFrom(true, true, true, false),
  isEnabled: fc.constantFrom(true, true, false),
  logicalId: fc.oneof(byte, fc.constantFrom(1, 2, 4, 8, 0x11, 0x12, 0x21)),
  // What KVM does with the reserved models depends on the other local APICs.
  model: fc.constantFrom(0xf, 0xf, 0),
});
/** Fixed messages: to whom a lowest-priority one goes is the implementation's choice. */
const message = fc.record({
  destination: fc.oneof(byte, fc.nat(4)),
  bits: fc.constantFrom(0, 4),
  trigger: fc.constantFrom(0, 0xc000),
});

it('is who receives it under KVM', () => {
  fc.assert(
    fc.property(
      fc.array(cpu, { minLength: CPUS, maxLength: CPUS }),
      fc.array(message, { maxLength: 8 }),
      // With both modes in one machine KVM takes xAPICs for x2APICs.
      fc.constantFrom(XAPIC, X2APIC),
      (all, sent, mode) => {
        const machine = new ApicMachine(CPUS);
        all.forEach(({ isPresent, isEnabled, logicalId, model }, index) => {
          const bench = machine.cpus[index];
          if (isEnabled) bench.write(APIC.SPIV, 0x1ff);
          bench.write(APIC.LDR, logicalId << 24);
          bench.write(APIC.DFR, model << 28);
          bench.apic.loadApicBase((isPresent ? mode : DISABLED) | (index === 0 ? 0x100n : 0n));
          vcpus[index].set('sregs', { ...vcpus[index].get('sregs'), apic_base: bench.apic.apicBase });
          vcpus[index].set('lapic', exportLapicState(bench.apic));
        });
        for (const { destination, bits, trigger } of sent) {
          const address = 0xfee0_0000 + ((destination << 12) | bits);
          const data = VECTOR | trigger;
          const msi = { address_lo: address, address_hi: 0, data, flags: 0, devid: 0 };
          const theirs = test.vm.fd.tryIoctl(abi.KVM_SIGNAL_MSI, abi.kvm_msi.encode(msi)) > 0;
          const received = (pages: Uint8Array[]) =>
            pages.map((page) => {
              const view = new DataView(page.buffer, page.byteOffset);
              return [APIC.IRR, APIC.TMR].map((set) => view.getUint32(set + 0x20, true));
            });
          expect({ destination, bits, taken: machine.bus.signalMsi({ address, data }) }).toEqual({
            destination,
            bits,
            taken: theirs,
          });
          const pages = vcpus.map((vcpu) => vcpu.get('lapic'));
          expect(received(machine.cpus.map(({ apic }) => exportLapicState(apic)))).toEqual(received(pages));
          // The next message finds nothing pending.
          machine.cpus.forEach(({ apic }, index) => {
            apic.mailbox.setWords(2, 0, 0);
            vcpus[index].set('lapic', exportLapicState(apic));
          });
        }
      },
    ),
    { numRuns: RUNS },
  );
});
