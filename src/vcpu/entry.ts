/**
 * How a vCPU starts: registers and segments for each mode. Pure functions; what they point to (GDT, page
 * tables, boot data) the caller has put into guest memory.
 */
import type { GuestMemory } from '../memory/guest-memory.ts';
import {
  FLAT_CODE_32,
  FLAT_CODE_64,
  FLAT_DATA,
  GdtBuilder,
  realModeSegment,
  SEGMENT_TYPE,
  SYSTEM_TYPE,
  segment,
  unusableSegment,
} from '../memory/segments.ts';
import type { Dtable, Regs, Segment, Sregs } from './state.ts';

/** Registers a vCPU starts with. */
export interface EntryState {
  regs: Regs;
  sregs: Sregs;
}

/** CR0 bits (SDM vol. 3A 2.5). */
export const CR0 = {
  PE: 1n << 0n,
  MP: 1n << 1n,
  EM: 1n << 2n,
  TS: 1n << 3n,
  ET: 1n << 4n,
  NE: 1n << 5n,
  WP: 1n << 16n,
  AM: 1n << 18n,
  NW: 1n << 29n,
  CD: 1n << 30n,
  PG: 1n << 31n,
} as const;

/** CR4 bits (SDM vol. 3A 2.5). */
export const CR4 = {
  PSE: 1n << 4n,
  PAE: 1n << 5n,
  PGE: 1n << 7n,
  OSFXSR: 1n << 9n,
  OSXMMEXCPT: 1n << 10n,
  UMIP: 1n << 11n,
  LA57: 1n << 12n,
  FSGSBASE: 1n << 16n,
  PCIDE: 1n << 17n,
  OSXSAVE: 1n << 18n,
  SMEP: 1n << 20n,
  SMAP: 1n << 21n,
  PKE: 1n << 22n,
} as const;

/** IA32_EFER bits (SDM vol. 3A 2.2.1). */
export const EFER = { SCE: 1n << 0n, LME: 1n << 8n, LMA: 1n << 10n, NXE: 1n << 11n } as const;

/** RFLAGS after reset: only the bit that is always one. */
export const RFLAGS_RESET = 0x2n;

/** IA32_APIC_BASE: the default address with the APIC enabled (SDM vol. 3A 11.4.4). */
const APIC_BASE = 0xfee0_0800n;
const APIC_BASE_BSP = 1n << 8n;

/** Selectors of the boot GDT, as Linux's boot protocol wants them (Documentation/arch/x86/boot.rst). */
export const BOOT_CS = 0x10;
export const BOOT_DS = 0x18;
export const BOOT_TSS = 0x20;

/** A GDT in guest memory and the segments it holds. */
export interface BootSegments {
  gdt: Dtable;
  code: Segment;
  data: Segment;
  tss: Segment;
}

/** A TSS of the minimal limit that nothing uses before the guest loads its own. */
const BOOT_TASK = { ...FLAT_DATA, limit: 0x67, type: SYSTEM_TYPE.TSS_BUSY, db: 0, s: 0, g: 0 };

/**
 * Writes the GDT of the boot protocols: code at 0x10, data at 0x18, a TSS at 0x20.
 * @param gpa where; takes at most 48 bytes
 * @param bits of the code segment
 * @throws TSV_E_GUEST_ADDRESS
 */
export function writeBootGdt(memory: GuestMemory, gpa: number, bits: 32 | 64): BootSegments {
  const builder = new GdtBuilder();
  const code = builder.add(bits === 64 ? FLAT_CODE_64 : FLAT_CODE_32, { selector: BOOT_CS });
  const data = builder.add(FLAT_DATA, { selector: BOOT_DS });
  const tss = builder.add(BOOT_TASK, { selector: BOOT_TSS, long: bits === 64 });
  return { gdt: builder.write(memory, gpa), code, data, tss };
}

/** The state after reset (SDM vol. 3A table 10-1): real mode at the reset vector 0xFFFFFFF0. */
export function resetState(options: { bsp?: boolean; signature?: number } = {}): EntryState {
  const { bsp = true, signature = 0x600 } = options;
  const data = realModeSegment(0);
  const regs: Regs = {
    rax: 0n,
    rbx: 0n,
    rcx: 0n,
    rdx: BigInt(signature),
    rsi: 0n,
    rdi: 0n,
    rsp: 0n,
    rbp: 0n,
    r8: 0n,
    r9: 0n,
    r10: 0n,
    r11: 0n,
    r12: 0n,
    r13: 0n,
    r14: 0n,
    r15: 0n,
    rip: 0xfff0n,
    rflags: RFLAGS_RESET,
  };
  const sregs: Sregs = {
    cs: { ...realModeSegment(0xf000, SEGMENT_TYPE.CODE_EXECUTE_READ), base: 0xffff_0000n },
    ds: data,
    es: { ...data },
    fs: { ...data },
    gs: { ...data },
    ss: { ...data },
    tr: segment({ ...BOOT_TASK, limit: 0xffff }, 0),
    ldt: segment({ ...BOOT_TASK, limit: 0xffff, type: SYSTEM_TYPE.LDT }, 0),
    gdt: { base: 0n, limit: 0xffff },
    idt: { base: 0n, limit: 0xffff },
    cr0: CR0.CD | CR0.NW | CR0.ET,
    cr2: 0n,
    cr3: 0n,
    cr4: 0n,
    cr8: 0n,
    efer: 0n,
    apic_base: APIC_BASE | (bsp ? APIC_BASE_BSP : 0n),
    interrupt_bitmap: [0n, 0n, 0n, 0n],
  };
  return { regs, sregs };
}

/** Real mode at cs:ip, interrupts off, all data segments the same. */
export function realModeEntry(options: { cs: number; ip: number; ds?: number; sp?: number }): EntryState {
  const { cs, ip, ds = 0, sp = 0 } = options;
  const state = resetState();
  const data = realModeSegment(ds);
  Object.assign(state.sregs, {
    cs: realModeSegment(cs, SEGMENT_TYPE.CODE_EXECUTE_READ),
    ...dataSegments(data),
    cr0: CR0.ET,
  });
  state.regs.rip = BigInt(ip);
  state.regs.rsp = BigInt(sp);
  return state;
}

/** 32-bit protected mode, flat segments, paging off. */
export function protectedModeEntry(options: {
  entry: number;
  segments: BootSegments;
  stack?: number;
}): EntryState {
  const { entry, segments, stack = 0 } = options;
  const state = resetState();
  Object.assign(state.sregs, flatSegments(segments), { cr0: CR0.PE | CR0.ET | CR0.NE });
  state.regs.rip = BigInt(entry);
  state.regs.rsp = BigInt(stack);
  return state;
}

/** 64-bit mode with paging and SSE enabled, interrupts off. */
export function longModeEntry(options: {
  entry: bigint;
  cr3: bigint;
  segments: BootSegments;
  stack?: bigint;
}): EntryState {
  const { entry, cr3, segments, stack = 0n } = options;
  const state = resetState();
  Object.assign(state.sregs, flatSegments(segments), {
    cr0: CR0.PE | CR0.MP | CR0.ET | CR0.NE | CR0.PG,
    cr3,
    cr4: CR4.PAE | CR4.OSFXSR | CR4.OSXMMEXCPT,
    efer: EFER.LME | EFER.LMA,
  });
  state.regs.rip = entry;
  state.regs.rsp = stack;
  return state;
}

/** What {@link userModeEntry} needs besides the code. */
export interface UserModeTables {
  gdt: Dtable;
  idt: Dtable;
  /** CPL 3 64-bit code segment with its selector (RPL 3). */
  code: Segment;
  /** CPL 3 data segment, for SS and the others. */
  data: Segment;
  /** The 64-bit TSS whose RSP0 takes interrupts; its type is made busy. */
  tss: Segment;
}

/** 64-bit mode at CPL 3: exceptions and interrupts go through the IDT and TSS given. */
export function userModeEntry(options: {
  entry: bigint;
  stack: bigint;
  cr3: bigint;
  tables: UserModeTables;
}): EntryState {
  const { gdt, idt, code, data, tss } = options.tables;
  const state = longModeEntry({ ...options, segments: { gdt, code, data, tss } });
  const user = { ...data, dpl: 3 };
  Object.assign(state.sregs, { cs: { ...code, dpl: 3 }, ...dataSegments(user), idt });
  state.sregs.tr = { ...tss, type: SYSTEM_TYPE.TSS_BUSY };
  return state;
}

/** Flat code and data, the TSS, and no IDT or LDT. */
function flatSegments({ gdt, code, data, tss }: BootSegments): Partial<Sregs> {
  return {
    gdt,
    idt: { base: 0n, limit: 0 },
    cs: { ...code },
    ...dataSegments(data),
    tr: { ...tss, type: SYSTEM_TYPE.TSS_BUSY },
    ldt: unusableSegment(),
  };
}

function dataSegments(data: Segment): Pick<Sregs, 'ds' | 'es' | 'fs' | 'gs' | 'ss'> {
  return { ds: { ...data }, es: { ...data }, fs: { ...data }, gs: { ...data }, ss: { ...data } };
}
