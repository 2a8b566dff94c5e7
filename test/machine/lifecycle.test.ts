/** A machine's life as a program sees it: its states, and every way a guest can end. */
import { describe, expect, it } from 'vitest';
import type { VmExit } from '../../src/machine/exit.ts';
import { ENGINES } from '../support/engines.ts';
import { guestsOn, POWER_OFF, print, RecordingDevice } from '../support/guests.ts';
import { published } from '../support/published.ts';

const SPIN = '1: jmp 1b';
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

describe.each(ENGINES)('on %s', (accel) => {
  const { bareVm, longModeVm, pcVm } = guestsOn(accel);

  describe('states', () => {
    it('are published as they change', async () => {
      const states = published<{ state: string }>('tsvisor:state', ({ state }) => state);
      const exits = published<{ exit: VmExit }>('tsvisor:exit', ({ exit }) => exit);
      const vm = await bareVm(SPIN);

      vm.start();
      await vm.pause();
      vm.resume();
      await vm.pause();
      vm.start();
      const exit = await vm.stop();

      expect(states.of(vm)).toEqual(['running', 'paused', 'running', 'paused', 'running', 'stopped']);
      expect(exits.of(vm)).toEqual([exit]);
    });

    it('refuse what does not fit them', async () => {
      const vm = await bareVm(SPIN);
      const state = expect.objectContaining({ code: 'TSV_E_STATE' });

      expect(() => vm.resume()).toThrow(state);
      await expect(vm.pause()).rejects.toMatchObject({ code: 'TSV_E_STATE' });
      vm.start();
      expect(() => vm.start()).toThrow(state);
      await expect(vm.writeVcpu(0, {})).rejects.toMatchObject({ code: 'TSV_E_STATE' });
      await vm.close();
      expect(() => vm.start()).toThrow(state);
      expect(() => vm.resume()).toThrow(state);
      await expect(vm.pause()).rejects.toMatchObject({ code: 'TSV_E_STATE' });
      await expect(vm.readVcpu(0, 'regs')).rejects.toMatchObject({ code: 'TSV_E_STATE' });
      await expect(vm.nmi(0)).rejects.toMatchObject({ code: 'TSV_E_STATE' });
      expect(() => vm.addDevice(new RecordingDevice())).toThrow(state);
      await expect(vm.readVcpu(7, 'regs')).rejects.toMatchObject({ code: 'TSV_E_CPU_COUNT' });
    });

    it('end once: closing twice, stopping and disposing give the first reason', async () => {
      const vm = await bareVm(SPIN);
      vm.start();

      const [first, second] = await Promise.all([vm.stop('timeout'), vm.stop(), vm.close(), vm.close()]);
      await vm[Symbol.asyncDispose]();

      expect(first).toMatchObject({ reason: 'timeout', status: 124 });
      expect(second).toBe(first);
    });

    it('of a machine that never started end too', async () => {
      const vm = await bareVm('hlt');

      await vm.close();

      expect(await vm.exited).toEqual({ reason: 'stopped', status: 0, by: 'host' });
      expect(vm.state).toBe('stopped');
    });

    it('survive pauses and resumes at every moment', async () => {
      await using vm = await longModeVm('mov dx, 0x42; 1: in al, dx; inc rbx; jmp 1b', {
        cpus: 2,
        startAll: true,
      });
      vm.addDevice(new RecordingDevice(() => 1), { pio: [{ base: 0x42, size: 1 }] });
      vm.start();
      let last = 0n;

      for (let i = 0; i < 40; i++) {
        // Several at once count as one.
        await Promise.all([vm.pause(), vm.pause()]);
        expect(vm.state).toBe('paused');
        const { regs } = await vm.readVcpu(i % 2, 'regs');
        if (i % 2 === 0) {
          expect(regs.rbx).toBeGreaterThanOrEqual(last);
          last = regs.rbx;
        }
        vm.resume();
        if (i % 3 === 0) await sleep(1);
      }

      expect(vm.state).toBe('running');
      expect(last).toBeGreaterThan(0n);
    });

    it('end at stopped when a pause meets the guest ending itself', async () => {
      const states = published<{ state: string }>('tsvisor:state', ({ state }) => state);
      for (let i = 0; i < 15; i++) {
        const vm = await bareVm(`mov cx, ${i * 40 + 1}; 1: in al, 0x42; loop 1b; hlt`);
        vm.start();
        await sleep(i % 3);

        await vm.pause().catch((error) => expect(error.code).toBe('TSV_E_STATE'));

        if (vm.state === 'paused') vm.resume();
        expect((await vm.exited).reason).toBe('halt');
        expect(vm.state).toBe('stopped');
        const seen = states.of(vm);
        expect(seen.indexOf('stopped')).toBe(seen.length - 1);
      }
    });

    it('end at stopped when a pause meets a stop', async () => {
      for (let i = 0; i < 10; i++) {
        const vm = await bareVm('1: in al, 0x42; jmp 1b');
        vm.addDevice(new RecordingDevice(() => sleep(i % 3).then(() => 1)), {
          pio: [{ base: 0x42, size: 1 }],
        });
        vm.start();
        await sleep(2);

        const [, exit] = await Promise.all([vm.pause(), vm.stop()]);

        expect(exit.reason).toBe('stopped');
        expect(vm.state).toBe('stopped');
      }
    });

    it('end at stopped when a pause waits for a device that never answers', async () => {
      const vm = await bareVm('in al, 0x42; hlt', { deviceTimeout: 0 });
      vm.addDevice(new RecordingDevice(() => new Promise(() => {})), { pio: [{ base: 0x42, size: 1 }] });
      vm.start();
      await sleep(10);

      const paused = vm.pause();
      await sleep(10);
      await vm.close();

      await paused;
      expect(vm.state).toBe('stopped');
    });
  });

  describe('two machines at once', () => {
    it('run, and end, on their own', async () => {
      await using one = await bareVm('1: in al, 0x42; jmp 1b');
      await using other = await bareVm('1: in al, 0x42; jmp 1b');
      const devices = [new RecordingDevice(() => 1), new RecordingDevice(() => 2)];
      one.addDevice(devices[0], { pio: [{ base: 0x42, size: 1 }] });
      other.addDevice(devices[1], { pio: [{ base: 0x42, size: 1 }] });

      one.start();
      other.start();
      await sleep(20);
      await one.close();
      const before = devices[1].accesses.length;
      await sleep(20);

      expect(other.state).toBe('running');
      expect(devices[1].accesses.length).toBeGreaterThan(before);
      await other.pause();
      expect(Number((await other.readVcpu(0, 'regs')).regs.rax & 0xffn)).toBe(2);
    });
  });

  describe('the end a guest brings about', () => {
    it.each([
      ['ACPI power-off', POWER_OFF, { reason: 'poweroff', status: 0 }],
      [
        'reset through port 0xCF9',
        'mov dx, 0xcf9; mov al, 6; out dx, al; hlt',
        { reason: 'reset', status: 0 },
      ],
      [
        'reset through the keyboard controller',
        'mov al, 0xfe; out 0x64, al; hlt',
        { reason: 'reset', status: 0 },
      ],
      ['reset through port 0x92', 'mov al, 1; out 0x92, al; hlt', { reason: 'reset', status: 0 }],
      ['exit 1', 'mov al, 0; out 0xf4, al; hlt', { reason: 'exit', status: 1 }],
      ['exit 7', 'mov al, 3; out 0xf4, al; hlt', { reason: 'exit', status: 7 }],
      ['exit 255', 'mov al, 0x7f; out 0xf4, al; hlt', { reason: 'exit', status: 255 }],
      ['pvpanic', 'mov dx, 0x505; mov al, 1; out dx, al; hlt', { reason: 'panic', status: 6 }],
      [
        'a triple fault',
        'lidt [zero]; mov eax, cr0; or al, 1; mov cr0, eax; ud2; zero: .word 0, 0, 0',
        { reason: 'triple-fault', status: 6 },
      ],
    ])('%s', async (_, source, expected) => {
      await using vm = await pcVm(source);

      vm.start();
      const exit = await vm.exited;

      expect(exit).toMatchObject(expected);
      expect(exit.by).not.toBe('');
      if (expected.status === 6) expect(exit.registers).toHaveLength(1);
    });

    it('a kernel panic on the console, when it can reset nothing', async () => {
      await using vm = await pcVm(
        `${print('[    1.0] Kernel panic - not syncing: Attempted to kill init!\r\n[    1.1] CPU: 0\r\n[    1.2] ---[ end Kernel panic - not syncing: Attempted to kill init! ]---\r\n')} ${SPIN}`,
      );

      vm.start();
      const exit = await vm.exited;

      expect(exit).toMatchObject({ reason: 'panic', status: 6 });
      expect(exit.error?.code).toBe('TSV_E_GUEST_PANIC');
      expect(exit.error?.message).toContain('Attempted to kill init!');
      expect(exit.registers).toHaveLength(1);
    });

    it('a panic that may go on to reset is still a panic', async () => {
      await using vm = await pcVm(
        `${print('Kernel panic - not syncing: x\n---[ end Kernel panic - not syncing: x ]---\n')}
         mov dx, 0xcf9; mov al, 6; out dx, al; hlt`,
        { stopOnPanic: false },
      );

      vm.start();

      expect(await vm.exited).toMatchObject({ reason: 'panic', status: 6 });
    });

    it('a panic whose report is cut short by the reset is still a panic', async () => {
      await using vm = await pcVm(
        `${print('Kernel panic - not syncing: x\nCPU: 0\n')} mov dx, 0xcf9; mov al, 6; out dx, al; hlt`,
      );

      vm.start();

      const exit = await vm.exited;
      expect(exit).toMatchObject({ reason: 'panic', status: 6 });
      expect(exit.error?.message).toContain('panicked: x');
      expect(exit.registers).toHaveLength(1);
    });

    it('halting does not, where an interrupt may come', async () => {
      await using vm = await pcVm('sti; 1: hlt; jmp 1b');

      vm.start();
      await sleep(30);

      expect(vm.state).toBe('running');
    });

    it('of two guests that end at once only the first counts', async () => {
      await using vm = await longModeVm('mov eax, edi; out 0xf4, al; hlt', {
        board: 'pc',
        memory: '8M',
        cpus: 2,
        startAll: true,
      });

      vm.start();
      const exit = await vm.exited;

      expect([1, 3]).toContain(exit.status);
    });
  });
});
