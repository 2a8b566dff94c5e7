// needs: kvm
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

/** A stock kernel takes seconds on a processor and minutes on a software KVM; only a hang takes this long. */
const LIMIT_MS = 30 * 60_000;
const CLI = join(import.meta.dirname, '../../dist/bin/main.js');

describe('a stock Debian kernel', () => {
  it(
    'boots to user space under kvm, runs busybox, and powers off',
    async () => {
      const command =
        'uname -a; echo 6 times 7 is $((6 * 7)); mount -t proc none /proc; grep -c processor /proc/cpuinfo';
      const args = [
        CLI,
        'demo',
        '--memory',
        '128M',
        '--command',
        command,
        '--timeout',
        String(LIMIT_MS / 1000 - 30),
      ];

      const { status, output } = await run(args);

      expect(output).toContain('Run /init as init process');
      expect(output).toMatch(/Linux .* 6\.\d+\.\d+.*-amd64 .*x86_64/);
      expect(output).toContain('6 times 7 is 42');
      expect(output).not.toContain('Kernel panic');
      expect(status).toBe(0);
    },
    LIMIT_MS,
  );
});

function run(args: string[]): Promise<{ status: number | null; output: string }> {
  return new Promise((resolve) => {
    const child = execFile(process.execPath, args, { maxBuffer: 1 << 26 }, (_, stdout, stderr) => {
      resolve({ status: child.exitCode, output: stdout + stderr });
    });
    // The guest's console must not wait for input of ours.
    child.stdin?.end();
  });
}
