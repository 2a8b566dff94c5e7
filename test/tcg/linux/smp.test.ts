import { createHash } from 'node:crypto';
import { expect, it } from 'vitest';
import { complaints } from './complaints.ts';
import { LIMIT, runGuest, SECTIONS, sections } from './guest.ts';
import { Programs } from './programs.ts';

it.each([2, 4])(
  'boots with %i vCPUs, which all work: timers, messages between them, hashes side by side, shared memory',
  async (cpus) => {
    using programs = new Programs().compile('noise').compile('threads');
    const all = Array.from({ length: cpus }, (_, cpu) => cpu);
    const sum = programs.sumOnHost('noise', '2');

    const { exit, console } = await runGuest({
      cpus,
      script: `${SECTIONS}
        section nproc; nproc; end
        section hashes
        for cpu in ${all.join(' ')}; do
          for i in 1 2; do taskset $(printf %x $((1 << cpu))) sh -c 'noise 2 | sha256sum' & done
        done
        wait
        end
        section pinned
        for cpu in ${all.join(' ')}; do
          taskset $(printf %x $((1 << cpu))) sh -c 'i=0; while [ $i -lt 3000 ]; do i=$((i + 1)); done; awk "{ print \\$39 }" /proc/self/stat'
        done
        end
        section threads; threads ${2 * cpus} 1000; end
        section jobs
        n=0; while [ $n -lt 40 ]; do (/bin/busybox true; echo $n) > /job$n & n=$((n + 1)); done; wait; cat /job* | sort -n | md5sum
        end
        section interrupts; cat /proc/interrupts; end
        section online; cat /sys/devices/system/cpu/online; end
        section dmesg; dmesg -r; end`,
      initramfs: { files: programs.files },
    });

    const found = sections(console);
    expect(found.nproc).toBe(`${cpus}\nstatus 0`);
    expect(found.online).toBe(`0-${cpus - 1}\nstatus 0`);
    expect(found.hashes).toBe(`${`${sum}\n`.repeat(2 * cpus)}status 0`);
    expect(found.pinned).toBe(`${all.join('\n')}\nstatus 0`);
    expect(found.threads).toBe(
      'mutex 1\natomics 1 1 1 1 1 1\nacross lines 1 1 1\n16 bytes 1 1\nturns taken\nthreads made\nstatus 0',
    );
    const numbers = Array.from({ length: 40 }, (_, n) => `${n}\n`).join('');
    expect(found.jobs).toBe(`${createHash('md5').update(numbers).digest('hex')}  -\nstatus 0`);
    for (const [cpu, counts] of all.map((cpu) => [cpu, interruptsOf(found.interrupts, cpu)] as const)) {
      expect(counts.LOC, `timer of vCPU ${cpu}`).toBeGreaterThan(0);
      expect(counts.RES + counts.CAL, `messages to vCPU ${cpu}`).toBeGreaterThan(0);
    }
    expect(complaints(found.dmesg)).toEqual([]);
    expect(exit).toMatchObject({ reason: 'poweroff', status: 0 });
  },
  LIMIT + 60_000,
);

/** Counts of a CPU, by the name in the first column of /proc/interrupts. */
function interruptsOf(table: string, cpu: number): Record<string, number> {
  const rows = table.matchAll(/^ *(\w+):((?: +\d+)+)/gm);
  return Object.fromEntries(
    [...rows].map(([, name, counts]) => [name, Number(counts.trim().split(/ +/)[cpu])]),
  );
}
