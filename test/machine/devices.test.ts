/** Devices that come and go while the guest runs, and those that fail. */
import pino from 'pino';
import { describe, expect, it } from 'vitest';
import type { Device, DeviceContext } from '../../src/devices/device.ts';
import { ENGINES } from '../support/engines.ts';
import { guestsOn, RecordingDevice } from '../support/guests.ts';

const SPIN = '1: jmp 1b';
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

describe.each(ENGINES)('on %s', (accel) => {
  const { bareVm, pcVm } = guestsOn(accel);

  describe('devices that come and go while the guest runs', () => {
    it('are seen from the next access on, and not called after they are gone', async () => {
      await using vm = await bareVm('1: in al, 0x42; mov [0x1000], al; jmp 1b');
      vm.start();
      const seen: number[] = [];

      for (let i = 1; i <= 10; i++) {
        const device = new RecordingDevice(() => i, `device${i}`);
        vm.addDevice(device, { pio: [{ base: 0x42, size: 1 }] });
        while (vm.memory.readU8(0x1000) !== i) await sleep(1);
        seen.push(i);
        await vm.removeDevice(device);
        const calls = device.accesses.length;
        while (vm.memory.readU8(0x1000) !== 0xff) await sleep(1);
        expect(device.accesses.length).toBe(calls);
      }

      expect(seen).toHaveLength(10);
      expect(vm.devices).toHaveLength(0);
    });

    it('leave no interrupt raised behind', async () => {
      await using vm = await pcVm(SPIN);
      let raise = () => {};
      const levels: number[] = [];
      const setIrqLine = vm.engine.setIrqLine.bind(vm.engine);
      vm.engine.setIrqLine = (gsi, level) => {
        if (gsi === 5) levels.push(level);
        setIrqLine(gsi, level);
      };
      const device: Device = {
        name: 'stuck',
        attach(context: DeviceContext) {
          raise = () => context.irq().raise();
        },
        save: () => ({}),
        restore() {},
      };
      vm.addDevice(device, { irq: [5] });
      vm.start();

      raise();
      await vm.removeDevice(device);

      expect(levels).toEqual([1, 0]);
    });

    it('must have names of their own, and may fail to attach without leaving a trace', async () => {
      await using vm = await bareVm(SPIN);
      vm.addDevice(new RecordingDevice(undefined, 'twin'), {});
      const broken: Device = {
        name: 'broken',
        attach() {
          throw new Error('no cable');
        },
        save: () => ({}),
        restore() {},
      };

      expect(() => vm.addDevice(new RecordingDevice(undefined, 'twin'), {})).toThrow(/twin/);
      expect(() => vm.addDevice(broken, { pio: [{ base: 0x42, size: 1 }] })).toThrow('no cable');
      expect(() => vm.addDevice(new RecordingDevice(), { pio: [{ base: 0x42, size: 1 }] })).not.toThrow();
      expect(vm.devices.map(({ name }) => name)).toEqual(['twin', 'recorder']);
    });

    it('that do not close in time, or fail to, do not keep the machine from ending', async () => {
      const lines: string[] = [];
      const log = pino({ level: 'error' }, { write: (line: string) => void lines.push(line) });
      const vm = await bareVm('hlt', { deviceTimeout: 30, log });
      const closing = (name: string, close: () => Promise<void>): Device => ({
        name,
        close,
        save: () => ({}),
        restore() {},
      });
      vm.addDevice(closing('sleeper', () => new Promise(() => {})));
      vm.addDevice(closing('thrower', () => Promise.reject(new Error('no'))));
      let last = false;
      vm.addDevice(
        closing('last', async () => {
          last = true;
        }),
      );

      vm.start();
      const exit = await vm.exited;

      expect(exit.reason).toBe('halt');
      expect(lines.map((line) => JSON.parse(line).device)).toEqual(['sleeper', 'thrower']);
      expect(last).toBe(true);
    });
  });
});
