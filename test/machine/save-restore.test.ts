/**
 * A Linux guest that is stopped in the middle of disk, entropy and console traffic; another machine object goes on with
 * what was saved, again and again, and nothing the guest reads, writes or says is wrong, missing or there twice.
 */
import { createHash, randomFillSync } from 'node:crypto';
import { join } from 'node:path';
import { deserialize, serialize } from 'node:v8';
import pino from 'pino';
import { beforeAll, describe, expect, it } from 'vitest';
import { buildInitramfs } from '../../src/boot/initramfs/build.ts';
import { VirtioConsole } from '../../src/devices/virtio/console/console.ts';
import { fetchBusybox, fetchKernel } from '../../src/host/kernel-fetch.ts';
import { type MachineState, restoreMachine, saveMachine } from '../../src/machine/machine-state.ts';
import { Vm, type VmStateName } from '../../src/machine/vm.ts';
import type { BlockBackend } from '../../src/storage/backend.ts';
import { addDisk } from '../devices/virtio/support/further-disk.ts';

/** Only a guest that hangs takes so long, ms. */
const LIMIT = 300_000;
/** Only a guest that lost something makes nothing of its load for so long, ms. */
const PATIENCE = 60_000;
const SAVES = process.env.TSVISOR_SLOW_TESTS ? 25 : 6;
/** Instructions, about, that a guest that boots gets in one machine, of more than a thousand million in all. */
const BOOT_SHARE = process.env.TSVISOR_SLOW_TESTS ? 20e6 : 100e6;
/** And how long it may idle there, ms. */
const BOOT_IDLE = 3000;
const MIB = 2 ** 20;
const SLOT = MIB / 2;
const WRITERS = 2;
const READERS = 2;
/** Behind the writers' slots, what never changes. */
const CONSTANT = MIB / 4;

/** Numbers that a seed repeats. */
function randomNumbers(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** One machine's way to content that outlives it: slow, stopped at will, and cut off with what was under way undone. */
class SlowDisk implements BlockBackend {
  readonly size: number;
  readonly readOnly = false;
  inFlight = 0;
  readonly #content: Uint8Array;
  readonly #random: (below: number) => number;
  #isHeld = false;
  #isCut = false;
  #waiting: (() => void)[] = [];

  constructor(content: Uint8Array, random: (below: number) => number) {
    this.size = content.length;
    this.#content = content;
    this.#random = random;
  }

  /** Lets no request end any more. */
  hold(): void {
    this.#isHeld = true;
  }

  /** Nothing reaches the content any more. */
  cut(): void {
    this.#isCut = true;
    for (const go of this.#waiting.splice(0)) go();
  }

  async #turn(): Promise<void> {
    this.inFlight++;
    await new Promise((resolve) => setTimeout(resolve, this.#random(6)));
    if (this.#isHeld && !this.#isCut) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    this.inFlight--;
    if (this.#isCut) throw new Error('cut off');
  }

  async read(offset: number, into: readonly Uint8Array[]): Promise<void> {
    await this.#turn();
    let at = offset;
    for (const view of into) {
      view.set(this.#content.subarray(at, at + view.length));
      at += view.length;
    }
  }

  async write(offset: number, from: readonly Uint8Array[]): Promise<void> {
    await this.#turn();
    let at = offset;
    for (const view of from) {
      this.#content.set(view, at);
      at += view.length;
    }
  }

  flush(): Promise<void> {
    return this.#turn();
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    await this.#turn();
    this.#content.fill(0, offset, offset + length);
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}

/** The host's end of a port: answers each line, and outlives the machines. */
class Answerer {
  readonly lines: string[] = [];
  isLast = false;
  /** The present machine's console. */
  terminal: VirtioConsole | undefined;
  #line = '';
  #pending = Buffer.alloc(0);

  console(): VirtioConsole {
    const terminal = new VirtioConsole({
      ports: [
        { onOutput: () => {} },
        {
          name: 'org.example.echo',
          onOutput: (bytes) => this.#receive(terminal, bytes),
          onInputSpace: () => this.#send(),
        },
      ],
    });
    return terminal;
  }

  #receive(terminal: VirtioConsole, bytes: Uint8Array): void {
    if (terminal !== this.terminal) return;
    const parts = (this.#line + Buffer.from(bytes).toString('latin1')).split('\n');
    this.#line = parts.pop() ?? '';
    for (const line of parts) {
      this.lines.push(line);
      const answer = this.isLast ? 'stop' : `answer to ${line}`;
      this.#pending = Buffer.concat([this.#pending, Buffer.from(`${answer}\n`)]);
    }
    this.#send();
  }

  #send(): void {
    const done = this.terminal?.receive(this.#pending, 1) ?? 0;
    this.#pending = this.#pending.subarray(done);
  }
}

/** Writers check what they wrote by reading it past the page cache, as readers do; the port decides when it is enough. */
const SCRIPT = `
  write() {
    i=0
    while [ ! -e /tmp/stop ]; do
      at=$((($1 * ${SLOT} + (i % 8) * 65536) / 16384))
      dd if=/dev/urandom of=/tmp/w$1 bs=16k count=$((1 + i % 3)) 2>/dev/null
      s=$(md5sum < /tmp/w$1)
      dd if=/tmp/w$1 of=/dev/vda bs=16k seek=$at conv=fsync,notrunc 2>/dev/null || echo "BAD write $1 $i"
      r=$(dd if=/dev/vda bs=16k skip=$at count=$((1 + i % 3)) iflag=direct 2>/dev/null | md5sum)
      [ "$s" = "$r" ] && echo "wrote $1 $i" || echo "BAD read $1 $i: $s $r"
      i=$((i + 1))
    done
    echo "sum $1 $(dd if=/dev/vda bs=16k skip=$(($1 * ${SLOT} / 16384)) count=${SLOT / 16384} iflag=direct 2>/dev/null | md5sum)"
  }
  read_again() {
    while [ ! -e /tmp/stop ]; do
      r=$(dd if=/dev/vda bs=16k skip=${(WRITERS * SLOT) / 16384} count=${CONSTANT / 16384} iflag=direct 2>/dev/null | md5sum)
      [ "$r" = "$constant  -" ] || echo "BAD constant $r"
    done
  }
  entropy() {
    n=0
    while [ ! -e /tmp/stop ]; do
      [ "$(dd if=/dev/hwrng bs=64 count=4 2>/dev/null | wc -c)" = 256 ] || echo "BAD entropy"
      n=$((n + 1))
    done
    echo "entropy $n"
  }
  p=$(grep -l org.example.echo /sys/class/virtio-ports/*/name); p=/dev/$(basename $(dirname $p))
  exec 3<>$p
  for w in $(seq 0 ${WRITERS - 1}); do write $w & done
  for r in $(seq ${READERS}); do read_again & done
  entropy &
  n=0
  while [ ! -e /tmp/stop ]; do
    echo "line $n" >&3
    read -r line <&3
    case "$line" in
      "answer to line $n") ;;
      stop) touch /tmp/stop ;;
      *) echo "BAD answer $n: $line" ;;
    esac
    n=$((n + 1))
  done
  exec 3>&-
  wait
  echo "lines $n"`;

let kernel: string;
let initrd: Uint8Array;
beforeAll(async () => {
  const { vmlinuz, version } = await fetchKernel();
  kernel = vmlinuz;
  const root = join(vmlinuz, '../..', 'lib/modules', version);
  const names = ['virtio_mmio', 'virtio_pci', 'virtio_blk', 'virtio_rng', 'virtio_console'];
  initrd = await buildInitramfs({ busybox: await fetchBusybox(), modules: { root, names }, command: SCRIPT });
}, LIMIT);

const md5 = (bytes: Uint8Array) => createHash('md5').update(bytes).digest('hex');

/** Requests that a saved disk had under way. */
function underWay({ devices }: MachineState): number {
  const disk = devices.find(({ name }) => name.startsWith('virtio-blk'))?.state as {
    core: { queues: { queue: { count: number } | null }[] };
  };
  return disk.core.queues.reduce((sum, { queue }) => sum + (queue?.count ?? 0), 0);
}

describe.each([
  { transport: 'mmio', cpus: 1, ring: 'packed' },
  { transport: 'pci', cpus: 2, ring: 'split' },
] as const)(
  'a Linux guest on $cpus vCPU with a disk of $ring rings on $transport',
  ({ transport, cpus, ring }) => {
    it(
      'goes on in other machine objects with what was under way',
      async () => {
        const seed = Date.now() >>> 0;
        console.log(`${transport}: seed ${seed}`);
        const random = randomNumbers(seed);
        const content = new Uint8Array(WRITERS * SLOT + CONSTANT);
        randomFillSync(content);
        const constant = md5(content.subarray(WRITERS * SLOT));
        const answerer = new Answerer();
        let output = '';
        const complaints: string[] = [];
        const log = pino({ level: 'warn' }, { write: (line) => void complaints.push(line) });
        const create = async (): Promise<{ vm: Vm; disk: SlowDisk; terminal: VirtioConsole }> => {
          const disk = new SlowDisk(content, random);
          const terminal = answerer.console();
          const vm = await Vm.create({
            accel: 'tcg',
            cpus,
            memory: '128M',
            transport,
            disks: ring === 'packed' ? [{ backend: disk }] : [],
            virtio: [terminal],
            rng: true,
            log,
            boot: {
              kernel,
              initrd,
              cmdline: `console=ttyS0 panic=-1 cryptomgr.notests quiet constant=${constant}`,
            },
          });
          if (ring === 'split') addDisk(vm, { backend: disk, ring, queues: 2 });
          vm.console.onData((bytes) => {
            output += Buffer.from(bytes).toString('latin1').replaceAll('\r', '');
          });
          return { vm, disk, terminal };
        };
        let machine = await create();
        answerer.terminal = machine.terminal;
        machine.vm.start();
        const until = async (condition: () => boolean) => {
          const end = performance.now() + PATIENCE;
          while (!condition()) {
            if (machine.vm.state !== 'running' || performance.now() > end)
              throw new Error(`it came to a stand:\n${output}`);
            await new Promise((resolve) => setTimeout(resolve, 5));
          }
        };
        await until(() => /wrote 0 1$/m.test(output));

        const requests: number[] = [];
        for (let save = 0; save < SAVES; save++) {
          await new Promise((resolve) => setTimeout(resolve, 20 + random(300)));
          const { vm, disk } = machine;
          disk.hold();
          await until(() => disk.inFlight > 0);
          await new Promise((resolve) => setTimeout(resolve, random(150)));
          await vm.pause();
          const { memory, ...rest } = await saveMachine(vm);
          // Everything else goes through bytes, as on its way to a file.
          const state: MachineState = { memory, ...deserialize(serialize(rest)) };
          answerer.terminal = undefined;
          disk.cut();
          await vm.close();
          requests.push(underWay(state));
          machine = await create();
          await restoreMachine(machine.vm, state);
          answerer.terminal = machine.terminal;
          const lines = answerer.lines.length;
          machine.vm.start();
          await until(() => answerer.lines.length > lines + 2);
        }
        answerer.isLast = true;
        const limit = setTimeout(() => void machine.vm.stop('timeout'), LIMIT);
        const { reason } = await machine.vm.exited;
        clearTimeout(limit);

        expect(output).not.toMatch(/BAD|BUG|Oops|WARNING|rcu.*stall|I\/O error|blocked for more/);
        // Only of the machines that were left behind.
        expect(complaints.filter((line) => !line.includes('cut off'))).toEqual([]);
        expect(reason).toBe('poweroff');
        expect(Math.min(...requests)).toBeGreaterThan(0);
        for (let writer = 0; writer < WRITERS; writer++) {
          const rounds = [...output.matchAll(new RegExp(`^wrote ${writer} (\\d+)$`, 'gm'))].map(([, n]) =>
            Number(n),
          );
          expect(rounds).toEqual(Array.from(rounds.keys()));
          expect(rounds.length).toBeGreaterThan(2);
          const sum = md5(content.subarray(writer * SLOT, (writer + 1) * SLOT));
          expect(output).toMatch(new RegExp(`^sum ${writer} ${sum}`, 'm'));
        }
        expect(answerer.lines).toEqual(Array.from(answerer.lines.keys(), (n) => `line ${n}`));
        expect(output).toMatch(new RegExp(`^lines ${answerer.lines.length}$`, 'm'));
        expect(Number(/^entropy (\d+)$/m.exec(output)?.[1])).toBeGreaterThan(0);
        console.log(`saved with requests under way ${requests.join(' ')}, ${answerer.lines.length} lines`);
      },
      LIMIT * 2,
    );
  },
);

/** What a kernel finds out while it boots, and what it says when time or a processor is not what it seemed. */
const BOOT_COMMAND =
  'grep -c ^processor /proc/cpuinfo; cat /sys/devices/system/clocksource/clocksource0/current_clocksource; echo -n hello | md5sum';
const TROUBLE =
  /BUG|Oops|WARNING|rcu.*stall|clocksource.*unstable|TSC.*unstable|APIC error|[Ss]purious|nobody cared/;

/** Pauses a machine. @returns false when it has ended meanwhile */
async function paused(vm: Vm): Promise<boolean> {
  const state = (): VmStateName => vm.state;
  if (state() !== 'running') return false;
  await vm.pause().catch((error) => expect(error.code).toBe('TSV_E_STATE'));
  return state() === 'paused';
}

it(
  'a Linux guest boots through many machine objects',
  async () => {
    const random = randomNumbers(Date.now() >>> 0);
    const bootInitrd = await buildInitramfs({ busybox: await fetchBusybox(), command: BOOT_COMMAND });
    let output = '';
    const create = async () => {
      const vm = await Vm.create({
        accel: 'tcg',
        cpus: 2,
        memory: '128M',
        boot: { kernel, initrd: bootInitrd, cmdline: 'console=ttyS0 panic=-1 cryptomgr.notests' },
      });
      vm.console.onData((bytes) => {
        output += Buffer.from(bytes).toString('latin1').replaceAll('\r', '');
      });
      return vm;
    };
    let vm = await create();
    vm.start();
    let saves = 0;
    for (;;) {
      const share = BOOT_SHARE * (0.5 + random(1000) / 1000);
      const end = performance.now() + BOOT_IDLE;
      while ((vm.stats().instructions ?? 0) < share && performance.now() < end && vm.state === 'running') {
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
      if (!(await paused(vm))) break;
      const state = await saveMachine(vm);
      await vm.close();
      vm = await create();
      await restoreMachine(vm, state);
      vm.start();
      saves++;
    }
    const { reason } = await vm.exited;

    expect(output).not.toMatch(TROUBLE);
    expect(reason).toBe('poweroff');
    expect(saves).toBeGreaterThan(2);
    expect(output.match(/Linux version/g)).toHaveLength(1);
    expect(output).toMatch(/^2$/m);
    expect(output).toMatch(/^(tsc|kvm-clock)$/m);
    expect(output).toContain('5d41402abc4b2a76b9719d911017c592');
    console.log(`booted through ${saves + 1} machines`);
  },
  LIMIT * 2,
);
