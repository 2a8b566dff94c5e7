// needs: kvm
/** Notifications by ioeventfd and interrupts by irqfd: used by guests of the kvm engine, and given back. */
import { channel } from 'node:diagnostics_channel';
import { describe, expect, it } from 'vitest';
import type { Device } from '../../../../src/devices/device.ts';
import type { VmConfig } from '../../../../src/machine/config.ts';
import { Vm } from '../../../../src/machine/vm.ts';
import { countEventfds } from '../../../support/descriptors.ts';
import { guestsOn } from '../../../support/guests.ts';
import { BUFFERS, GuestMachine, type GuestPlan } from '../support/guest-driver.ts';

const ROUNDS = 20;

/** A guest that asks for random bytes, ROUNDS times, one request after the other. */
async function entropyGuest(
  plan: Pick<GuestPlan, 'cpl' | 'transport'> & Partial<GuestPlan>,
  config: Partial<VmConfig> = {},
): Promise<GuestMachine> {
  const requests = [{ buffers: [{ gpa: BUFFERS, length: 64, isWritable: true }] }];
  return GuestMachine.create({ requests, rounds: ROUNDS, ...plan }, { accel: 'kvm', rng: true, ...config });
}

/** What a finished guest has counted. */
function counts({ vm, notified, interrupts, mmioExits }: GuestMachine) {
  const { ioeventfd, irqfd } = vm.stats();
  return { notified, interrupts: interrupts.reduce((a, b) => a + b), mmioExits, ioeventfd, irqfd };
}

async function run(...args: Parameters<typeof entropyGuest>): Promise<ReturnType<typeof counts>> {
  await using guest = await entropyGuest(...args);
  await guest.run();
  return counts(guest);
}

const turn = () => new Promise((resolve) => setTimeout(resolve, 5));
async function eventually(condition: () => boolean): Promise<void> {
  while (!condition()) await turn();
}

/** Exits of one interrupt: the handler reads the status and acknowledges it, or reads it over PCI without MSI-X. */
const EXITS = { mmio: 2, msix: 0, pin: 1 } as const;

/** Exits that eventfds saved a guest. */
async function savedExits(plan: Parameters<typeof run>[0]): Promise<number> {
  const exits = ({ mmioExits, interrupts }: Awaited<ReturnType<typeof run>>) =>
    mmioExits - interrupts * EXITS[plan.transport];
  const by = await run(plan);
  const without = await run(plan, { eventfds: 'none' });
  expect([by.notified, without.notified]).toEqual([ROUNDS, ROUNDS]);
  // Two in quick succession may come as one.
  expect(by.ioeventfd).toBeGreaterThan(0);
  expect(by.ioeventfd).toBeLessThanOrEqual(ROUNDS);
  expect([without.ioeventfd, without.irqfd]).toEqual([0, 0]);
  return exits(without) - exits(by);
}

describe.each([0, 3] as const)('at CPL %i', (cpl) => {
  it.each(['mmio', 'msix', 'pin'] as const)('no notification exits, by %s', async (transport) => {
    expect(await savedExits({ cpl, transport })).toBe(ROUNDS);
  });
});

it('a trace of accesses shows notifications all the same', async () => {
  const lines: string[] = [];
  const listen = (message: unknown) => void lines.push(...(message as { lines: string[] }).lines);
  channel('tsvisor:trace').subscribe(listen);
  const by = await run({ cpl: 0, transport: 'mmio' }, { trace: ['mmio'] });
  channel('tsvisor:trace').unsubscribe(listen);
  expect(lines.filter((line) => line.includes('e8000050'))).toHaveLength(ROUNDS);
  expect(by.ioeventfd).toBe(0);
});

describe('interrupts', () => {
  it.each([0, 3] as const)('of MMIO devices go by an irqfd if asked for, at CPL %i', async (cpl) => {
    const by = await run({ cpl, transport: 'mmio' }, { eventfds: 'all' });
    expect(by).toMatchObject({ interrupts: ROUNDS, irqfd: ROUNDS });
  });

  it('of MMIO devices go by their line otherwise, which is sooner', async () => {
    expect((await run({ cpl: 0, transport: 'mmio' })).irqfd).toBe(0);
  });

  it('of MSI-X vectors go by an irqfd, once a message has come a second time', async () => {
    expect((await run({ cpl: 0, transport: 'msix' })).irqfd).toBe(ROUNDS - 1);
  });

  it('of MSI-X vectors go by an irqfd with a split irqchip too', async () => {
    const by = await run({ cpl: 0, transport: 'msix' }, { irqchip: 'split' });
    expect(by).toMatchObject({ interrupts: ROUNDS, irqfd: ROUNDS - 1 });
  });

  it('of a pin, whose level is driven, do not', async () => {
    expect((await run({ cpl: 0, transport: 'pin' })).irqfd).toBe(0);
  });
});

describe('a guest that changes its mind', () => {
  it.each(['msix', 'pin'] as const)('notifies without exits where BAR 0 is now, by %s', async (transport) => {
    expect(await savedExits({ cpl: 0, transport, move: true })).toBe(ROUNDS);
  });

  it('gets interrupts by the vector it has changed an entry of the MSI-X table to', async () => {
    await using guest = await entropyGuest({ cpl: 3, transport: 'msix', move: true });
    await guest.run();
    expect(guest.interrupts).toEqual([ROUNDS / 2, 0, ROUNDS / 2]);
    // Either message went by KVM_SIGNAL_MSI once.
    expect(counts(guest).irqfd).toBe(ROUNDS - 2);
  });
});

it('a guest that does nothing but notify keeps neither timers nor the end from coming', async () => {
  const source = 'mov eax, 0xd0000000; 1: mov [rax], eax; jmp 1b';
  await using vm = await guestsOn('kvm').longModeVm(source);
  let writes = 0;
  const bell: Device = {
    name: 'bell',
    registers: [{ offset: 0, size: 4, write: 'posted' }],
    attach: (context) => context.notifiedBy({ offset: 0, size: 4 }),
    write: () => void writes++,
    save: () => ({}),
    restore() {},
  };
  vm.addDevice(bell, { mmio: [{ base: 0xd0000000, size: 16 }] });
  vm.start();

  for (let i = 0; i < 20; i++) await turn();
  await vm.pause();
  const exits = vm.stats().exits.MMIO ?? 0;
  vm.resume();
  while (writes < 100) await turn();
  const { reason } = await vm.stop();

  expect(exits).toBe(0);
  expect(reason).toBe('stopped');
});

describe('descriptors', () => {
  it.each([
    ['mmio', false],
    ['msix', true],
  ] as const)('are given back when the machine ends, by %s', async (transport, move) => {
    await run({ cpl: 0, transport, move });
    await turn();
    const before = countEventfds();

    for (let i = 0; i < 3; i++) await run({ cpl: 0, transport, move });

    await eventually(() => countEventfds() <= before);
  });

  it('are given back when a device is removed, and taken again when it comes back', async () => {
    await using vm = await Vm.create({ accel: 'kvm', memory: '4M', boot: { flat: Uint8Array.of(0xf4) } });
    const device: Device = {
      name: 'bell',
      attach: (context) => context.notifiedBy({ offset: 4, size: 2 }),
      save: () => ({}),
      restore() {},
    };
    const before = countEventfds();
    for (let i = 0; i < 3; i++) {
      vm.addDevice(device, { mmio: [{ base: 0xd0000000, size: 16 }] });
      expect(countEventfds()).toBe(before + 1);

      await vm.removeDevice(device);

      await eventually(() => countEventfds() === before);
    }
  });
});
