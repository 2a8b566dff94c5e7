/** Small guests whose machines are saved, and go on in other machine objects. Linux guests: save-restore.test.ts. */
import { describe, expect, it } from 'vitest';
import { type MachineState, restoreMachine, saveMachine } from '../../src/machine/machine-state.ts';
import type { Vm } from '../../src/machine/vm.ts';
import { ENGINES } from '../support/engines.ts';
import { guestsOn, RecordingDevice } from '../support/guests.ts';

/** Times that a machine is saved. */
const SAVES = 4;
/** Nothing of a PC has it. */
const PORT = 0x542;

describe.each(ENGINES)('a machine on %s', (accel) => {
  const { bareVm, longModeVm, pcVm } = guestsOn(accel);
  let devices: RecordingDevice[] = [];

  /** What all machines of a guest have written to the port. */
  const written = () =>
    devices.flatMap(({ accesses }) =>
      accesses.flatMap(([kind, , , value]) => (kind === 'write' ? [value] : [])),
    );

  /** Runs a guest that writes to a port on and on, in one machine after another. */
  async function runByTurns(create: () => Promise<Vm>, isLast: () => number): Promise<Vm> {
    devices = [];
    const next = async (state?: MachineState) => {
      const vm = await create();
      const device = new RecordingDevice(isLast);
      devices.push(device);
      vm.addDevice(device, { pio: [{ base: PORT, size: 4 }] });
      if (state !== undefined) await restoreMachine(vm, structuredClone(state));
      vm.start();
      return { vm, device };
    };
    let { vm, device } = await next();
    for (let save = 0; save < SAVES; save++) {
      while (device.accesses.length < 5) await new Promise((resolve) => setTimeout(resolve, 1));
      await vm.pause();
      const state = await saveMachine(vm);
      await vm.close();
      ({ vm, device } = await next(state));
    }
    while (device.accesses.length < 5) await new Promise((resolve) => setTimeout(resolve, 1));
    return vm;
  }

  it('goes on with the next instruction and what is in memory', async () => {
    const count =
      'xor ax, ax; mov ds, ax; 1: inc word ptr [0x1000]; mov ax, [0x1000]; mov dx, 0x542; out dx, ax; jmp 1b';

    const vm = await runByTurns(
      () => bareVm(count),
      () => 0,
    );
    await vm.close();

    expect(written()).toEqual(Array.from(written().keys(), (n) => (n + 1) & 0xffff));
  });

  it('goes on with its timer, its interrupt controllers and what they are about to deliver', async () => {
    // PIT channel 0 at 200 Hz by IRQ 0 of the PIC: the handler counts, and the guest sleeps meanwhile.
    const ticks = `
      cli; xor ax, ax; mov ds, ax; mov ss, ax; mov sp, 0x7000
      mov word ptr [0x20 * 4], offset handler; mov word ptr [0x20 * 4 + 2], 0
      mov al, 0x11; out 0x20, al; mov al, 0x20; out 0x21, al; mov al, 4; out 0x21, al; mov al, 1; out 0x21, al
      mov al, 0xfe; out 0x21, al
      mov al, 0x34; out 0x43, al; mov al, 0x4d; out 0x40, al; mov al, 0x17; out 0x40, al
      sti
      1: hlt; jmp 1b
      handler:
      inc word ptr [0x1000]; mov ax, [0x1000]; mov dx, 0x542; out dx, ax; mov al, 0x20; out 0x20, al; iret`;

    const vm = await runByTurns(
      () => pcVm(ticks),
      () => 0,
    );
    await vm.close();

    expect(written()).toEqual(Array.from(written().keys(), (n) => n + 1));
  });

  it.each(['kernel', 'split'] as const)(
    'goes on with the routes of its I/O APIC, irqchip %s',
    async (irqchip) => {
      // PIT channel 0 at 200 Hz by pin 2 of the I/O APIC as vector 0x30; the PIC is masked.
      const ticks = `
        mov rsp, 0x80000
        lea rax, [rip + handler]; mov rdi, 0x5300; mov [rdi], ax; mov cx, cs; mov [rdi + 2], cx
        mov word ptr [rdi + 4], 0x8e00; shr rax, 16; mov [rdi + 6], ax; mov qword ptr [rdi + 8], 0
        mov rdi, 0x4ff0; mov word ptr [rdi], 0xfff; mov qword ptr [rdi + 2], 0x5000; lidt [rdi]
        mov al, 0xff; out 0x21, al; out 0xa1, al
        mov ebx, 0xfee00000; mov dword ptr [rbx + 0xf0], 0x1ff
        mov ebp, 0xfec00000; mov dword ptr [rbp], 0x15; mov dword ptr [rbp + 0x10], 0
        mov dword ptr [rbp], 0x14; mov dword ptr [rbp + 0x10], 0x30
        mov al, 0x34; out 0x43, al; mov al, 0x4d; out 0x40, al; mov al, 0x17; out 0x40, al
        sti
        1: hlt; jmp 1b
        handler:
        mov rdi, 0x6000; inc dword ptr [rdi]; mov eax, [rdi]; mov dx, 0x542; out dx, eax
        mov dword ptr [rbx + 0xb0], 0; iretq`;

      const vm = await runByTurns(
        () => longModeVm(ticks, { board: 'pc', irqchip }),
        () => 0,
      );
      await vm.close();

      expect(written()).toEqual(Array.from(written().keys(), (n) => n + 1));
    },
  );

  it('keeps at rest what HLT had ended', async () => {
    let isLast = 0;
    const halves = `
      cmp edi, 1; je 2f
      1: mov dx, 0x542; mov al, 1; out dx, al; inc dx; in al, dx; test al, al; jz 1b
      hlt
      2: hlt
      mov dx, 0x542; mov al, 2; out dx, al; jmp 2b`;

    const vm = await runByTurns(
      () => longModeVm(halves, { cpus: 2, startAll: true }),
      () => isLast,
    );
    isLast = 1;
    const { reason } = await vm.exited;

    expect(reason).toBe('halt');
    expect(new Set(written())).toEqual(new Set([1]));
  });

  it('is not restored from another machine, nor saved or restored while it runs', async () => {
    const source = '1: jmp 1b';
    await using vm = await bareVm(source);
    vm.start();
    await expect(saveMachine(vm)).rejects.toMatchObject({ code: 'TSV_E_STATE' });
    await vm.pause();
    const state = await saveMachine(vm);
    await expect(restoreMachine(vm, state)).rejects.toMatchObject({ code: 'TSV_E_STATE' });
    await using larger = await bareVm(source, { memory: '4M' });
    await using wider = await bareVm(source, { cpus: 2 });
    await using other = await bareVm(source);
    other.addDevice(new RecordingDevice(() => 0), { pio: [{ base: 0x42, size: 1 }] });

    for (const target of [larger, wider, other]) {
      await expect(restoreMachine(target, state)).rejects.toMatchObject({ code: 'TSV_E_STATE' });
    }
  });
});
