/** Machines with a disk: the same kernel, initramfs, command line and image for tsvisor and QEMU, over virtio-mmio. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { parseBzImage, unpackPayload } from '../../dist/boot/bzimage.js';
import { compile } from './host.mjs';
import { QEMU_CPU } from './linux.mjs';
import { file, qemuMachine, tsvisor } from './programs.mjs';

/**
 * Debian's kernel finds virtio-mmio by ACPI only. With ACPI this machine has no timer that works before the processor's
 * speed is known, so that has to be on the command line.
 */
const QEMU_MACHINE = 'microvm,acpi=on,pit=on,pic=on,rtc=on,isa-serial=on';

/**
 * How QEMU's guests learn what their clock counts in.
 * @returns an option for the kernel's command line; undefined without a compiler
 */
export function clockOption() {
  const program = compile('tsc.c');
  return program && `tsc_early_khz=${execFileSync(program, { encoding: 'utf8' }).trim()}`;
}

/** QEMU's microvm has no loader for bzImages that takes PVH's short way; both programs get the ELF file. */
export async function unpackKernel(vmlinuz) {
  return file('vmlinux', await unpackPayload(parseBzImage(readFileSync(vmlinuz))));
}

/**
 * The command lines that boot a machine with a disk, by program.
 * @param clock of {@link clockOption}; undefined leaves QEMU out
 * @param boot { kernel, initrd, cmdline, memory }
 * @param disk { path, format, throwAway }: with throwAway the image stays as it is
 */
export function diskCommands(qemu, clock, boot, disk) {
  const { kernel, initrd, cmdline, memory } = boot;
  const { path, format, throwAway } = disk;
  const ours = ['--kernel', kernel, '--initrd', initrd, '--append', cmdline];
  const theirs = ['-cpu', QEMU_CPU, '-kernel', kernel, '-initrd', initrd, '-append', `${cmdline} ${clock}`];
  const drive = `if=none,id=disk,file=${path},format=${format},aio=threads,cache=writeback`;
  return {
    'tsvisor run': tsvisor(
      ...['run', '--accel', 'tcg', '--memory', memory, '--transport', 'mmio', ...ours],
      ...['--disk', `${path},format=${format}${throwAway ? ',overlay' : ''}`],
    ),
    ...(qemu &&
      clock && {
        'QEMU microvm': qemuMachine(
          qemu,
          { accel: 'tcg', machine: QEMU_MACHINE, memory },
          ...['-drive', throwAway ? `${drive},snapshot=on` : drive],
          ...['-device', 'virtio-blk-device,drive=disk', ...theirs],
        ),
      }),
  };
}

/** Why there is nothing to compare with, or with what. */
export function comparedWith(qemu, clock) {
  if (!qemu) return 'QEMU is not installed: nothing to compare with.';
  if (!clock)
    return 'Without a C compiler the speed of the clock that QEMU gives its guests is not known: no QEMU.';
  return `${qemu.version}, -M microvm -accel tcg,thread=single, virtio-blk over MMIO with aio=threads,cache=writeback, and the same CPU model as far as it has it.`;
}
