import { expect, it } from 'vitest';
import { LIMIT, runGuest, SECTIONS, sections } from './guest.ts';

it.each([1, 2])(
  "keeps the host's time with %i vCPUs: a guest's second is a second, and its date today's",
  async (cpus) => {
    const marks: number[] = [];
    const { console } = await runGuest({
      cpus,
      script: `${SECTIONS}
        section date; date +%s; end
        sleep 1
        section sleep; sleep 3; end
        section watch; i=0; while [ $i -lt 6 ]; do cat /proc/uptime; usleep 200000; i=$((i + 1)); done; end`,
      onOutput: (output) => {
        const count = output.match(/@@(?:begin|status) /g)?.length ?? 0;
        while (marks.length < count) marks.push(Date.now());
      },
    });

    const [dated, , from, to] = marks;
    const ratio = (to - from) / 3000;
    expect(ratio).toBeGreaterThan(0.8);
    expect(ratio).toBeLessThan(1.5);
    const found = sections(console);
    expect(Math.abs(Number(found.date.split('\n')[0]) - dated / 1000)).toBeLessThan(5);
    const uptimes = found.watch
      .split('\n')
      .slice(0, 6)
      .map((line) => Number(line.split(' ')[0]));
    expect(uptimes).toEqual([...uptimes].sort((a, b) => a - b));
    expect(uptimes[5] - uptimes[0]).toBeGreaterThanOrEqual(1);
  },
  LIMIT + 60_000,
);
