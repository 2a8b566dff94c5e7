import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { findApplets } from '../../../src/boot/initramfs/busybox.ts';
import { fetchBusybox } from '../../../src/host/kernel-fetch.ts';
import { LIMIT, runGuest, SECTIONS, type Sections, sections } from './guest.ts';
import { FIXTURES } from './programs.ts';

const APPLETS = SECTIONS + readFileSync(join(FIXTURES, 'applets.sh'), 'utf8');

/** What only the guest can be asked, because a host has another answer. */
const GUEST_ONLY = `
section identity; { id; whoami; hostname guest; hostname; nproc; uname -sm; tty; } 2>&1; end
section mounts
{
  mkdir /mnt; mount -t tmpfs -o size=1m tmpfs /mnt; df -k /mnt | tail -1; dd if=/dev/zero of=/mnt/big bs=64k 2>&1 | tail -1
  umount /mnt; ls /mnt | wc -l; grep -c ' /mnt ' /proc/mounts
} 2>&1
end
section ps
{
  ps | grep -c '[k]worker'; ps -o pid,args | grep '^ *1 '; top -b -n1 | head -4 | sed 's/[0-9.]\\+/N/g'; pidof busybox > /dev/null; echo pidof
  free | awk '/^Mem/ { print ($2 > 150000 && $2 < 262144) }'; uptime | grep -c 'load average'; cat /proc/loadavg | wc -w
} 2>&1
end
section kernel
{
  dmesg | grep -c 'Linux version'; sysctl -n kernel.ostype; sync; echo 3 > /proc/sys/vm/drop_caches; ls /sys/class/tty | grep -c ttyS0
  mknod zero c 1 5; head -c 3 zero | od -An -tx1; tty < /dev/console; lsmod | wc -l; ip link set lo up; ip addr show lo | grep -c 127.0.0.1
  ping -c 2 127.0.0.1 | grep -c 'bytes from'; echo served > /page; httpd -p 127.0.0.1:80 -h /; wget -qO- http://127.0.0.1/page; nc -l -p 99 -e cat & sleep 1; echo echoed | nc -w 2 127.0.0.1 99
} 2>&1
end
`;

async function onHost(): Promise<Sections> {
  const directory = mkdtempSync(join(tmpdir(), 'tsvisor-applets-'));
  try {
    const bin = join(directory, 'bin');
    const work = join(directory, 'work');
    for (const path of [bin, work]) mkdirSync(path);
    const busybox = join(bin, 'busybox');
    copyFileSync(await fetchBusybox(), busybox);
    for (const applet of findApplets(readFileSync(busybox))) {
      if (applet !== 'busybox') symlinkSync('busybox', join(bin, applet));
    }
    const output = execFileSync(busybox, ['sh', '-c', `umask 022\n${APPLETS}`], {
      cwd: work,
      env: { PATH: bin, TZ: 'UTC', HOME: '/' },
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    return sections(output);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

it(
  "runs busybox's applets with the results that the host's processor has",
  async () => {
    const expected = await onHost();

    const { exit, console } = await runGuest({
      script: `
        mkdir /work; cd /work
        env -i PATH=/bin TZ=UTC HOME=/ sh /applets.sh < /dev/null
        sh /guest-only.sh < /dev/null`,
      initramfs: {
        contents: [
          { path: '/applets.sh', content: APPLETS },
          { path: '/guest-only.sh', content: SECTIONS + GUEST_ONLY },
        ],
      },
    });

    const found = sections(console);
    expect(Object.keys(expected)).toHaveLength(9);
    expect(found).toMatchObject(expected);
    expect(found.identity).toBe(
      'uid=0 gid=0\nwhoami: unknown uid 0\nguest\n1\nLinux x86_64\nnot a tty\nstatus 1',
    );
    expect(found.mounts).toMatch(/^tmpfs +1024 +0 +1024 +0% \/mnt\n16\+0 records out\n0\n0\nstatus 1$/);
    expect(found.ps).toMatch(/^[1-9]\d*\n +1 (\/bin\/sh|\{init\}).*\nMem: NK used, NK free/);
    expect(found.ps).toMatch(/\npidof\n1\n1\n5\nstatus 0$/);
    expect(found.kernel).toBe('1\nLinux\n1\n 00 00 00\n/dev/console\n1\n1\n2\nserved\nechoed\nstatus 0');
    expect(exit.reason).toBe('poweroff');
  },
  LIMIT + 60_000,
);
