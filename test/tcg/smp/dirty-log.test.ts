/** The dirty log while vCPUs run: what is not in it has not changed. */
import { afterEach, expect, test } from 'vitest';
import { DirtyLog } from '../../../src/tcg/dirty-log.ts';
import { SmpMachine } from './machine.ts';

/** Pages that the guest writes at random. */
const FIRST = 0x200000;
const PAGES = 256;
const PAGE = 4096;

let machine: SmpMachine;
afterEach(() => machine.close());

/** Adds one to a word of a page chosen by a linear congruential generator, for a number of rounds. */
const writer = (seed: number, rounds: number) => `
  mov eax, ${seed}
  mov ebx, ${rounds}
  2: imul eax, eax, 1103515245
  add eax, 12345
  mov ecx, eax
  shr ecx, 16
  and ecx, ${PAGES - 1}
  shl ecx, 12
  inc dword ptr [rcx + ${FIRST + seed * 4}]
  dec ebx
  jnz 2b
  hlt`;

test('a page that is not in the log is as it was', async () => {
  machine = new SmpMachine(2);
  const log = new DirtyLog(machine.shared, machine.regions);
  const bytes = machine.memory.bytes(FIRST, PAGES * PAGE);
  const copy = bytes.slice();
  let isRunning = true;
  const end = machine.run([writer(1, 4_000_000), writer(2, 4_000_000)]).finally(() => {
    isRunning = false;
  });
  let taken = 0;
  /** Copies what the log says was written. */
  const follow = () => {
    const [bitmap] = log.take();
    for (let page = 0; page < PAGES; page++) {
      if (!bitmap.has(FIRST / PAGE + page)) continue;
      copy.set(bytes.subarray(page * PAGE, (page + 1) * PAGE), page * PAGE);
      taken++;
    }
  };
  while (isRunning) {
    follow();
    await new Promise((resolve) => setImmediate(resolve));
  }
  await end;
  follow();
  expect(Buffer.compare(copy, bytes)).toBe(0);
  expect(taken).toBeGreaterThan(PAGES);
}, 60_000);
