// needs: kvm
/** A guest of the kvm engine that goes on in another machine: its notifications and interrupts go by eventfds there too. */
import { expect, it } from 'vitest';
import { restoreMachine, saveMachine } from '../../../../src/machine/machine-state.ts';
import { BUFFERS, GuestMachine, type GuestPlan } from '../support/guest-driver.ts';

const ROUNDS = 200;

it.each([
  { cpl: 0, transport: 'mmio' },
  { cpl: 3, transport: 'mmio', packed: true },
  { cpl: 0, transport: 'msix', move: true },
  { cpl: 3, transport: 'msix' },
  { cpl: 0, transport: 'pin', move: true },
] as const satisfies Partial<GuestPlan>[])('goes on with %o', async (variant) => {
  const requests = [{ buffers: [{ gpa: BUFFERS, length: 64, isWritable: true }] }];
  const create = () =>
    GuestMachine.create(
      { requests, rounds: ROUNDS, ...variant },
      { accel: 'kvm', rng: true, eventfds: 'all' },
    );
  let guest = await create();
  let ioeventfd = 0;
  for (const share of [0.3, 0.7]) {
    guest.vm.start();
    while (guest.notified < ROUNDS * share) await new Promise((resolve) => setTimeout(resolve, 1));
    await guest.vm.pause();
    const state = await saveMachine(guest.vm);
    ioeventfd += guest.vm.stats().ioeventfd ?? 0;
    await guest.vm.close();
    guest = await create();
    await restoreMachine(guest.vm, structuredClone(state));
  }

  await guest.run();

  const stats = guest.vm.stats();
  const { notified } = guest;
  const interrupts = guest.interrupts.reduce((a, b) => a + b);
  await guest.vm.close();
  expect(notified).toBe(ROUNDS);
  // What was under way is asked for again, and some in quick succession may come as one.
  expect(stats.ioeventfd).toBeGreaterThan(ROUNDS * 0.1);
  expect(ioeventfd).toBeGreaterThan(ROUNDS * 0.3);
  if (variant.transport !== 'pin') expect(stats.irqfd).toBeGreaterThan(ROUNDS * 0.1);
  expect(interrupts).toBeGreaterThanOrEqual(ROUNDS);
});
