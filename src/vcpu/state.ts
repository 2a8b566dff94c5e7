/**
 * The architectural state of a vCPU, in the field names of the KVM UAPI (Documentation/virt/kvm/api.rst), for both
 * engines.
 *
 * Representation: a 64-bit guest value is a `bigint` from 0 to 2^64-1, never negative. Guest-physical addresses and
 * sizes are numbers (x86-64 physical addresses have at most 52 bits). 32-bit and smaller fields are numbers.
 */

/** General registers (struct kvm_regs). */
export interface Regs {
  rax: bigint;
  rbx: bigint;
  rcx: bigint;
  rdx: bigint;
  rsi: bigint;
  rdi: bigint;
  rsp: bigint;
  rbp: bigint;
  r8: bigint;
  r9: bigint;
  r10: bigint;
  r11: bigint;
  r12: bigint;
  r13: bigint;
  r14: bigint;
  r15: bigint;
  rip: bigint;
  rflags: bigint;
}

/** A segment register with its hidden part (struct kvm_segment). `limit` is in bytes, already scaled. */
export interface Segment {
  base: bigint;
  limit: number;
  selector: number;
  type: number;
  present: number;
  dpl: number;
  db: number;
  s: number;
  l: number;
  g: number;
  avl: number;
  unusable: number;
}

/** GDTR or IDTR (struct kvm_dtable). */
export interface Dtable {
  base: bigint;
  limit: number;
}

/** Segment, control and system registers (struct kvm_sregs). */
export interface Sregs {
  cs: Segment;
  ds: Segment;
  es: Segment;
  fs: Segment;
  gs: Segment;
  ss: Segment;
  tr: Segment;
  ldt: Segment;
  gdt: Dtable;
  idt: Dtable;
  cr0: bigint;
  cr2: bigint;
  cr3: bigint;
  cr4: bigint;
  cr8: bigint;
  efer: bigint;
  apic_base: bigint;
  /** 256-bit set of the vector that is pending injection, as four 64-bit words. */
  interrupt_bitmap: bigint[];
}

/** x87 and SSE state (struct kvm_fpu). */
export interface Fpu {
  /** Eight 16-byte slots, each holding an 80-bit value. */
  fpr: Uint8Array;
  fcw: number;
  fsw: number;
  /** Abridged tag word, as in FXSAVE. */
  ftwx: number;
  last_opcode: number;
  last_ip: bigint;
  last_dp: bigint;
  /** Sixteen 16-byte registers. */
  xmm: Uint8Array;
  mxcsr: number;
}

/** Debug registers (struct kvm_debugregs). */
export interface DebugRegs {
  db: bigint[];
  dr6: bigint;
  dr7: bigint;
  flags: bigint;
}

/** One extended control register (struct kvm_xcr). */
export interface Xcr {
  xcr: number;
  value: bigint;
}

/** One MSR (struct kvm_msr_entry). */
export interface Msr {
  index: number;
  data: bigint;
}

/** One CPUID leaf (struct kvm_cpuid_entry2). */
export interface CpuidEntry {
  function: number;
  index: number;
  flags: number;
  eax: number;
  ebx: number;
  ecx: number;
  edx: number;
}

/** Values of {@link MpState}, from the KVM UAPI. */
export const MP_STATE = {
  RUNNABLE: 0,
  UNINITIALIZED: 1,
  INIT_RECEIVED: 2,
  HALTED: 3,
  SIPI_RECEIVED: 4,
} as const;
/** Multiprocessing state of a vCPU. */
export type MpState = number;

/** Events being delivered (struct kvm_vcpu_events). */
export interface VcpuEvents {
  exception: {
    injected: number;
    nr: number;
    has_error_code: number;
    pending: number;
    error_code: number;
  };
  interrupt: { injected: number; nr: number; soft: number; shadow: number };
  nmi: { injected: number; pending: number; masked: number };
  sipi_vector: number;
  flags: number;
  smi: { smm: number; pending: number; smm_inside_nmi: number; latched_init: number };
  triple_fault: { pending: number };
  exception_has_payload: number;
  exception_payload: bigint;
}

/** Result of a linear to physical translation (struct kvm_translation). */
export interface Translation {
  linear_address: bigint;
  physical_address: bigint;
  valid: number;
  writeable: number;
  usermode: number;
}

/** Everything of one vCPU that can be read while it is paused, and written back alike. */
export interface VcpuState {
  regs: Regs;
  sregs: Sregs;
  fpu: Fpu;
  /** The XSAVE area as KVM_GET_XSAVE lays it out (at least 4096 bytes). */
  xsave: Uint8Array;
  xcrs: Xcr[];
  debugregs: DebugRegs;
  msrs: Msr[];
  cpuid: CpuidEntry[];
  /** The 1 KiB local APIC register page (struct kvm_lapic_state). */
  lapic: Uint8Array;
  mp_state: MpState;
  events: VcpuEvents;
  /** TSC frequency in kHz. */
  tsc_khz: number;
}
