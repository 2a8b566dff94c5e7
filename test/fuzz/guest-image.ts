/**
 * What random code is surrounded by: tables and exception handlers that step over the faulting byte and go on, so
 * that one run gets to many instructions; or tables made of noise.
 */

import type { GuestMemory } from '../../src/memory/guest-memory.ts';
import { encodeTss64, type Gate, writeIdt } from '../../src/memory/interrupt-tables.ts';
import { PageTableBuilder } from '../../src/memory/page-tables.ts';
import { FLAT_CODE_32, FLAT_CODE_64, FLAT_DATA, GdtBuilder, SYSTEM_TYPE } from '../../src/memory/segments.ts';
import {
  CR0,
  type EntryState,
  longModeEntry,
  protectedModeEntry,
  realModeEntry,
  userModeEntry,
} from '../../src/vcpu/entry.ts';
import type { Regs } from '../../src/vcpu/state.ts';
import { assemble, CODE16 } from '../support/assemble.ts';
import type { Random } from './support.ts';

/** Bytes of RAM a fuzzed machine has. */
export const RAM = 2 << 20;
/** Where random code starts; the same in all modes. */
export const CODE = 0x10000;
export const MODES = ['real', 'protected', 'long', 'user'] as const;
export type Mode = (typeof MODES)[number];
/** `kind`: what descriptor and page tables hold. */
export type Tables = 'sound' | 'noise' | 'absent';

export const GDT = 0x800;
export const TSS = 0x900;
const IDT = 0x2000;
const HANDLERS = 0x4000;
const PAGE_TABLES = { start: 0x100000, end: 0x180000 };
const STACK = 0x1f000;
export const KERNEL_STACK = 0x20000;
/** Exceptions that push an error code (SDM vol. 3 table 6-1). */
const WITH_ERROR_CODE = new Set([8, 10, 11, 12, 13, 14, 17, 21]);

/** Handlers: the byte after the return address's is tried next; a fault of the handler itself ends in a triple fault. */
const SKIP_16 = assemble(`${CODE16} push bp; mov bp, sp; inc word ptr [bp + 2]; pop bp; iret`);
const SKIP_32 = [
  // No IRET: a KVM that emulates protected mode lacks it.
  assemble('.code32; inc dword ptr [esp]; ret 8'),
  assemble('.code32; add esp, 4; inc dword ptr [esp]; ret 8'),
];
const SKIP_64 = [assemble('inc qword ptr [rsp]; iretq'), assemble('add rsp, 8; inc qword ptr [rsp]; iretq')];
const HANDLER_SIZE = 32;

/** Fills RAM and gives the registers a run of random code starts with. */
export function prepare(memory: GuestMemory, mode: Mode, tables: Tables, random: Random): EntryState {
  memory.fill(0, RAM);
  const noise = random.bytes(4096);
  // Pointers, counters and strings that the code finds on its way.
  for (let gpa = 0x30000; gpa < 0x60000; gpa += 4096) memory.write(gpa, noise);
  const state = mode === 'real' ? realMode(memory) : tablesAndState(memory, mode);
  scatter(state.regs, mode, random);
  if (tables === 'absent') state.sregs.idt = { base: 0n, limit: 0 };
  if (tables === 'noise') spoil(memory, random);
  return state;
}

function realMode(memory: GuestMemory): EntryState {
  memory.write(HANDLERS, SKIP_16);
  // The interrupt vector table: every vector leads to the one handler.
  for (let vector = 0; vector < 256; vector++) memory.writeU32(vector * 4, (HANDLERS >> 4) << 16);
  return realModeEntry({ cs: CODE >> 4, ip: 0, ds: 0x3000, sp: 0xfff0 });
}

function tablesAndState(memory: GuestMemory, mode: 'protected' | 'long' | 'user'): EntryState {
  const bits = mode === 'protected' ? 32 : 64;
  const gdt = new GdtBuilder();
  const code = gdt.add(bits === 64 ? FLAT_CODE_64 : FLAT_CODE_32, { selector: 0x10 });
  const data = gdt.add(FLAT_DATA, { selector: 0x18 });
  const userData = gdt.add({ ...FLAT_DATA, dpl: 3 }, { selector: 0x20 });
  const userCode = gdt.add({ ...FLAT_CODE_64, dpl: 3 }, { selector: 0x28 });
  const iomap = new Uint8Array(8192);
  const tss = gdt.add(
    { ...FLAT_DATA, base: BigInt(TSS), limit: 0x67, type: SYSTEM_TYPE.TSS_BUSY, db: 0, s: 0, g: 0 },
    { selector: 0x30, long: bits === 64 },
  );
  memory.write(TSS, encodeTss64({ rsp: [BigInt(KERNEL_STACK)], iomap }).subarray(0, 0x68));

  const handlers = bits === 64 ? SKIP_64 : SKIP_32;
  const gates = new Map<number, Gate>();
  for (let vector = 0; vector < 256; vector++) {
    const at = HANDLERS + vector * HANDLER_SIZE;
    memory.write(at, handlers[WITH_ERROR_CODE.has(vector) ? 1 : 0]);
    gates.set(vector, { offset: BigInt(at), selector: 0x10, dpl: 3 });
  }
  const idt = writeIdt(memory, IDT, gates, bits);
  const table = gdt.write(memory, GDT);
  const segments = { gdt: table, code, data, tss };
  if (mode === 'protected') {
    const state = protectedModeEntry({ entry: CODE, segments, stack: STACK });
    state.sregs.idt = idt;
    return state;
  }
  const pages = new PageTableBuilder(memory, PAGE_TABLES);
  pages.identityMap(0, RAM, { user: true });
  // Devices and nothing at all, where a guest's pointer may lead.
  pages.map(0xd000_0000n, 0xd000_0000, 1 << 16, { user: true });
  pages.map(0xfec0_0000n, 0xfec0_0000, 1 << 12, { user: true });
  pages.map(0xfee0_0000n, 0xfee0_0000, 1 << 12, { user: true });
  pages.map(0x4000_0000n, 2 ** 40, 1 << 16, { user: true });
  const cr3 = pages.cr3;
  const state =
    mode === 'long'
      ? longModeEntry({ entry: BigInt(CODE), cr3, segments, stack: BigInt(STACK) })
      : userModeEntry({
          entry: BigInt(CODE),
          stack: BigInt(STACK),
          cr3,
          tables: { gdt: table, idt, code: userCode, data: userData, tss },
        });
  state.sregs.idt = idt;
  state.sregs.cr0 |= CR0.WP;
  return state;
}

/** Registers hold what code would have in them: pointers, small numbers, ports, MSR numbers, addresses of devices. */
function scatter(regs: Regs, mode: Mode, random: Random): void {
  const interesting = [
    0x3f8n,
    0xcfcn,
    0xd000_0000n,
    0xfee0_0300n,
    0xfec0_0000n,
    0x4000_0000n,
    0xc000_0080n,
    0xc000_0082n,
    0x30000n,
    BigInt(RAM - 4),
    0x1bn,
    0x10n,
  ];
  for (const name of Object.keys(regs) as (keyof Regs)[]) {
    if (name === 'rip' || name === 'rsp' || name === 'rflags') continue;
    const value = random.chance(50) ? random.pick(interesting) : random.evil64();
    regs[name] = mode === 'long' || mode === 'user' ? value : BigInt.asUintN(32, value);
  }
  if (random.chance(20)) regs.rflags |= BigInt(random.u32() & 0x0005_4dd5);
  if (random.chance(30)) regs.rflags |= 0x200n;
}

/** Descriptors, gates and page-table entries with random bits; here and there the whole of a table. */
function spoil(memory: GuestMemory, random: Random): void {
  const areas = [
    [GDT, 0x38],
    [IDT, 0x1000],
    [TSS, 0x68],
    [PAGE_TABLES.start, 0x6000],
  ] as const;
  for (let n = 1 + random.below(30); n > 0; n--) {
    const [start, size] = random.pick(areas);
    const gpa = start + random.below(size);
    if (random.chance(60)) memory.writeU8(gpa, memory.readU8(gpa) ^ (1 << random.below(8)));
    else if (random.chance(80)) memory.write(gpa & ~7, random.bytes(8));
    else memory.write(start, random.bytes(Math.min(size, 1 + random.below(size))));
  }
}
