import { describe, expect, it } from 'vitest';
import { LIMIT, runGuest } from './guest.ts';

/** Boots in a row; `TSV_TCG_BOOTS` for more. */
const BOOTS = Number(process.env.TSV_TCG_BOOTS ?? 3);

describe.each([1, 2])('with %i vCPUs', (cpus) => {
  it.each(Array.from({ length: BOOTS }, (_, n) => n + 1))(
    'boots and powers off, time %i',
    async () => {
      const { exit, console } = await runGuest({
        cpus,
        script: 'echo up with $(nproc) && dmesg | grep -i "call trace"',
      });

      expect(console).toContain(`up with ${cpus}\n`);
      expect(console).toContain('init: exit status 1\n');
      expect(exit).toEqual({ reason: 'poweroff', status: 0, by: 'ACPI S5' });
    },
    LIMIT + 60_000,
  );
});
