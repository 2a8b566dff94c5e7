/** A stock Debian kernel from nothing to user space, as `npm start` boots it. */
import { describe, expect, it } from 'vitest';
import { fetchKernel } from '../../src/host/kernel-fetch.ts';
import { probeKvm } from '../../src/index.ts';
import { softwareKvmProfile } from '../../src/machine/slow-kvm.ts';
import { Vm } from '../../src/machine/vm.ts';
import { runCli } from '../cli/support/cli.ts';
import { WITHOUT_ADDON } from '../cli/support/hidden.ts';
import { ENGINES } from '../support/engines.ts';

/** A boot takes seconds, on a software KVM minutes; only a hang takes this long. */
const LIMIT_MS = 30 * 60_000;
const COMMAND =
  'uname -a; echo 6 times 7 is $((6 * 7)); mount -t proc none /proc; grep -c ^processor /proc/cpuinfo';

const hasKvm = ENGINES.includes('kvm');
const software = hasKvm && probeKvm().software;

async function demo(accel: string, env = process.env) {
  const seconds = String(LIMIT_MS / 1000 - 30);
  const args = ['demo', '--accel', accel, '--memory', '128M', '--command', COMMAND, '--timeout', seconds];
  const { status, stdout, stderr } = await runCli(args, '', { env });
  expect(stdout).toContain('Run /init as init process');
  expect(stdout).toMatch(/Linux .* 6\.\d+\.\d+.*-amd64 .*x86_64/);
  expect(stdout).toContain('6 times 7 is 42');
  expect(stdout).not.toContain('Kernel panic');
  expect(status).toBe(0);
  return stderr;
}

describe('the demo', () => {
  it(
    'boots to user space with nothing but Node, runs busybox, and powers off',
    async () => {
      expect(await demo('auto', WITHOUT_ADDON)).toContain('tsvisor: engine tcg: KVM cannot be used');
    },
    LIMIT_MS,
  );

  // On a software KVM it takes as long as all other tests together.
  it.runIf(hasKvm && (!software || process.env.TSVISOR_SLOW_TESTS))(
    'boots to user space under kvm, runs busybox, and powers off',
    async () => {
      expect(await demo('kvm')).toContain('tsvisor: engine kvm: it was asked for');
    },
    LIMIT_MS,
  );
});

describe.runIf(software)('a stock Debian kernel on a software KVM', () => {
  it(
    'is entered and finds its memory; to user space it would take minutes',
    async () => {
      const { vmlinuz } = await fetchKernel();
      const { cpu, timeScale, cmdline } = softwareKvmProfile();
      await using vm = await Vm.create({
        accel: 'kvm',
        memory: '128M',
        cpu,
        timeScale,
        boot: { kernel: vmlinuz, cmdline: `earlyprintk=ttyS0 console=ttyS0 ${cmdline}` },
      });
      vm.start();

      await vm.console.expect(/Linux version 6\.\d+/, { timeout: LIMIT_MS });
      await vm.console.expect(/BIOS-e820: .* usable/, { timeout: LIMIT_MS });

      expect(vm.state).toBe('running');
    },
    LIMIT_MS,
  );
});
