/** A stock Debian kernel whose machine is stopped again and again while it boots, and whose state is taken and given back. */
import { describe, expect, it } from 'vitest';
import { buildInitramfs } from '../../src/boot/initramfs/build.ts';
import { fetchBusybox, fetchKernel } from '../../src/host/kernel-fetch.ts';
import { Vm, type VmStateName } from '../../src/machine/vm.ts';
import { STATE_ORDER } from '../../src/vcpu/engine.ts';

/** It takes seconds; only a hang takes this long. */
const LIMIT_MS = 10 * 60_000;
/** Milliseconds the guest runs on between two stops. */
const RUNS = [1, 7, 20, 60, 150];
/** No guest needs so many stops to boot. */
const MOST_STOPS = 1000;
const COMMAND = 'mount -t proc none /proc; grep -c ^processor /proc/cpuinfo; echo -n hello | sha256sum';
const SHA256_OF_HELLO = '2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824';

async function boot(cpus: number): Promise<Vm> {
  const { vmlinuz } = await fetchKernel();
  const initrd = await buildInitramfs({ busybox: await fetchBusybox(), command: COMMAND });
  return Vm.create({
    accel: 'tcg',
    memory: '128M',
    cpus,
    boot: { kernel: vmlinuz, initrd, cmdline: 'console=ttyS0 panic=-1 cryptomgr.notests' },
  });
}

/** Pauses a machine. @returns false when it has ended meanwhile */
async function paused(vm: Vm): Promise<boolean> {
  const ended = (): VmStateName => vm.state;
  if (ended() !== 'running') return false;
  await vm.pause().catch((error) => expect(error.code).toBe('TSV_E_STATE'));
  return ended() === 'paused';
}

/** Boots with many stops, after each of which all state is taken, replaced and given back. */
async function bootWithStops(cpus: number) {
  await using vm = await boot(cpus);
  const indices = Array.from({ length: cpus }, (_, index) => index);
  const first = await Promise.all(indices.map((index) => vm.readVcpu(index, ...STATE_ORDER)));
  let output = '';
  vm.console.onData((bytes) => {
    output += Buffer.from(bytes).toString('latin1');
  });
  vm.start();
  let stops = 0;
  for (; stops < MOST_STOPS; stops++) {
    await new Promise((resolve) => setTimeout(resolve, RUNS[stops % RUNS.length]));
    if (!(await paused(vm))) break;
    for (const index of indices) {
      const { lapic, ...state } = await vm.readVcpu(index, ...STATE_ORDER);
      // Nothing of what it was is left: all of it has to be in the state.
      await vm.writeVcpu(index, first[index]);
      await vm.writeVcpu(index, { ...state, lapic });
      const { lapic: _, ...restored } = await vm.readVcpu(index, ...STATE_ORDER);
      expect(restored).toEqual(state);
    }
    vm.resume();
  }
  return { exit: await vm.exited, stops, output };
}

describe('a kernel that boots on tcg', () => {
  it.each([1, 2])(
    'with %i vCPUs goes on after every stop with the state that was taken',
    async (cpus) => {
      const { exit, stops, output } = await bootWithStops(cpus);

      expect(exit).toMatchObject({ reason: 'poweroff' });
      expect(stops).toBeGreaterThan(10);
      expect(output).toContain('Run /init as init process');
      expect(output).toMatch(new RegExp(`^${cpus}\r?$`, 'm'));
      expect(output).toContain(SHA256_OF_HELLO);
      expect(output).not.toMatch(/BUG|Oops|WARNING|rcu.*stall|clocksource.*unstable/);
    },
    LIMIT_MS,
  );
});
