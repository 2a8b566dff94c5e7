/** An idle guest leaves the host's processors alone. */
import { expect, it } from 'vitest';
import { guestsOn } from '../../support/guests.ts';
import { LIMIT, runGuest, SECTIONS } from './guest.ts';

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Processor time that this process takes meanwhile, of that of one processor. */
async function loadDuring(wait: Promise<unknown>): Promise<number> {
  const before = process.cpuUsage();
  const start = performance.now();
  await wait;
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1000 / (performance.now() - start);
}

it('whose vCPUs have halted', async () => {
  await using vm = await guestsOn('tcg').longModeVm('sti; 1: hlt; jmp 1b', {
    cpus: 4,
    startAll: true,
    irqchip: 'kernel',
  });
  vm.start();
  await sleep(200);

  expect(await loadDuring(sleep(1500))).toBeLessThan(0.15);
});

it.each([1, 4])(
  'that is Linux with %i vCPUs, and sleeps',
  async (cpus) => {
    let slept: () => void = () => {};
    let load: Promise<number> | undefined;
    await runGuest({
      cpus,
      script: `${SECTIONS} sleep 1; section sleep; sleep 4; end`,
      onOutput: (output) => {
        if (load === undefined && output.includes('@@begin sleep'))
          load = loadDuring(new Promise<void>((resolve) => (slept = resolve)));
        if (output.includes('@@status')) slept();
      },
    });

    // A vCPU that polled would take a processor for itself.
    expect(await load).toBeLessThan(0.25);
  },
  LIMIT + 60_000,
);
