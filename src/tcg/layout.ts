/**
 * Where a vCPU's state lies: an area of the shared WebAssembly.Memory that also holds guest RAM. The generated code
 * reaches every field at a constant address.
 *
 * ```
 * 0                    page map: one byte for each 4 KiB page of the memory (PAGE_*)
 * PAGE_MAP_SIZE        area of vCPU 0, AREA_SIZE bytes
 * + AREA_SIZE          area of vCPU 1 ...
 * engineSize(n)        guest RAM
 * ```
 */

/** Bytes a page of the guest, of the page map, and of the soft TLB. */
export const PAGE = 4096;

/** Page map bits: a store to such a page calls afterStore(). These say that vCPUs have decoded it, see {@link codeBit}. */
export const PAGE_CODE = 0xfd;
/** The page is clean in the dirty log. */
export const PAGE_CLEAN = 2;
/** Not guest memory: the scratch page, where accesses without host address are staged. Known by its address. */
export const PAGE_SCRATCH = 1;

/** How many vCPUs have a page map bit of their own; the others share one. */
export const OWN_CODE_BITS = 6;

/** The page map bit that says that a vCPU has blocks decoded from the page. Only that vCPU sets and clears it. */
export function codeBit(vcpu: number): number {
  return vcpu === 0 ? 1 : 2 << Math.min(vcpu, OWN_CODE_BITS);
}

/** Bytes of the page map: enough for 4 GiB. */
export const PAGE_MAP_SIZE = 0x10_0000;

/** i32 words, atomic, of the engine as a whole. They lie where the page map would describe the page map. */
export const ENGINE = {
  /** Index of the vCPU that runs alone plus one, 0 for none (rendezvous.ts). */
  EXCLUSIVE: 0x40,
  /** Index of the vCPU that replaces 16 bytes plus one, 0 for none (rendezvous.ts). */
  PAIR: 0x80,
  /** Nobody changes it: to sleep on. */
  NEVER: 0xc0,
} as const;

/** Offsets in a vCPU's area. Those below 256 are also operands of a predecoded record, as one byte. */
export const S = {
  /** Sixteen 64-bit registers in encoding order. */
  GPR: 0,
  /** Always zero: the absent base, index or segment of an address. */
  ZERO: 128,
  /** RIP of the running block's first instruction; the base of RIP-relative addresses. */
  BLOCK_RIP: 136,
  /** RIP where execution goes on; valid outside of run() and at a jump. */
  RIP: 144,
  /** Lazy arithmetic flags, see flags.ts. */
  FLAG_RESULT: 152,
  FLAG_AUX: 160,
  /** Bases of ES, CS, SS, DS, FS, GS, LDT, TR; in long mode zero but for FS, GS, LDT, TR. */
  SEGMENT_BASE: 168,

  /** i32: address of the soft TLB of the current privilege. */
  TLB: 232,
  /** i32: what a jump cache entry must carry to be valid: changes with mode, and when translations change. */
  CODE_KEY: 236,
  /** i32: RFLAGS without CF, PF, AF, ZF, SF, OF. */
  EFLAGS: 240,
  /** i32, atomic: not 0 makes run() return at the end of the block. */
  ATTENTION: 244,
  /** i32: an interrupt waits for IF. */
  IRQ_WAITING: 248,
  /** i32 */
  CPL: 252,

  /** i32: vector of the exception being raised, -1 for none. */
  FAULT_VECTOR: 256,
  FAULT_ERROR: 260,
  /** i32: the record that left run(). */
  PC: 264,
  /** i32: what is left of run()'s budget. */
  BUDGET: 268,
  /** i64: mask of the stack pointer by SS.B or long mode. */
  STACK_MASK: 280,
  /** i64: RIP of an instruction before which no interrupt is taken (STI, MOV SS); -1 for none. */
  SHADOW_RIP: 288,
  /** i64: offset operand for helper calls. */
  TEMP: 296,
  /** i32: an NMI is being handled. */
  NMI_MASKED: 304,
  /** i32: the latest interrupt shadow is that of MOV SS, not of STI. */
  SHADOW_IS_MOV_SS: 308,
  /** i32 each: what CODE_KEY is with the present code segment's width below CPL 3 and at CPL 3. */
  SUPERVISOR_KEY: 312,
  USER_KEY: 316,

  /** i32 each, order of SEGMENT_BASE. */
  SELECTOR: 320,
  LIMIT: 352,
  /** Access rights as in bits 8 to 23 of a descriptor's second word, shifted down; bit 16: unusable. */
  RIGHTS: 384,
  /** First valid offset for reads, last for reads and for writes, outside 64-bit mode. */
  SEGMENT_FIRST: 416,
  SEGMENT_LAST_READ: 448,
  SEGMENT_LAST_WRITE: 480,

  GDT_BASE: 512,
  IDT_BASE: 520,
  GDT_LIMIT: 528,
  IDT_LIMIT: 532,
  CR0: 536,
  CR2: 544,
  CR3: 552,
  CR4: 560,
  EFER: 576,
  XCR0: 584,
  /** DR0 to DR7. */
  DR: 592,
  STAR: 656,
  LSTAR: 664,
  CSTAR: 672,
  FMASK: 680,
  KERNEL_GS_BASE: 688,
  SYSENTER_CS: 696,
  SYSENTER_ESP: 704,
  SYSENTER_EIP: 712,
  TSC_AUX: 720,
  APIC_BASE: 728,
  /** i64: instructions retired in earlier runs. */
  RETIRED: 736,
  MXCSR: 744,
  FCW: 748,
  FSW: 752,
  /** Abridged tags: a set bit is a valid register. */
  FTW: 756,
  FOP: 760,
  FIP: 768,
  FDP: 776,
  /** Bases as the descriptors have them, order of SEGMENT_BASE. */
  RAW_BASE: 800,
  /** i32 each, order of SEGMENT_BASE: first valid offset for writes; all ones where none may be written. */
  SEGMENT_FIRST_WRITE: 864,

  /** 16 bytes: source of a floating-point instruction that is carried out in TypeScript. */
  SSE_SOURCE: 992,

  /** Sixteen 128-bit registers. */
  XMM: 1024,
  /** Eight 80-bit registers in 16-byte slots, by physical number (not relative to TOP). */
  FPR: 1280,
} as const;

/** Bit of S.ATTENTION: look at the run area and at the control block. Those below are the APIC mailbox's (WAKE). */
export const ATTENTION_KICK = 0x100;
/** Bit of S.ATTENTION: code was written, or another vCPU wants to run alone. Cpu.run() sees to both. */
export const ATTENTION_ENGINE = 0x200;

/** Where staged accesses live; a page of its own. */
export const SCRATCH = 0x1000;
/** Soft TLBs: supervisor, supervisor with user pages (AC or no SMAP), user, user with alignment checks (never filled). */
export const TLB = 0x2000;
export const TLB_ENTRIES = 4096;
/** Entry: i64 read tag, i64 write tag, i32 addend. A tag is the linear page, -1 never matches. */
export const TLB_ENTRY = 32;
export const TLB_READ = 0;
export const TLB_WRITE = 8;
export const TLB_ADDEND = 16;
export const TLB_SIZE = TLB_ENTRIES * TLB_ENTRY;
/** Offset of an address's entry: address >>> TLB_INDEX_SHIFT & TLB_INDEX_MASK. */
export const TLB_INDEX_SHIFT = 12 - Math.log2(TLB_ENTRY);
export const TLB_INDEX_MASK = TLB_SIZE - TLB_ENTRY;
export const TLB_MODES = 4;
/** The TLB whose entries never hit, so that every access of a user with EFLAGS.AC and CR0.AM is looked at. */
export const TLB_MODE_ALIGNED = 3;
/** Jump cache: from RIP to a block's first record. Entry: i64 RIP, i32 key, i32 record. */
export const JUMP_CACHE = TLB + TLB_MODES * TLB_SIZE;
export const JUMP_ENTRIES = 16384;
export const JUMP_ENTRY = 16;
/** Translations of pages of code (decode/code-tables.ts). Entry: i64 linear page, i32 key as in the jump cache, i32 address. */
export const CODE_TLB = JUMP_CACHE + JUMP_ENTRIES * JUMP_ENTRY;
export const CODE_TLB_ENTRIES = 1024;
export const CODE_TLB_ENTRY = 16;
/** Blocks of 64-bit code (decode/code-tables.ts). Entry: i32 address of the first byte, i32 record. */
export const BLOCK_TABLE = CODE_TLB + CODE_TLB_ENTRIES * CODE_TLB_ENTRY;
export const BLOCK_ENTRIES = 65536;
export const BLOCK_ENTRY = 8;
/** The run area in kvm_run layout: one page, and one of port data. */
export const RUN = BLOCK_TABLE + BLOCK_ENTRIES * BLOCK_ENTRY;
export const RUN_SIZE = 0x2000;
/** Offset of the port data in the run area. */
export const RUN_PIO_DATA = 0x1000;
/** Stores to decoded bytes by others (decode/invalidation-queue.ts), and whether the vCPU is in run(). */
export const INVALIDATIONS = RUN + RUN_SIZE;
export const INVALIDATIONS_SIZE = 0x3000;
/** Predecoded blocks. */
export const ARENA = (INVALIDATIONS + INVALIDATIONS_SIZE + 0xffff) & ~0xffff;
export const ARENA_SIZE = 16 << 20;
/** Bytes of a vCPU's area. */
export const AREA_SIZE = ARENA + ARENA_SIZE;

/** A predecoded instruction: one record, little-endian fields. */
export const RECORD = 32;
export const R = {
  /** u16: handler. */
  HANDLER: 0,
  /** u8: instruction length. */
  LENGTH: 2,
  /** u8: instructions of the block before this one. */
  INDEX: 3,
  /** i32: address of register operand 0; in a branch: record of the taken target, or 0. */
  A: 4,
  /** i32: address of register or immediate operand 1; in a branch: record of the fall-through, or 0. */
  B: 8,
  /** u16: offset of the instruction from the block's first. */
  OFFSET: 12,
  /** u8: shift of the index register. */
  SCALE: 14,
  /** u8: ADDRESS_*. */
  ADDRESS: 15,
  /** i64: immediate; in a branch: target RIP relative to the block's; i32: address of register operand 2. */
  IMMEDIATE: 16,
  /** i32: displacement. */
  DISPLACEMENT: 24,
  /** u8 each: offsets in the vCPU's area. */
  BASE: 28,
  INDEX_REGISTER: 29,
  SEGMENT: 30,
  /** u8: segment register number. */
  EXTRA: 31,
} as const;

/** R.ADDRESS: address size 16 or 32 bits. */
export const ADDRESS_16 = 1;
export const ADDRESS_32 = 2;
/** R.ADDRESS: segment limits count and linear addresses have 32 bits: not 64-bit mode. */
export const ADDRESS_LEGACY = 4;
/** R.ADDRESS: the immediate is the offset (MOV moffs). */
export const ADDRESS_ABSOLUTE = 8;

/** Where a vCPU's area begins. */
export function areaBase(vcpu: number): number {
  return PAGE_MAP_SIZE + vcpu * AREA_SIZE;
}

/** Index of a vCPU's S.ATTENTION among the memory's words. */
export function attentionWord(vcpu: number): number {
  return (areaBase(vcpu) + S.ATTENTION) >> 2;
}

/** Bytes the engine needs at the start of the memory. */
export function engineSize(vcpus: number): number {
  return areaBase(vcpus);
}

/** What run() returns, and what a handler outside of it returns to it. */
export const STATUS = {
  /** Handlers only: go on with the next record. */
  NEXT: 0,
  /** The instruction at PC did not complete: an exception, or an exit. */
  LEAVE: 1,
  /** Handlers only: go on at S.RIP. */
  JUMP: 2,
  /** At a block's end: the budget is used up or attention is wanted. */
  PAUSE: 3,
} as const;

/** High half of the linear address that never translates: its fault was raised already. */
export const SENTINEL_HIGH = 0x8000_dead;

/** Segment registers in encoding order, then the system segments. */
export const SEG = { ES: 0, CS: 1, SS: 2, DS: 3, FS: 4, GS: 5, LDT: 6, TR: 7 } as const;
/** General registers in encoding order, those that instructions name themselves. */
export const GPR = {
  RAX: 0,
  RCX: 1,
  RDX: 2,
  RBX: 3,
  RSP: 4,
  RBP: 5,
  RSI: 6,
  RDI: 7,
  R11: 11,
} as const;
