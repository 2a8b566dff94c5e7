import { describe, expect, it } from 'vitest';
import { LIMIT, runGuest } from './guest.ts';

describe.each([1, 2])('with %i vCPUs', (cpus) => {
  it.each([
    ['reboot', 'reboot -f', 'reset', 0],
    ['poweroff', 'poweroff -f', 'poweroff', 0],
    ['a panic', 'echo c > /proc/sysrq-trigger', 'panic', 6],
  ] as const)(
    'ends with %s',
    async (_, script, reason, status) => {
      const { exit } = await runGuest({ cpus, script });
      expect(exit).toMatchObject({ reason, status });
    },
    LIMIT + 60_000,
  );

  it(
    'stands still after halt, and can be stopped',
    async () => {
      const { exit } = await runGuest({
        cpus,
        script: 'halt -f',
        cmdline: 'cryptomgr.notests',
        onOutput: (output, vm) => {
          if (output.includes('System halted')) setTimeout(() => void vm.stop(), 500);
        },
      });
      expect(exit).toMatchObject({ reason: 'stopped', status: 0 });
    },
    LIMIT + 60_000,
  );
});
