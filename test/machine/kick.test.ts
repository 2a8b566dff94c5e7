/** Pausing and stopping a machine, whatever its guest is doing: it must come out of all of it, and go on where it was. */
import { describe, expect, it } from 'vitest';
import type { Vm } from '../../src/machine/vm.ts';
import { MP_STATE } from '../../src/vcpu/state.ts';
import { ENGINES } from '../support/engines.ts';
import { type Guests, guestsOn, RecordingDevice } from '../support/guests.ts';

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Real mode: lets an interrupt or exception vector lead to a label; DS is 0. */
const handler = (vector: number, label: string) =>
  `xor ax, ax; mov ds, ax; mov ss, ax; mov sp, 0x7000; mov word ptr [${vector * 4}], offset ${label}; mov word ptr [${vector * 4 + 2}], ax;`;

/** What guests do for ever. */
const GUESTS: [string, (guests: Guests) => Promise<Vm>][] = [
  ['spins', ({ bareVm }) => bareVm('cli; 1: jmp 1b')],
  ['moves a segment of memory over and over', ({ bareVm }) => bareVm('1: mov cx, -1; rep movsb; jmp 1b')],
  ['reads a port that nobody has', ({ bareVm }) => bareVm('1: in al, 0x99; jmp 1b')],
  [
    'reads memory that nobody has',
    ({ longModeVm }) => longModeVm('mov ebx, 0xd0000000; 1: mov al, [rbx]; jmp 1b'),
  ],
  [
    'calls an interrupt handler',
    ({ bareVm }) => bareVm(`${handler(0x21, '2f')} 1: int 0x21; jmp 1b; 2: iret`),
  ],
  [
    'faults in the handler of its fault',
    ({ bareVm }) => bareVm(`${handler(6, '1f')} 1: mov sp, 0x7000; ud2`),
  ],
  [
    'is trapped after each instruction',
    ({ bareVm }) => bareVm(`${handler(1, '2f')} pushf; pop ax; or ah, 1; push ax; popf; 1: jmp 1b; 2: iret`),
  ],
  ['changes its own code', ({ bareVm }) => bareVm('1: inc byte ptr cs:[2f]; .byte 0xb0; 2: .byte 0; jmp 1b')],
  ['sleeps until an interrupt comes', ({ pcVm }) => pcVm('sti; 1: hlt; jmp 1b')],
  ['sleeps for ever', ({ pcVm }) => pcVm('cli; 1: hlt; jmp 1b')],
  ['has a vCPU that waits for its start', ({ pcVm }) => pcVm('1: jmp 1b', { cpus: 2 })],
  [
    'spins on four vCPUs',
    ({ longModeVm }) => longModeVm('1: lock inc dword ptr [0x1000]; jmp 1b', { cpus: 4, startAll: true }),
  ],
];

describe.each(ENGINES)('on %s', (accel) => {
  const guests = guestsOn(accel);

  it.each(GUESTS)('a guest that %s is paused, resumed and stopped', async (_, create) => {
    await using vm = await create(guests);
    vm.start();

    for (let i = 0; i < 5; i++) {
      await sleep(i);
      await vm.pause();
      const { regs } = await vm.readVcpu(0, 'regs');
      await sleep(2);
      expect((await vm.readVcpu(0, 'regs')).regs).toEqual(regs);
      vm.resume();
    }
    const exit = await vm.stop('timeout');

    expect(exit).toMatchObject({ reason: 'timeout', status: 124 });
    expect(exit.registers).toHaveLength(vm.config.cpus);
  });

  it('a guest that waits for a device is paused once the device has answered', async () => {
    await using vm = await guests.bareVm('1: in al, 0x42; inc bx; jmp 1b');
    let answers = 0;
    const device = new RecordingDevice(() => sleep(20).then(() => ++answers));
    vm.addDevice(device, { pio: [{ base: 0x42, size: 1 }] });
    vm.start();

    for (let i = 0; i < 5; i++) {
      await sleep(5);
      await vm.pause();
      const { regs } = await vm.readVcpu(0, 'regs');
      expect(Number(regs.rax & 0xffn)).toBe(answers);
      vm.resume();
    }
  });

  it('a vCPU that waits for its start still does so after a pause, and takes it', async () => {
    // INIT and SIPI by the local APIC; the trampoline at 0x3000 writes a mark: xor ax, ax; mov ds, ax; mov [0x4000], 0x77.
    await using vm = await guests.longModeVm(
      `mov dword ptr [0x3000], 0xd88ec031; mov dword ptr [0x3004], 0x400006c6; mov word ptr [0x3008], 0xf477
       1: cmp byte ptr [0x5000], 1; jne 1b
       mov ebx, 0xfee00000; mov dword ptr [rbx+0xf0], 0x1ff
       mov dword ptr [rbx+0x310], 0x01000000; mov dword ptr [rbx+0x300], 0x4500
       mov ecx, 2000; 2: dec ecx; jnz 2b
       mov dword ptr [rbx+0x310], 0x01000000; mov dword ptr [rbx+0x300], 0x4603
       3: jmp 3b`,
      { cpus: 2, irqchip: 'kernel' },
    );
    vm.start();
    await vm.pause();
    const { mp_state } = await vm.readVcpu(1, 'mp_state');
    vm.resume();

    vm.memory.writeU8(0x5000, 1);
    await expect.poll(() => vm.memory.readU8(0x4000), { timeout: 20_000 }).toBe(0x77);

    await vm.pause();
    const after = await vm.readVcpu(1, 'mp_state', 'sregs');
    expect(mp_state).toBe(MP_STATE.UNINITIALIZED);
    expect(after).toMatchObject({ mp_state: MP_STATE.HALTED, sregs: { cs: { selector: 0x300 } } });
  });

  it('a vCPU that sleeps takes an NMI of the host', async () => {
    const source = `${handler(2, '2f')} cli; mov byte ptr [0x1000], 1; 1: hlt; jmp 1b
      2: mov byte ptr [0x1000], 0x77; iret`;
    await using vm = await guests.pcVm(source);
    vm.start();
    await expect.poll(() => vm.memory.readU8(0x1000)).toBe(1);
    await vm.pause();

    await vm.nmi(0);
    vm.resume();

    await expect.poll(() => vm.memory.readU8(0x1000), { timeout: 20_000 }).toBe(0x77);
  });
});
