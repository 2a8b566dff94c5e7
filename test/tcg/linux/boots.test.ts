import { describe, expect, it } from 'vitest';
import { LIMIT, runGuest } from './guest.ts';

/** Boots in a row of the cloud kernel, and as long a row of the larger kernel only when `TSV_TCG_BOOTS` says so. */
const BOOTS = Number(process.env.TSV_TCG_BOOTS ?? 10);
const BOOTS_GENERIC = Number(process.env.TSV_TCG_BOOTS ?? 2);

describe.each([
  ['cloud', 1, BOOTS],
  ['cloud', 2, BOOTS],
  ['generic', 1, BOOTS_GENERIC],
  ['generic', 2, BOOTS_GENERIC],
] as const)("Debian's %s kernel with %i vCPUs", (kernel, cpus, boots) => {
  it.each(Array.from({ length: boots }, (_, n) => n + 1))(
    'boots and powers off, time %i',
    async () => {
      const { exit, console } = await runGuest({
        kernel: kernel === 'generic' ? 'linux-image-amd64' : undefined,
        memory: kernel === 'generic' ? '512M' : undefined,
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
