/** The /init of an initramfs that hands over to a root file system on a disk, or in persistent memory. */
import { OPEN_CONSOLE } from './console-script.ts';
import { quote } from './quote.ts';

/**
 * Drivers with which a stock kernel reaches a root file system on a virtio disk or in persistent memory, and a virtio
 * console, in the order in which they are wanted. Which of them are modules differs from kernel to kernel.
 */
export const ROOT_MODULES: readonly string[] = [
  'virtio_mmio',
  'virtio_pci',
  'virtio_blk',
  'virtio_console',
  'virtio_pmem',
  // It makes /dev/pmem0 of the memory; the kernel asks for it by an alias ("nd:t4").
  'nd_pmem',
  // ext4 asks for a driver of this checksum by an alias ("softdep: pre: crc32c"), which only modprobe would follow.
  'crc32c_generic',
  'ext4',
];

/** What {@link rootScript} puts into the script. */
export interface RootScriptOptions {
  /** Modules to load, in this order; absolute paths. */
  readonly modules: readonly string[];
  /** Seconds to wait for the root device unless the kernel command line has `rootwait`; 10 when absent. */
  readonly wait?: number;
}

/** Tenths of a second between two looks for the root device are one. */
const LOOKS_PER_SECOND = 10;

/**
 * A script that loads modules, waits for the device that `root=` names, mounts it and runs its init (switch_root). It
 * understands what the kernel itself does (Documentation/admin-guide/kernel-parameters.txt): `root=` with a path,
 * UUID= or LABEL=, `rootfstype=`, `rootflags=`, `ro`, `rw`, `rootwait`, `rootwait=SECONDS` and `init=`.
 *
 * When it cannot go on it says why and ends, on which the kernel panics: whoever runs the machine sees a failed boot,
 * not a machine that hangs or one that was switched off in good order.
 */
export function rootScript(options: RootScriptOptions): string {
  const loading = options.modules.map((path) => `insmod ${quote(path)}`);
  return `#!/bin/sh
export PATH=/bin
mkdir -p /proc /sys /dev /root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
${loading.join('\n')}
${OPEN_CONSOLE}

fail() {
  for line in "$@"; do echo "init: $line"; done
  # The kernel panics when init ends, and what the console has not sent by then is lost.
  sleep 1
  exit 1
}

root= type= flags= access=ro wait=${(options.wait ?? 10) * LOOKS_PER_SECOND} program=
set -f
for word in $(cat /proc/cmdline); do
  case $word in
    root=*) root=\${word#root=} ;;
    rootfstype=*) type=\${word#rootfstype=} ;;
    rootflags=*) flags=,\${word#rootflags=} ;;
    ro | rw) access=$word ;;
    rootwait) wait=-1 ;;
    rootwait=*[!0-9]* | rootwait=) ;;
    rootwait=*) wait=$((\${word#rootwait=} * ${LOOKS_PER_SECOND})) ;;
    init=*) program=\${word#init=} ;;
  esac
done
set +f

find_root() {
  case $root in
    UUID=* | LABEL=*) device=$(findfs "$root" 2>/dev/null) ;;
    *) device=$root ;;
  esac
  [ -b "$device" ]
}

disks() {
  for entry in /sys/class/block/*; do
    [ -e "$entry" ] || continue
    read -r sectors <"$entry/size"
    echo " \${entry##*/} ($((sectors / 2048)) MiB)"
  done
}

case $root in
  '') fail 'the kernel command line names no root file system' 'add root=/dev/vda (the first virtio disk)' ;;
  /dev/* | UUID=* | LABEL=*) ;;
  *) fail "root=$root is not understood" 'use a path such as root=/dev/vda, root=UUID=... or root=LABEL=...' ;;
esac
looks=0
until find_root; do
  if [ "$wait" -ge 0 ] && [ "$looks" -ge "$wait" ]; then
    found=$(disks)
    fail "the root device $root did not appear within $((wait / ${LOOKS_PER_SECOND})) s" \\
      "disks that are there:\${found:- none}" \\
      'add the disk to the machine, correct root=, or wait longer with rootwait=SECONDS'
  fi
  looks=$((looks + 1))
  sleep 0.1
done

# ext4 first: the kernel complains in its log of each type that does not fit.
mounted=
for kind in \${type:-ext4 auto}; do
  mount -t "$kind" -o "$access$flags" "$device" /root 2>/tmp.error && mounted=$kind && break
done
[ -n "$mounted" ] || fail "the root device $device cannot be mounted" "$(cat /tmp.error)" \\
  'the disk may be empty, partitioned, or in a file system the kernel has no driver for'

for candidate in \${program:-/sbin/init /usr/sbin/init /etc/init /bin/init /bin/sh}; do
  # Links are followed from the new root only after the switch.
  [ -L "/root$candidate" ] || [ -x "/root$candidate" ] || continue
  for folder in dev proc sys; do
    mount -o move "/$folder" "/root/$folder" || fail "the root file system on $device has no /$folder"
  done
  exec switch_root /root "$candidate" "$@"
done
fail "there is no \${program:-/sbin/init} on $device" 'it has to be an installed system; init=PATH names another program'
`;
}
