/** A machine whose local APICs are the engine's and whose other interrupt controllers nobody has. */
import { describe, expect, it } from 'vitest';
import type { DeviceContext, IrqLine } from '../../src/devices/device.ts';
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

  it('the PC board brings its own I/O APIC, which hears of the end of level-triggered interrupts', async () => {
    // The PICs are masked. Pin 10 of the I/O APIC: vector 0x40, level-triggered. The handler counts, acknowledges at the device, and ends.
    await using vm = await longModeVm(
      `mov al, 0xff; out 0x21, al; out 0xa1, al
       mov rax, offset handler; mov edi, 0x6400
       mov [rdi], ax; mov word ptr [rdi + 2], 0x10; mov word ptr [rdi + 4], 0x8e00; shr rax, 16
       mov [rdi + 6], ax; mov qword ptr [rdi + 8], 0
       mov word ptr [0x5000], 0x4ff; mov qword ptr [0x5002], 0x6000; lidt [0x5000]
       mov rsp, 0x8000
       mov ebx, 0xfee00000; mov dword ptr [rbx + 0xf0], 0x1ff
       mov ecx, 0xfec00000
       mov dword ptr [rcx], 0x25; mov dword ptr [rcx + 0x10], 0
       mov dword ptr [rcx], 0x24; mov dword ptr [rcx + 0x10], 0x8040
       sti; mov al, 1; mov dx, 0x700; out dx, al
       1: cmp dword ptr [0x4000], 3; jb 1b
       mov dx, 0x604; mov ax, 0x3400; out dx, ax; 2: jmp 2b
       handler: inc dword ptr [0x4000]; mov al, 0; mov dx, 0x700; out dx, al
       mov dword ptr [rbx + 0xb0], 0; iretq`,
      { board: 'pc', irqchip: 'split' },
    );
    const requester = new (class extends RecordingDevice {
      #irq: IrqLine | undefined;
      attach(context: DeviceContext): void {
        this.#irq = context.irq();
      }
      // 1 asks for an interrupt; the handler's 0 takes it back, and the next one comes at once.
      override write(): void {
        this.#irq?.lower();
        this.#irq?.raise();
      }
    })();
    vm.addDevice(requester, { pio: [{ base: 0x700, size: 1 }], irq: [10] });

    vm.start();

    expect(await vm.exited).toMatchObject({ reason: 'poweroff' });
    // They go on until the machine has stopped.
    expect(vm.memory.readU32(0x4000)).toBeGreaterThanOrEqual(3);
  });
});
