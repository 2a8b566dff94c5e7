/** A vCPU whose thread dies, as for want of memory, ends its machine; the others do not wait for it. */
import type { Worker } from 'node:worker_threads';
import { afterEach, expect, test } from 'vitest';
import { guestsOn } from '../../support/guests.ts';

const guests = guestsOn('tcg');
const workers: Worker[] = [];
const remember = (worker: Worker) => workers.push(worker);
afterEach(() => {
  process.off('worker', remember);
  workers.length = 0;
});

/** A LOCK for which all others must stand still. RDI is the vCPU's index. */
const ACROSS_WORDS = 'lock inc dword ptr [0x2006]';

test.each([
  ['runs', `test edi, edi; jz 2f; 1: jmp 1b; 2: ${ACROSS_WORDS}; jmp 2b`],
  ['wants to be alone like the others', `1: ${ACROSS_WORDS}; jmp 1b`],
])('while it %s', { timeout: 60_000 }, async (_, source) => {
  process.on('worker', remember);
  await using vm = await guests.longModeVm(source, { cpus: 3, startAll: true });
  vm.start();
  while (vm.memory.readU32(0x2006) === 0) await new Promise((resolve) => setTimeout(resolve, 10));

  await workers[1].terminate();
  const exit = await vm.exited;

  expect(exit).toMatchObject({
    reason: 'error',
    error: { code: 'TSV_E_INTERNAL', message: expect.stringContaining('vCPU 1 was lost') },
  });
});
