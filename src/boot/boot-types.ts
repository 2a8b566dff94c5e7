/** What the kernel loader takes and gives. */
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { E820Entry } from '../memory/layout.ts';
import type { FlatOptions } from './flat.ts';
import type { NamedRange } from './layout.ts';

/**
 * How a kernel is entered.
 * - `linux64`: a vmlinux (or the one inside a bzImage) by Linux's 64-bit boot protocol
 * - `bzimage`: a bzImage by its setup header; the guest unpacks it
 * - `pvh`: by the 32-bit PVH entry point in its ELF notes
 * - `multiboot`: multiboot version 1
 * - `flat`: a binary at a given address, in real or 64-bit mode
 */
export type BootProtocol = 'linux64' | 'bzimage' | 'pvh' | 'multiboot' | 'flat';

/** CPU mode at the entry point. */
export type EntryMode = 'real' | 'protected32' | 'long64';

/** A file's path, or its content. */
export type FileSource = string | Uint8Array;

/** A multiboot or PVH module. */
export interface BootModule {
  readonly source: FileSource;
  /** The module's own command line; empty when absent. */
  readonly cmdline?: string;
}

/** Options of `loadKernel`. */
export interface BootOptions {
  /** Path or content of the kernel; an ELF file, a bzImage, one of them compressed as a whole, or a flat binary. */
  readonly kernel: FileSource;
  /** Default `auto`: what suits the file. */
  readonly protocol?: BootProtocol | 'auto';
  /** Initial ramdisk of Linux; for multiboot and PVH the first module. */
  readonly initrd?: FileSource;
  /** Kernel command line, default empty. */
  readonly cmdline?: string;
  /** Further modules (multiboot, PVH). */
  readonly modules?: readonly BootModule[];
  /** Guest RAM that everything is written to. */
  readonly memory: GuestMemory;
  /** The memory map told to the guest, whose RAM ranges say where things may go. */
  readonly e820: readonly E820Entry[];
  /** Guest-physical address of the ACPI RSDP, when there is one. */
  readonly rsdp?: number;
  /** Ranges of RAM that are spoken for. */
  readonly reserved?: readonly NamedRange[];
  /** Where and how a flat binary is entered. */
  readonly flat?: FlatOptions;
  /** Entry of the `bzimage` protocol; default 64-bit where the kernel has that entry. */
  readonly bzImageMode?: 'protected32' | 'long64';
}

/** Registers a boot protocol gives a value; all others are zero. */
export type BootRegisters = Readonly<
  Partial<Record<'rax' | 'rbx' | 'rcx' | 'rdx' | 'rsi' | 'rdi' | 'rbp' | 'rsp', number>>
>;

/** Where and how the guest starts. */
export interface BootResult {
  readonly protocol: BootProtocol;
  readonly mode: EntryMode;
  /** Linear address of the first instruction, which is its guest-physical address too. */
  readonly entry: number;
  /** In real mode: the segment and offset that make up `entry`. */
  readonly realMode?: { readonly cs: number; readonly ip: number };
  readonly registers: BootRegisters;
  /** In 64-bit mode: what page tables must map one to one. In 32-bit mode paging is off. */
  readonly identityMap?: { readonly gpa: number; readonly size: number };
  /** Release of a Linux kernel, such as `6.1.0-56-cloud-amd64`, where the file says it. */
  readonly kernelVersion: string | undefined;
  /** `name+0x12` of the function or object at an address, where the kernel file has symbols. */
  readonly symbols: (address: bigint) => string | undefined;
  /** What was written where. */
  readonly loaded: readonly NamedRange[];
  /** What the user should know although the kernel starts, one sentence each. */
  readonly warnings: readonly string[];
}
