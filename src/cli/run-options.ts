/** The options of `tsvisor run`, and what they mean for a machine. */
import type { Options } from 'yargs';
import { TsvError } from '../errors.ts';
import type { BootConfig, VmConfig } from '../machine/config.ts';
import { CONSOLE_SYNTAX, type ConsoleSpec, parseConsole } from './run-consoles.ts';
import { DISK_SYNTAX, type DiskSpec, parseDisk } from './run-disks.ts';
import { PMEM_SYNTAX, type PmemSpec, parsePmem } from './run-pmem.ts';
import { parseTarget, TARGET_SYNTAX, type TargetSpec } from './targets/target.ts';
import { parseTrace } from './trace-output.ts';

const text = (group: string, describe: string, more: Options = {}): Options => ({
  type: 'string',
  nargs: 1,
  group: `${group}:`,
  describe,
  ...more,
});
const flag = (group: string, describe: string, more: Options = {}): Options => ({
  type: 'boolean',
  group: `${group}:`,
  describe,
  ...more,
});
const BOOT = 'What to boot';
const MACHINE = 'Machine';
const CONSOLE = 'Console and limits';
const REPORT = 'Reports';

/** For yargs. Numbers are read as text, so that this program says what is wrong with them. */
export const RUN_OPTIONS = {
  kernel: text(BOOT, 'bzImage, vmlinux, PVH or multiboot kernel'),
  initrd: text(BOOT, 'initial RAM disk'),
  append: text(BOOT, 'kernel command line'),
  protocol: text(BOOT, 'how the kernel is entered', {
    choices: ['auto', 'linux64', 'pvh', 'bzimage', 'multiboot'],
    default: 'auto',
  }),
  module: text(BOOT, 'multiboot module, FILE[,COMMAND LINE] (a comma in FILE is written twice); repeatable', {
    array: true,
  }),
  flat: text(BOOT, 'machine code without any format, instead of a kernel'),
  'flat-address': text(BOOT, 'where it goes (default 0x7c00 in real mode, else 0x100000)'),
  'flat-mode': text(BOOT, 'CPU mode it starts in (default real)', { choices: ['real', 'long64'] }),
  'flat-entry': text(BOOT, 'address of its first instruction (default where it goes)'),
  cpus: text(MACHINE, 'number of vCPUs, 1 to 255', { default: '1' }),
  memory: text(MACHINE, 'RAM: MiB, or with a suffix (512M, 2G)', { default: '128M' }),
  cpu: text(MACHINE, 'CPU model and features, such as x86-64-v2,+aes,-avx or host'),
  accel: text(MACHINE, 'engine', { choices: ['auto', 'kvm', 'tcg'], default: 'auto' }),
  irqchip: text(MACHINE, 'where the interrupt controllers are', { choices: ['kernel', 'split', 'none'] }),
  'mem-backend': text(MACHINE, 'anonymous, thp, memfd, hugepages[:2M|:1G], file:PATH or file-private:PATH', {
    default: 'anonymous',
  }),
  mergeable: flag(MACHINE, 'let KSM merge equal pages'),
  prefault: flag(MACHINE, 'have all RAM provided before the start'),
  pin: text(MACHINE, 'host CPU of each vCPU, such as 0,1'),
  'time-scale': text(MACHINE, 'guest time runs this many times slower, 1 to 1000', { default: '1' }),
  clock: text(MACHINE, 'virtual: guest time advances with executed instructions and runs repeat exactly', {
    choices: ['host', 'virtual'],
    default: 'host',
  }),
  seed: text(MACHINE, "seed of the guest's random number instructions (tcg)"),
  disk: text(MACHINE, `disk, ${DISK_SYNTAX}; repeatable`, { array: true }),
  pmem: text(MACHINE, `disk image in guest memory, /dev/pmem0, ${PMEM_SYNTAX}; repeatable`, { array: true }),
  rng: flag(MACHINE, 'virtio entropy device'),
  transport: text(MACHINE, 'how guests reach virtio devices', { choices: ['mmio', 'pci'], default: 'mmio' }),
  name: text(MACHINE, 'name of the machine in logs', { default: 'vm' }),
  serial: text(
    CONSOLE,
    `serial console: ${TARGET_SYNTAX} (default stdio, or none when a --console takes it)`,
  ),
  console: text(CONSOLE, `virtio console or named port, ${CONSOLE_SYNTAX}; repeatable`, { array: true }),
  timeout: text(CONSOLE, 'end the run after so many seconds, with status 124'),
  'stop-on-panic': flag(CONSOLE, 'end the run when the kernel panics (--no-stop-on-panic goes on)', {
    default: true,
  }),
  json: flag(REPORT, 'one JSON object on stdout at the end; the console then goes to stderr'),
  'dump-registers': flag(REPORT, 'registers on stderr when a run ends badly (--no-dump-registers: none)', {
    default: true,
  }),
  trace: text(REPORT, 'trace exits, io, mmio, assist; under tcg insn, block, exc, irq (separated by commas)'),
  'trace-file': text(REPORT, 'where the trace goes (default stderr)'),
} as const satisfies Record<string, Options>;

/** What yargs makes of {@link RUN_OPTIONS}. */
export interface RunArguments {
  kernel?: string;
  initrd?: string;
  append?: string;
  protocol?: string;
  module?: string[];
  flat?: string;
  flatAddress?: string;
  flatMode?: string;
  flatEntry?: string;
  cpus?: string;
  memory?: string;
  cpu?: string;
  accel?: string;
  irqchip?: string;
  memBackend?: string;
  mergeable?: boolean;
  prefault?: boolean;
  pin?: string;
  timeScale?: string;
  clock?: string;
  seed?: string;
  disk?: string[];
  pmem?: string[];
  rng?: boolean;
  transport?: string;
  name?: string;
  serial?: string;
  console?: string[];
  timeout?: string;
  stopOnPanic?: boolean;
  json?: boolean;
  dumpRegisters?: boolean;
  trace?: string;
  traceFile?: string;
}

/** A run: the machine, and what the command line does around it. */
export interface RunPlan {
  config: VmConfig;
  /** Disks to open for the machine. */
  disks: readonly DiskSpec[];
  /** Images to open for its persistent memory. */
  pmem: readonly PmemSpec[];
  serial: TargetSpec;
  /** Ports of the virtio console. */
  consoles: readonly ConsoleSpec[];
  /** Milliseconds, or undefined for no limit. */
  timeout: number | undefined;
  json: boolean;
  dumpRegisters: boolean;
  traceFile: string | undefined;
}

/** @throws TSV_E_USAGE */
export function planRun(args: RunArguments): RunPlan {
  if (args.traceFile !== undefined && args.trace === undefined) {
    throw new TsvError('TSV_E_USAGE', '--trace-file says where a trace goes, but nothing is traced.', {
      hint: 'Add --trace exits,io,mmio,assist,insn,block,exc,irq or some of these.',
    });
  }
  const cpus = parseNumber('--cpus', args.cpus ?? '1');
  return {
    config: {
      name: args.name,
      memory: args.memory,
      memoryBackend: args.memBackend,
      mergeable: args.mergeable,
      prefault: args.prefault,
      cpus,
      cpu: args.cpu,
      accel: args.accel as VmConfig['accel'],
      irqchip: args.irqchip as VmConfig['irqchip'],
      boot: planBoot(args),
      timeScale: parseNumber('--time-scale', args.timeScale ?? '1'),
      clock: args.clock as VmConfig['clock'],
      seed: args.seed === undefined ? undefined : parseNumber('--seed', args.seed),
      rng: args.rng,
      transport: args.transport as VmConfig['transport'],
      affinity: args.pin === undefined ? undefined : parsePin(args.pin, cpus),
      stopOnPanic: args.stopOnPanic,
      trace: args.trace === undefined ? undefined : parseTrace(args.trace),
    },
    disks: (args.disk ?? []).map(parseDisk),
    pmem: (args.pmem ?? []).map(parsePmem),
    ...planConsoles(args),
    timeout: args.timeout === undefined ? undefined : parseTimeout(args.timeout),
    json: args.json ?? false,
    dumpRegisters: args.dumpRegisters ?? true,
    traceFile: args.traceFile,
  };
}

function planConsoles(args: RunArguments): Pick<RunPlan, 'serial' | 'consoles'> {
  const consoles = (args.console ?? []).map(parseConsole);
  const takesStdio = consoles.some(({ target }) => target.kind === 'stdio');
  const serial = parseTarget(args.serial ?? (takesStdio ? 'none' : 'stdio'), 'serial');
  const taken = new Set<string>();
  for (const target of [serial, ...consoles.map((spec) => spec.target)]) {
    const place = target.kind === 'stdio' ? 'standard input and output' : 'path' in target && target.path;
    if (place && taken.has(place)) {
      throw new TsvError('TSV_E_USAGE', `Only one console can have ${place}.`, {
        hint: 'Send the others elsewhere: to a file, pty or socket of their own, or none.',
      });
    }
    if (place) taken.add(place);
  }
  return { serial, consoles };
}

function planBoot(args: RunArguments): BootConfig {
  if (args.kernel !== undefined && args.flat !== undefined) {
    throw new TsvError('TSV_E_USAGE', '--kernel and --flat exclude each other.', {
      hint: 'Give one of them.',
    });
  }
  if (args.flat !== undefined) {
    refuse(args, '--flat', { initrd: '--initrd', append: '--append', module: '--module' });
    return {
      flat: args.flat,
      address: args.flatAddress === undefined ? undefined : parseNumber('--flat-address', args.flatAddress),
      entry: args.flatEntry === undefined ? undefined : parseNumber('--flat-entry', args.flatEntry),
      mode: args.flatMode as 'real' | 'long64' | undefined,
    };
  }
  if (args.kernel === undefined) {
    throw new TsvError('TSV_E_USAGE', 'There is nothing to boot.', {
      hint: 'Give --kernel FILE (see "tsvisor kernel fetch") or --flat FILE.',
    });
  }
  refuse(args, '--kernel', {
    flatAddress: '--flat-address',
    flatMode: '--flat-mode',
    flatEntry: '--flat-entry',
  });
  return {
    kernel: args.kernel,
    initrd: args.initrd,
    cmdline: args.append,
    protocol: args.protocol as 'auto' | 'linux64' | 'pvh' | 'bzimage' | 'multiboot' | undefined,
    modules: args.module?.map(parseModule),
  };
}

function refuse(args: RunArguments, boot: string, names: Partial<Record<keyof RunArguments, string>>): void {
  for (const [key, option] of Object.entries(names)) {
    if (args[key as keyof RunArguments] === undefined) continue;
    throw new TsvError('TSV_E_USAGE', `${option} has no meaning with ${boot}.`, {
      hint: `Leave ${option} out.`,
    });
  }
}

/** FILE[,COMMAND LINE], where FILE has its commas doubled, as in QEMU. */
export function parseModule(value: string): { file: string; cmdline?: string } {
  const [, name, cmdline] = /^((?:[^,]|,,)*)(?:,(.*))?$/s.exec(value)!;
  if (name === '') {
    throw new TsvError('TSV_E_USAGE', `"${value}" names no module.`, {
      hint: 'Write FILE or FILE,COMMAND LINE.',
    });
  }
  return { file: name.replaceAll(',,', ','), ...(cmdline !== undefined && { cmdline }) };
}

/** Decimal, or hexadecimal with 0x. Ranges are checked where they are known. */
function parseNumber(option: string, value: string): number {
  const number = /^-?(\d+(\.\d+)?(e\d+)?|0x[\da-f]+)$/i.test(value) ? Number(value) : Number.NaN;
  if (Number.isNaN(number)) {
    throw new TsvError('TSV_E_USAGE', `${option} wants a number, not "${value}".`, {
      hint: 'Write it in decimal, or in hexadecimal with 0x.',
    });
  }
  return number;
}

/** The longest delay a Node timer can have, ms. */
const MAX_TIMEOUT = 2 ** 31 - 1;

function parseTimeout(value: string): number {
  const ms = Math.ceil(parseNumber('--timeout', value) * 1000);
  if (ms > 0 && ms <= MAX_TIMEOUT) return ms;
  throw new TsvError('TSV_E_USAGE', `--timeout cannot be ${value} seconds.`, {
    hint: `Use more than 0 and at most ${Math.floor(MAX_TIMEOUT / 1000)} seconds; leave it out for no limit.`,
  });
}

function parsePin(value: string, cpus: number): number[][] {
  const list = value.split(',').map((part) => parseNumber('--pin', part.trim()));
  if (list.length <= cpus) return list.map((cpu) => [cpu]);
  throw new TsvError('TSV_E_USAGE', `--pin names ${list.length} host CPUs for ${cpus} vCPUs.`, {
    hint: 'Name one host CPU for each vCPU, in order.',
  });
}
