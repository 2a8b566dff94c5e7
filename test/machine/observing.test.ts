/** What a program can watch of a machine that runs: traces and counters. */
import { describe, expect, it } from 'vitest';
import type { VmConfig } from '../../src/machine/config.ts';
import { ENGINES } from '../support/engines.ts';
import { guestsOn, RecordingDevice } from '../support/guests.ts';
import { published } from '../support/published.ts';

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

describe.each(ENGINES)('on %s', (accel) => {
  const { bareVm, longModeVm } = guestsOn(accel);

  describe('tracing', () => {
    it('publishes what was asked for, and nothing else', async () => {
      const lines = published<{ lines: string[] }>('tsvisor:trace', (message) => message.lines);
      const source = 'mov al, 0x55; out 0x42, al; in al, 0x99; hlt';
      const traced = async (trace: VmConfig['trace']) => {
        await using vm = await bareVm(source, { trace });
        vm.addDevice(new RecordingDevice(), { pio: [{ base: 0x42, size: 1 }] });
        vm.start();
        await vm.exited;
        return lines.of(vm).flat();
      };

      expect(await traced([])).toEqual([]);
      expect(await traced(['mmio'])).toEqual([]);
      expect(await traced(['io'])).toEqual([
        'vcpu0 io write 0x42/1 0x55',
        'vcpu0 io read 0x99/1 0xff (unclaimed)',
      ]);
      expect(await traced(['exits'])).toEqual(['vcpu0 exit IO', 'vcpu0 exit IO', 'vcpu0 exit HLT']);
    });

    it('covers MMIO and every vCPU', async () => {
      const lines = published<{ lines: string[] }>('tsvisor:trace', (message) => message.lines);
      await using vm = await longModeVm('mov rbx, 0xd0000000; mov [rbx], edi; hlt', {
        cpus: 2,
        startAll: true,
        trace: ['mmio'],
      });
      vm.start();
      await vm.exited;

      expect(lines.of(vm).flat().sort()).toEqual([
        'vcpu0 mmio write 0xd0000000/4 0x0 (unclaimed)',
        'vcpu1 mmio write 0xd0000000/4 0x1 (unclaimed)',
      ]);
    });

    it('arrives while the guest goes on', async () => {
      const lines = published<{ lines: string[] }>('tsvisor:trace', (message) => message.lines);
      await using vm = await bareVm('1: in al, 0x99; jmp 1b', { trace: ['io'] });
      vm.start();

      while (lines.of(vm).length < 3) await sleep(1);

      expect(vm.state).toBe('running');
    });
  });

  describe('counters', () => {
    it('can be read while the guest runs, over all vCPUs', async () => {
      await using vm = await longModeVm('1: in al, 0x99; jmp 1b', { cpus: 2, startAll: true });
      vm.start();

      while ((vm.stats().exits.IO ?? 0) < 1000) await sleep(1);
      while (vm.stats().unclaimed < 1000) await sleep(1);

      const first = vm.stats();
      expect(first.entries).toBeGreaterThanOrEqual(first.exits.IO - 2);
      await vm.pause();
      const paused = vm.stats();
      expect(paused.unclaimed).toBe(paused.exits.IO);
      await sleep(5);
      expect(vm.stats()).toEqual(paused);
    });
  });
});
