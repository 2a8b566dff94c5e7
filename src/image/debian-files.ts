/** The files that make an installed Debian a system on a virtual machine's disk. */
import type { ImageFile } from './ext4.ts';

/** Services that a machine without a screen and LVM has no use for, and that cost it seconds of booting in software. */
const MASKED = ['getty@tty1.service', 'getty-static.service', 'e2scrub_reap.service'];

/**
 * Host name, mounts and logins.
 *
 * systemd starts a login on every console the kernel command line names (systemd-getty-generator(8)). For hvc0 a udev
 * rule does it whenever the device is there: a service that is enabled would wait 90 seconds for it in a machine
 * without one.
 */
export function debianFiles({ hostname, uuid }: { hostname: string; uuid: string }): ImageFile[] {
  return [
    { path: '/etc/hostname', content: `${hostname}\n` },
    {
      path: '/etc/hosts',
      content: `127.0.0.1\tlocalhost\n127.0.1.1\t${hostname}\n::1\t\tlocalhost ip6-localhost ip6-loopback\n`,
    },
    // By UUID: the disk is not always the first, vda.
    { path: '/etc/fstab', content: `UUID=${uuid}\t/\text4\terrors=remount-ro\t0\t1\n` },
    {
      path: '/etc/udev/rules.d/60-virtio-console-login.rules',
      content:
        'SUBSYSTEM=="tty", KERNEL=="hvc0", TAG+="systemd", ENV{SYSTEMD_WANTS}+="serial-getty@%k.service"\n',
    },
    ...MASKED.map((unit) => ({ path: `/etc/systemd/system/${unit}`, target: '/dev/null' })),
  ];
}
