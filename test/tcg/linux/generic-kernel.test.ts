import { expect, it } from 'vitest';
import { complaints } from './complaints.ts';
import { LIMIT, runGuest, SECTIONS, sections } from './guest.ts';

it.each([1, 2])(
  "boots Debian's kernel for real hardware to a shell with %i vCPUs",
  async (cpus) => {
    const { exit, console, version } = await runGuest({
      kernel: 'linux-image-amd64',
      cpus,
      memory: '512M',
      script: `${SECTIONS}
        section shell; uname -r; echo 6 times 7 is $((6 * 7)) on $(nproc); end
        section dmesg; dmesg -r; end`,
    });

    const { shell, dmesg } = sections(console);
    expect(version).not.toContain('cloud');
    expect(shell).toBe(`${version}\n6 times 7 is 42 on ${cpus}\nstatus 0`);
    expect(complaints(dmesg)).toEqual([]);
    expect(exit).toMatchObject({ reason: 'poweroff', status: 0 });
  },
  LIMIT + 60_000,
);
