/** The Linux that is booted: Debian's kernel as a vmlinux, and an initramfs with busybox and an /init of our own. */
import { readFileSync } from 'node:fs';
import { parseBzImage, unpackPayload } from '../../dist/boot/bzimage.js';
import { buildInitramfs } from '../../dist/boot/initramfs/build.js';
import { fetchBusybox, fetchKernel } from '../../dist/host/kernel-fetch.js';
import { file, qemuMachine, tsvisor } from './programs.mjs';
import { imm32 } from './pvh-kernel.mjs';

/** What /init prints. */
export const INIT_LINE = 'bench: this is /init';
/** The command line that a run of a stock kernel has. */
export const STOCK = 'console=ttyS0 panic=-1';
/** Without the kernel's tests of its own cryptography, as `tsvisor demo` boots under tcg. */
export const NO_TESTS = `${STOCK} cryptomgr.notests`;
export const MEMORY_MIB = 256;

/**
 * The CPU that `tsvisor run` gives guests under tcg, as far as QEMU's tcg has it. The model is an Atom that needs no
 * defences against speculative execution: neither boots with page-table isolation or retpolines.
 */
export const QEMU_CPU =
  'Nehalem,family=6,model=28,stepping=10,-spec-ctrl,+rdtscp,+erms,+fsgsbase,+smep,+pdpe1gb';

/**
 * With ACPI this machine's Linux finds nothing to measure the processor's speed with and stops; without it there are the
 * PIT and the RTC.
 */
const QEMU_MACHINE = 'microvm,acpi=off,pit=on,pic=on,rtc=on,isa-serial=on';

/**
 * Gets the kernel, unpacked, and builds the initramfs.
 * @param then what /init does when it has printed: `exit` ends the run with status 1, `stay` waits forever
 * @returns { version, kernel, initrd }: paths
 * @throws TSV_E_FETCH when this host has no kernel and cannot get it
 */
export async function prepareLinux(then) {
  const { vmlinuz, version } = await fetchKernel();
  const vmlinux = await unpackPayload(parseBzImage(readFileSync(vmlinuz)));
  const init = initProgram(`${INIT_LINE}\n`, then);
  const initrd = await buildInitramfs({ busybox: await fetchBusybox(), init });
  return { version, kernel: file('vmlinux', vmlinux), initrd: file(`${then}.cpio`, initrd) };
}

/** The command lines that boot it, by program. */
export function linuxCommands(qemu, { kernel, initrd }, cmdline, ...tsvisorOptions) {
  const boot = ['--kernel', kernel, '--initrd', initrd, '--append', cmdline];
  const memory = `${MEMORY_MIB}M`;
  const qemuBoot = ['-cpu', QEMU_CPU, '-kernel', kernel, '-initrd', initrd, '-append', cmdline];
  return {
    'tsvisor run': tsvisor('run', '--accel', 'tcg', '--memory', memory, ...tsvisorOptions, ...boot),
    ...(qemu && {
      'QEMU microvm': qemuMachine(qemu, { accel: 'tcg', machine: QEMU_MACHINE, memory }, ...qemuBoot),
    }),
  };
}

/** System calls (arch/x86/entry/syscalls/syscall_64.tbl), and an ioctl of the terminal: wait until all is written. */
const SYS = { write: 1, ioctl: 16, pause: 34, iopl: 172 };
const TCSBRK = 0x5409;
const STDOUT = 1;

const call = (number, ...args) => [
  ...args.flatMap((value, i) => [[0xbf, 0xbe, 0xba][i], ...imm32(value)]), // mov edi, esi, edx
  ...[0xb8, ...imm32(number)], // mov eax, number
  ...[0x0f, 0x05], //             syscall
];

/** A static program that writes a text to its standard output. */
function initProgram(text, then) {
  const BASE = 0x400000;
  const HEADERS = 64 + 56;
  const message = Buffer.from(text);
  const END = {
    exit: [
      ...call(SYS.iopl, 3),
      ...[0x31, 0xc0], // xor eax, eax
      ...[0xe6, 0xf4], // out 0xf4, al: the run ends with status 1
    ],
    stay: [],
  };
  const code = [
    ...call(SYS.write, STDOUT, BASE + HEADERS, message.length),
    ...call(SYS.ioctl, STDOUT, TCSBRK, 1),
    ...END[then],
    ...call(SYS.pause),
    ...[0xeb, -(call(SYS.pause).length + 2) & 0xff], // jmp to the pause
  ];
  const size = HEADERS + message.length + code.length;
  const bytes = new Uint8Array(size);
  const view = new DataView(bytes.buffer);
  bytes.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]); // 64-bit, little-endian (System V ABI, "ELF Header")
  view.setUint16(16, 2, true); // ET_EXEC
  view.setUint16(18, 62, true); // EM_X86_64
  view.setUint32(20, 1, true);
  view.setBigUint64(24, BigInt(BASE + HEADERS + message.length), true);
  view.setBigUint64(32, 64n, true);
  view.setUint16(52, 64, true);
  view.setUint16(54, 56, true);
  view.setUint16(56, 1, true);
  view.setUint32(64, 1, true); // PT_LOAD, read and execute: the whole file
  view.setUint32(68, 5, true);
  view.setBigUint64(80, BigInt(BASE), true);
  view.setBigUint64(88, BigInt(BASE), true);
  view.setBigUint64(96, BigInt(size), true);
  view.setBigUint64(104, BigInt(size), true);
  view.setBigUint64(112, 0x1000n, true);
  bytes.set(message, HEADERS);
  bytes.set(code, HEADERS + message.length);
  return bytes;
}
