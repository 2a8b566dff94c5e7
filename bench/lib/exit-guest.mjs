/**
 * The guest of the exit benchmark: 64-bit code that reads a command from GO, repeats one access so many times, and
 * reads GO again. The same bytes run under `Vm` and under bench/exits.c.
 */
import * as abi from '../../dist/kvm/abi/index.js';
import { allocateRam } from '../../dist/memory/allocate.js';
import { PageTableBuilder } from '../../dist/memory/page-tables.js';
import { FLAT_CODE_64, FLAT_DATA, GdtBuilder, SYSTEM_TYPE } from '../../dist/memory/segments.js';
import { longModeEntry, userModeEntry } from '../../dist/vcpu/entry.js';

export const RAM = 4 << 20;
const GDT = 0x1000;
const CODE = 0x2000;
const LOOPS = 0x2100;
const STACK = 0x8000;
const PAGE_TABLES = 0x10000;

/** Ports and addresses of the device's registers, by offset: 0 sync, 4 posted, 8 latched. */
export const PORTS = 0x100;
export const MMIO = 0xd0000000;
export const REGISTERS_SIZE = 12;
/** The command register; bench/exits.c has it too. */
export const GO = MMIO + 0x800;

/** RFLAGS with IOPL 3: ports are open to user mode (SDM vol. 1, 19.5.1). */
const RFLAGS_IOPL3 = 0x3002n;

const imm32 = (value) => [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff);

const START = [
  ...[0xbb, ...imm32(GO)], //          mov ebx, GO
  ...[0x8b, 0x03], //           again: mov eax, [rbx]
  ...[0x89, 0xc1], //                  mov ecx, eax
  ...[0x81, 0xe1, ...imm32(0xfffff)], // and ecx, 0xfffff
  ...[0xc1, 0xe8, 20], //              shr eax, 20
  ...[0xc1, 0xe0, 6], //               shl eax, 6
  ...[0x05, ...imm32(LOOPS)], //       add eax, LOOPS
  ...[0xff, 0xe0], //                  jmp rax
];
const AGAIN = CODE + 5;

/** The repeated instruction; EDX holds the port or the address. */
const ACCESS = {
  pio: { write: [0xef], read: [0xed] }, //             out dx, eax; in eax, dx
  mmio: { write: [0x89, 0x02], read: [0x8b, 0x02] }, // mov [rdx], eax; mov eax, [rdx]
};

/** What the guest can be told to do: index in this list = bits 20 and up of the command. */
const KINDS = ['pio', 'mmio'].flatMap((space) =>
  [0, 4, 8].flatMap((offset) => ['write', 'read'].map((direction) => ({ space, offset, direction }))),
);

/** The command for `count` accesses, at most 2^20 - 1. */
export function command(space, direction, offset, count) {
  const kind = KINDS.findIndex((k) => k.space === space && k.direction === direction && k.offset === offset);
  return (kind << 20) | count;
}

function loop({ space, offset, direction }, address) {
  const access = ACCESS[space][direction];
  const code = [
    ...[0xba, ...imm32((space === 'pio' ? PORTS : MMIO) + offset)], // mov edx, register
    ...access, //                                               next:
    ...[0xff, 0xc9], //                                         dec ecx
    ...[0x75, -(access.length + 4) & 0xff], //                  jnz next
  ];
  return [...code, 0xe9, ...imm32(AGAIN - (address + code.length + 5))]; // jmp again
}

/** Puts the guest into memory. @returns { regs, sregs } for its first instruction */
export function installGuest(memory, cpl) {
  memory.write(CODE, Uint8Array.from(START));
  KINDS.forEach((kind, i) => {
    memory.write(LOOPS + i * 64, Uint8Array.from(loop(kind, LOOPS + i * 64)));
  });
  const { cr3 } = new PageTableBuilder(memory, { start: PAGE_TABLES, end: PAGE_TABLES + 0x10000 })
    .identityMap(0, RAM, { user: true })
    .identityMap(MMIO, 2 << 20, { user: true });
  const builder = new GdtBuilder();
  const code = builder.add({ ...FLAT_CODE_64, dpl: cpl });
  const data = builder.add({ ...FLAT_DATA, dpl: cpl });
  const task = { ...FLAT_DATA, limit: 0x67, type: SYSTEM_TYPE.TSS_BUSY, db: 0, s: 0, g: 0 };
  const tss = builder.add(task, { long: true });
  const gdt = builder.write(memory, GDT);
  const common = { entry: BigInt(CODE), stack: BigInt(STACK), cr3 };
  const state =
    cpl === 0
      ? longModeEntry({ ...common, segments: { gdt, code, data, tss } })
      : userModeEntry({ ...common, tables: { gdt, idt: { base: 0n, limit: 0 }, code, data, tss } });
  if (cpl === 3) state.regs.rflags = RFLAGS_IOPL3;
  return state;
}

/** The guest as the files that bench/exits.c reads: CPUID, SREGS, REGS, RAM. */
export function guestFiles(cpl, cpuid) {
  const memory = allocateRam({ size: RAM });
  const { regs, sregs } = installGuest(memory, cpl);
  return {
    cpuid: abi.kvm_cpuid2.encode(cpuid),
    sregs: abi.kvm_sregs.encode(sregs),
    regs: abi.kvm_regs.encode(regs),
    ram: memory.read(0, RAM),
  };
}
