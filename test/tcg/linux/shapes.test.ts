/** Machines that are not like most: their processors' ids, their clock, their time, their memory. */
import { expect, it } from 'vitest';
import { complaints } from './complaints.ts';
import { LIMIT, runGuest, SECTIONS, sections } from './guest.ts';
import { Programs } from './programs.ts';

it(
  'sees the sockets and cores it was given, with a gap in the APIC ids between them',
  async () => {
    const { exit, console } = await runGuest({
      cpus: 6,
      cpu: 'host',
      config: { topology: { sockets: 2, cores: 3, threads: 1 } },
      script: `${SECTIONS}
        section cpus; awk -F': ' '/^(physical id|core id|apicid)/ { printf "%s ", $2 } /^$/ { print "" }' /proc/cpuinfo; end
        section siblings; cat /sys/devices/system/cpu/cpu4/topology/core_siblings_list; end
        section work; for cpu in 0 1 2 3 4 5; do taskset $(printf %x $((1 << cpu))) awk '{ print $39 }' /proc/self/stat; done; end
        section dmesg; dmesg -r; end`,
    });

    const { cpus, siblings, work, dmesg } = sections(console);
    expect(cpus).toBe('0 0 0 \n0 1 1 \n0 2 2 \n1 0 4 \n1 1 5 \n1 2 6 \nstatus 0');
    expect(siblings).toBe('3-5\nstatus 0');
    expect(work).toBe('0\n1\n2\n3\n4\n5\nstatus 0');
    expect(complaints(dmesg)).toEqual([]);
    expect(exit).toMatchObject({ reason: 'poweroff', status: 0 });
  },
  LIMIT + 60_000,
);

it(
  "takes kvm-clock where its CPU's TSC is not said to be invariant, and it never goes back",
  async () => {
    using programs = new Programs().compile('clock');

    const { console } = await runGuest({
      cpus: 2,
      cpu: 'x86-64-v2,+rdtscp',
      script: `${SECTIONS}
        section source; cat /sys/devices/system/clocksource/clocksource0/current_clocksource; end
        section clock; clock 2 1000; end
        section dmesg; dmesg -r; end`,
      initramfs: { files: programs.files },
    });

    const { source, clock, dmesg } = sections(console);
    expect(source).toBe('kvm-clock\nstatus 0');
    expect(clock).toBe('monotonic 0\nraw 0\nrealtime 0\ntsc 0\nread often\nstatus 0');
    expect(complaints(dmesg)).toEqual([]);
  },
  LIMIT + 60_000,
);

it.each([2, 4])(
  'lives at 1/%i of the speed of time when it is told to',
  async (timeScale) => {
    const marks: number[] = [];
    const { console } = await runGuest({
      config: { timeScale },
      script: `${SECTIONS}
        sleep 1
        section sleep; sleep 2; end
        section dmesg; dmesg -r; end`,
      onOutput: (output) => {
        const count = output.match(/@@(?:begin|status) /g)?.length ?? 0;
        while (marks.length < count) marks.push(Date.now());
      },
    });

    const [from, to] = marks;
    const ratio = (to - from) / 2000 / timeScale;
    expect(ratio).toBeGreaterThan(0.8);
    expect(ratio).toBeLessThan(1.5);
    expect(complaints(sections(console).dmesg)).toEqual([]);
  },
  LIMIT + 60_000,
);

it(
  'uses 3 GiB of memory, all of it for its own',
  async () => {
    const { exit, console } = await runGuest({
      memory: '3G',
      script: `${SECTIONS}
        mkdir /big; mount -t tmpfs -o size=95% tmpfs /big
        section total; free -m | awk '/^Mem/ { print ($2 > 2900) }'; end
        section filled; dd if=/dev/zero of=/big/file bs=1M count=2700 2>&1 | head -1; end
        section marks
        at=0
        while [ $at -lt 2700 ]; do printf 'mark %06d' $at | dd of=/big/file bs=1M seek=$at conv=notrunc 2> /dev/null; at=$((at + 50)); done
        at=0; wrong=0
        while [ $at -lt 2700 ]; do
          [ "$(dd if=/big/file bs=1M skip=$at count=1 2> /dev/null | head -c 11)" = "$(printf 'mark %06d' $at)" ] || wrong=$((wrong + 1))
          at=$((at + 50))
        done
        echo $wrong wrong; end
        section dmesg; dmesg -r; end`,
    });

    const { total, filled, marks, dmesg } = sections(console);
    expect(total).toBe('1\nstatus 0');
    expect(filled).toBe('2700+0 records in\nstatus 0');
    expect(marks).toBe('0 wrong\nstatus 0');
    expect(complaints(dmesg)).toEqual([]);
    expect(exit).toMatchObject({ reason: 'poweroff', status: 0 });
  },
  LIMIT + 60_000,
);
