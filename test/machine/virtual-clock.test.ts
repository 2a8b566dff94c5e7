/** The virtual clock: guest time advances with executed instructions, and a run repeats exactly. */
import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { buildInitramfs } from '../../src/boot/initramfs/build.ts';
import { VIRTUAL_WALL_BASE } from '../../src/devices/guest-clock.ts';
import { fetchBusybox, fetchKernel } from '../../src/host/kernel-fetch.ts';
import type { VmConfig } from '../../src/machine/config.ts';
import { Vm } from '../../src/machine/vm.ts';
import { guestsOn } from '../support/guests.ts';

interface Run {
  console: string;
  instructions: number | undefined;
  time: number;
  ram: string;
}

/** Runs a machine to its end and tells everything that can be compared. */
async function record(config: VmConfig): Promise<Run> {
  const vm = await Vm.create(config);
  let console = '';
  vm.console.onData((bytes) => {
    console += Buffer.from(bytes).toString('latin1');
  });
  vm.start();
  const { reason } = await vm.exited;
  const ram = createHash('sha256');
  for (const { gpa, size } of vm.memory.regions) ram.update(vm.memory.bytes(gpa, size));
  const run = {
    console: `${console}${reason}`,
    instructions: vm.stats().instructions,
    time: vm.clock.now(),
    ram: ram.digest('hex'),
  };
  await vm.close();
  return run;
}

describe('a virtual clock', () => {
  it('lets a boot of Linux repeat to the last instruction and byte of memory', async () => {
    const { vmlinuz } = await fetchKernel();
    // Random numbers, time, sleeping, processes: all that could differ.
    const command =
      'date; sleep 2; date; head -c 16 /dev/urandom | hexdump -C; cat /proc/interrupts; sh -c "ls -l /bin | head -3" | sort';
    const initrd = await buildInitramfs({ busybox: await fetchBusybox(), command });
    const config: VmConfig = {
      memory: '128M',
      clock: 'virtual',
      seed: 1,
      cpu: 'x86-64-v2,+rdrand,+rdseed',
      boot: { kernel: vmlinuz, initrd, cmdline: 'console=ttyS0 panic=-1 cryptomgr.notests' },
    };

    const first = await record(config);
    const second = await record(config);

    expect(first.console).toContain(new Date(VIRTUAL_WALL_BASE).getUTCFullYear().toString());
    expect(first.console).toMatch(/poweroff$/);
    expect(first.instructions).toBeGreaterThan(1e8);
    expect(second).toEqual(first);
  }, 300_000);

  it('does not wait while the guest sleeps', async () => {
    // Channel 0 of the PIT in one-shot mode, its interrupt at vector 8: 55 ms, twenty times.
    const source = `
      xor ax, ax; mov ds, ax; mov word ptr [8 * 4], offset tick; mov word ptr [8 * 4 + 2], ax
      mov al, 0x11; out 0x20, al; mov al, 8; out 0x21, al; mov al, 4; out 0x21, al; mov al, 1; out 0x21, al
      mov al, 0xfe; out 0x21, al
      mov al, 0x34; out 0x43, al; xor al, al; out 0x40, al; out 0x40, al
      xor cx, cx; sti
      1: hlt; cmp cx, 2000; jne 1b
      mov dx, 0x604; mov ax, 0x3400; out dx, ax; 2: hlt; jmp 2b
      tick: inc cx; mov al, 0x20; out 0x20, al; iret`;
    const vm = await guestsOn('tcg').pcVm(source, { clock: 'virtual' });

    vm.start();
    await vm.exited;

    // Some 2000 periods of 65536 ticks: almost two minutes.
    expect(vm.clock.now() / 1e9).toBeCloseTo((2000 * 65536) / 1193182, 0);
    await vm.close();
  });

  it.each<[string, Partial<VmConfig>]>([
    ['kvm', { accel: 'kvm' }],
    ['two vCPUs', { cpus: 2 }],
    ['scaled time', { timeScale: 2 }],
  ])('does not go with %s', async (_, options) => {
    const config = { clock: 'virtual', boot: { flat: Uint8Array.of(0xf4) }, ...options } as const;

    await expect(Vm.create(config)).rejects.toMatchObject({ code: 'TSV_E_CONFIG' });
  });
});

describe('a seed', () => {
  const source = 'rdrand rax; mov [0x3000], rax; rdseed rax; mov [0x3008], rax; hlt';
  const numbers = async (seed: number) => {
    const vm = await guestsOn('tcg').longModeVm(source, { seed, cpu: 'x86-64-v2,+rdrand,+rdseed' });
    vm.start();
    await vm.exited;
    const result = [vm.memory.readU64(0x3000), vm.memory.readU64(0x3008)];
    await vm.close();
    return result;
  };

  it('decides what the random number instructions give', async () => {
    const [a, b, c] = [await numbers(7), await numbers(7), await numbers(8)];

    expect(b).toEqual(a);
    expect(c).not.toEqual(a);
  });

  it('must be a whole number', async () => {
    const config = { seed: -1, boot: { flat: Uint8Array.of(0xf4) } };

    await expect(Vm.create(config)).rejects.toMatchObject({ code: 'TSV_E_CONFIG' });
  });
});
