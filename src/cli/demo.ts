/** The demo: everything from nothing to a shell in a guest. */
import { buildInitramfs } from '../boot/initramfs/build.ts';
import { resolveConfig } from '../machine/config.ts';
import { chooseEngine } from '../machine/engine-choice.ts';
import { softwareKvmProfile } from '../machine/slow-kvm.ts';
import type { DemoArguments } from './commands/demo.ts';
import { DEMO_MODULES, openDemoDisk } from './demo-disk.ts';
import { fetchBusyboxWithProgress, fetchKernelWithProgress } from './fetch.ts';
import { Progress } from './progress.ts';
import { planRun } from './run-options.ts';
import { runVm } from './run-vm.ts';

/** `panic=-1`: a panic ends the machine instead of waiting; `quiet` would hide the boot that is to be seen. */
const CMDLINE = 'console=ttyS0 panic=-1';
/** The kernel's tests of its own cryptography are two thirds of a boot. */
const TCG_CMDLINE = 'cryptomgr.notests';

/** Runs it. @returns the exit status */
export async function runDemo(args: DemoArguments): Promise<number> {
  const { cacheDir } = args;
  const kernel = await fetchKernelWithProgress({ cacheDir });
  const busybox = await fetchBusyboxWithProgress({ cacheDir });
  const disk = await openDemoDisk(cacheDir, (line) => process.stderr.write(`tsvisor: ${line}\n`));
  const initrd = await buildInitramfs({
    busybox,
    command: args.command,
    modules: { root: kernel.modules, names: [], optional: disk.backend === undefined ? [] : DEMO_MODULES },
    mounts: [disk.mount],
    greeting: disk.greeting,
  });
  const plan = planRun({
    kernel: kernel.vmlinuz,
    memory: args.memory,
    cpus: args.cpus,
    accel: args.accel,
    timeout: args.timeout,
  });
  const { engine } = chooseEngine(resolveConfig(plan.config));
  const profile = engine === 'kvm' ? softwareKvmProfile() : undefined;
  const slow = profile?.slow ?? false;
  const cmdline = slow
    ? `${CMDLINE} ${profile?.cmdline}`
    : `${CMDLINE} ${engine === 'tcg' ? TCG_CMDLINE : ''}`;
  plan.config = {
    ...plan.config,
    name: 'demo',
    ...(slow && { cpu: profile?.cpu, timeScale: profile?.timeScale }),
    disks: disk.backend === undefined ? [] : [{ backend: disk.backend, serial: 'demo' }],
    boot: { kernel: kernel.vmlinuz, initrd, cmdline },
  };
  process.stderr.write(`tsvisor: booting Linux ${kernel.version}; Ctrl-C ends it until the shell is up\n`);
  if (slow) process.stderr.write(`tsvisor: this will take minutes: ${profile?.why}\n`);
  const boot = new BootWatch(slow);
  return runVm(plan, {
    onStart: () => boot.start(),
    onOutput: (bytes) => boot.onOutput(bytes),
    ctrlCEnds: () => !boot.over,
    onEnd: () => boot.end(),
  });
}

/** Output that is kept to recognise the prompt. */
const TAIL = 16;

/** True when output ends in a shell's prompt; busybox's asks the terminal for the cursor's position behind it. */
export function showsPrompt(output: string): boolean {
  return /# (?:\x1b\[6n)?$/.test(output);
}

/** Watches a boot, and shows how long a slow one has taken while the guest prints nothing: silence looks like a hang. */
class BootWatch {
  readonly #progress = new Progress();
  readonly #slow: boolean;
  #start = 0;
  #lastBytes = '';
  #timer: NodeJS.Timeout | undefined;
  /** The shell has shown its prompt, or the run has ended. */
  over = false;

  constructor(slow: boolean) {
    this.#slow = slow;
  }

  start(): void {
    this.#start = performance.now();
    if (this.#slow) this.#timer = setInterval(() => this.#show(), 1000);
  }

  /** Guest output goes to the same terminal: the line makes room for it, and returns when the guest pauses. */
  onOutput(bytes: Uint8Array): void {
    if (this.over) return;
    this.#progress.clear();
    this.#lastBytes = (this.#lastBytes + Buffer.from(bytes).toString('latin1')).slice(-TAIL);
    if (showsPrompt(this.#lastBytes)) this.end();
    else this.#timer?.refresh();
  }

  end(): void {
    this.over = true;
    clearInterval(this.#timer);
    this.#progress.clear();
  }

  #show(): void {
    if (this.#lastBytes !== '' && !this.#lastBytes.endsWith('\n')) return;
    const seconds = Math.round((performance.now() - this.#start) / 1000);
    // On a terminal the line is there until the guest prints; in a log one line a minute must do.
    if (process.stderr.isTTY) this.#progress.update('tsvisor: booting on a software KVM', `${seconds} s`);
    else if (seconds % 60 === 0) this.#progress.update(`tsvisor: booting on a software KVM: ${seconds} s`);
  }
}
