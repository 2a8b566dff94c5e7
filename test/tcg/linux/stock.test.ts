import { expect, it } from 'vitest';
import { complaints } from './complaints.ts';
import { LIMIT, runGuest, SECTIONS, sections } from './guest.ts';

it.each([
  ['the default CPU', undefined, 1],
  ['every feature and two vCPUs', 'host', 2],
] as const)(
  'boots with the stock command line: its self-tests pass, and it complains of nothing (%s)',
  async (_, cpu, cpus) => {
    const { exit, console, version } = await runGuest({
      cpu,
      cpus,
      cmdline: '',
      script: `${SECTIONS}
        dmesg -n 1
        section crypto; grep -E '^(driver|selftest)' /proc/crypto; end
        section dmesg; dmesg -r; end
        section vulnerabilities; grep . /sys/devices/system/cpu/vulnerabilities/*; end
        section clock; cat /sys/devices/system/clocksource/clocksource0/current_clocksource; end
        uname -a`,
    });

    const found = sections(console);
    const tests = found.crypto.match(/^selftest +: \w+/gm) ?? [];
    expect(tests.length).toBeGreaterThan(15);
    expect(tests.filter((line) => !line.endsWith('passed'))).toEqual([]);
    expect(complaints(found.dmesg)).toEqual([]);
    expect(found.vulnerabilities.match(/Vulnerable|Mitigation/g)).toBeNull();
    expect(found.clock).toBe('tsc\nstatus 0');
    expect(console).toContain(`Linux (none) ${version} `);
    expect(exit).toMatchObject({ reason: 'poweroff', status: 0 });
  },
  LIMIT + 60_000,
);
