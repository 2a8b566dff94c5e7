// needs: kvm
import { expect, it } from 'vitest';
import { tscScale } from '../../../src/devices/irqchip/kvm-clock.ts';
import { TestVm } from '../../support/kvm.ts';

const STRUCTURE = 0x6000;
const WALL_CLOCK = 0x6100;

it('has the scale and the versions that KVM’s has', () => {
  using test = new TestVm({ irqchip: 'kernel' });
  test.load(`
    mov ecx, 0x4b564d01
    mov eax, ${STRUCTURE | 1}
    xor edx, edx
    wrmsr
    mov ecx, 0x4b564d00
    mov eax, ${WALL_CLOCK}
    wrmsr
  1:
    out 0xf4, al
    jmp 1b
  `);
  test.enter();
  // The structure is written on the way into the guest.
  test.enter();
  const bytes = test.memory.bytes(0, 0x10000);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const theirs = { mul: view.getUint32(STRUCTURE + 24, true), shift: view.getInt8(STRUCTURE + 28) };
  expect(theirs).toEqual(tscScale(test.vcpu.get('tsc_khz')));
  expect([view.getUint32(STRUCTURE, true) % 2, view.getUint32(WALL_CLOCK, true)]).toEqual([0, 2]);
});
