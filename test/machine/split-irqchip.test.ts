/** A machine whose local APICs are the engine's and whose other interrupt controllers nobody has. */
import { describe, expect, it } from 'vitest';
import { ENGINES } from '../support/engines.ts';
import { guestsOn, RecordingDevice } from '../support/guests.ts';

describe.each(ENGINES)('on %s', (accel) => {
  const { longModeVm } = guestsOn(accel);

  it('the split irqchip starts a second vCPU by INIT and SIPI, and delivers an MSI', async () => {
    // The trampoline at 0x3000 writes a mark; the first vCPU then waits for vector 0x40 in its local APIC's IRR.
    await using vm = await longModeVm(
      `mov dword ptr [0x3000], 0xd88ec031; mov dword ptr [0x3004], 0x400006c6; mov word ptr [0x3008], 0xf477
       mov ebx, 0xfee00000; mov dword ptr [rbx+0xf0], 0x1ff
       mov dword ptr [rbx+0x310], 0x01000000; mov dword ptr [rbx+0x300], 0x4500
       mov ecx, 2000; 1: dec ecx; jnz 1b
       mov dword ptr [rbx+0x310], 0x01000000; mov dword ptr [rbx+0x300], 0x4603
       2: cmp byte ptr [0x4000], 0x77; jne 2b
       out 0x54, al
       3: test byte ptr [rbx+0x220], 1; jz 3b
       out 0x55, al
       4: hlt; jmp 4b`,
      { cpus: 2, irqchip: 'split' },
    );
    const device = new RecordingDevice();
    vm.addDevice(device, { pio: [{ base: 0x54, size: 2 }] });
    const offsets = () => device.accesses.map(([, offset]) => offset);

    vm.start();
    await expect.poll(offsets, { timeout: 20_000 }).toEqual([0]);
    vm.engine.signalMsi({ address: 0xfee00000, data: 0x40 });

    await expect.poll(offsets, { timeout: 20_000 }).toEqual([0, 1]);
  });
});
