/** Structs of the vCPU ioctls (Linux arch/x86/include/uapi/asm/kvm.h), decoding to the types of vcpu/state.ts. */
import type {
  CpuidEntry,
  DebugRegs,
  Dtable,
  Fpu,
  Msr,
  Regs,
  Segment,
  Sregs,
  Translation,
  VcpuEvents,
  Xcr,
} from '../../vcpu/state.ts';
import { array, blob, listStruct, pad, type Struct, struct, u8, u16, u32, u64 } from './struct.ts';

export const kvm_regs: Struct<Regs> = struct('kvm_regs', {
  rax: u64,
  rbx: u64,
  rcx: u64,
  rdx: u64,
  rsi: u64,
  rdi: u64,
  rsp: u64,
  rbp: u64,
  r8: u64,
  r9: u64,
  r10: u64,
  r11: u64,
  r12: u64,
  r13: u64,
  r14: u64,
  r15: u64,
  rip: u64,
  rflags: u64,
});

export const kvm_segment: Struct<Segment> = struct('kvm_segment', {
  base: u64,
  limit: u32,
  selector: u16,
  type: u8,
  present: u8,
  dpl: u8,
  db: u8,
  s: u8,
  l: u8,
  g: u8,
  avl: u8,
  unusable: u8,
  padding: pad(1),
});

export const kvm_dtable: Struct<Dtable> = struct('kvm_dtable', { base: u64, limit: u16, padding: pad(6) });

export const kvm_sregs: Struct<Sregs> = struct('kvm_sregs', {
  cs: kvm_segment,
  ds: kvm_segment,
  es: kvm_segment,
  fs: kvm_segment,
  gs: kvm_segment,
  ss: kvm_segment,
  tr: kvm_segment,
  ldt: kvm_segment,
  gdt: kvm_dtable,
  idt: kvm_dtable,
  cr0: u64,
  cr2: u64,
  cr3: u64,
  cr4: u64,
  cr8: u64,
  efer: u64,
  apic_base: u64,
  interrupt_bitmap: array(u64, 4),
});

export const kvm_fpu: Struct<Fpu> = struct('kvm_fpu', {
  fpr: blob(8 * 16),
  fcw: u16,
  fsw: u16,
  ftwx: u8,
  pad1: pad(1),
  last_opcode: u16,
  last_ip: u64,
  last_dp: u64,
  xmm: blob(16 * 16),
  mxcsr: u32,
  pad2: pad(4),
});

/**
 * The classic 4096-byte area. KVM_GET_XSAVE2 and KVM_SET_XSAVE move as many bytes as
 * KVM_CHECK_EXTENSION(KVM_CAP_XSAVE2) says, which is never less.
 */
export const kvm_xsave = struct('kvm_xsave', { region: blob(4096) });

export const kvm_xcr: Struct<Xcr> = struct('kvm_xcr', { xcr: u32, padding: pad(4), value: u64 });

/** KVM_MAX_XCRS. */
export const KVM_MAX_XCRS = 16;

export const kvm_xcrs = struct('kvm_xcrs', {
  nr_xcrs: u32,
  flags: u32,
  xcrs: array(kvm_xcr, KVM_MAX_XCRS),
  padding: pad(16 * 8),
});

/** struct kvm_xcrs of a list of at most KVM_MAX_XCRS registers. @throws TSV_E_STATE */
export function encodeXcrs(xcrs: readonly Xcr[]): Uint8Array {
  const all = [...xcrs];
  while (all.length < KVM_MAX_XCRS) all.push({ xcr: 0, value: 0n });
  return kvm_xcrs.encode({ nr_xcrs: xcrs.length, flags: 0, xcrs: all });
}

/** The registers that struct kvm_xcrs holds. @throws TSV_E_STATE */
export function decodeXcrs(bytes: Uint8Array): Xcr[] {
  const { nr_xcrs, xcrs } = kvm_xcrs.decode(bytes);
  return xcrs.slice(0, nr_xcrs);
}

export const kvm_debugregs: Struct<DebugRegs> = struct('kvm_debugregs', {
  db: array(u64, 4),
  dr6: u64,
  dr7: u64,
  flags: u64,
  padding: pad(9 * 8),
});

export const kvm_msr_entry: Struct<Msr> = struct('kvm_msr_entry', { index: u32, padding: pad(4), data: u64 });
/** KVM_GET_MSRS and KVM_SET_MSRS. */
export const kvm_msrs = listStruct('kvm_msrs', 8, kvm_msr_entry);
/** KVM_GET_MSR_INDEX_LIST. */
export const kvm_msr_list = listStruct('kvm_msr_list', 4, u32);

export const kvm_cpuid_entry2: Struct<CpuidEntry> = struct('kvm_cpuid_entry2', {
  function: u32,
  index: u32,
  flags: u32,
  eax: u32,
  ebx: u32,
  ecx: u32,
  edx: u32,
  padding: pad(12),
});
/** KVM_GET_SUPPORTED_CPUID, KVM_GET_CPUID2 and KVM_SET_CPUID2. */
export const kvm_cpuid2 = listStruct('kvm_cpuid2', 8, kvm_cpuid_entry2);

/** The local APIC's registers, KVM_APIC_REG_SIZE bytes. */
export const kvm_lapic_state = struct('kvm_lapic_state', { regs: blob(0x400) });

export const kvm_mp_state = struct('kvm_mp_state', { mp_state: u32 });

export const kvm_vcpu_events: Struct<VcpuEvents> = struct('kvm_vcpu_events', {
  exception: struct('', { injected: u8, nr: u8, has_error_code: u8, pending: u8, error_code: u32 }),
  interrupt: struct('', { injected: u8, nr: u8, soft: u8, shadow: u8 }),
  nmi: struct('', { injected: u8, pending: u8, masked: u8, pad: pad(1) }),
  sipi_vector: u32,
  flags: u32,
  smi: struct('', { smm: u8, pending: u8, smm_inside_nmi: u8, latched_init: u8 }),
  triple_fault: struct('', { pending: u8 }),
  padding: pad(26),
  exception_has_payload: u8,
  exception_payload: u64,
});

export const kvm_translation: Struct<Translation> = struct('kvm_translation', {
  linear_address: u64,
  physical_address: u64,
  valid: u8,
  writeable: u8,
  usermode: u8,
  pad: pad(5),
});

/** KVM_SET_GUEST_DEBUG; `arch.debugreg` is DR0 to DR7, used with KVM_GUESTDBG_USE_HW_BP. */
export const kvm_guest_debug = struct('kvm_guest_debug', {
  control: u32,
  pad: pad(4),
  arch: struct('kvm_guest_debug_arch', { debugreg: array(u64, 8) }),
});

export const kvm_interrupt = struct('kvm_interrupt', { irq: u32 });

/** KVM_ENABLE_CAP, on a VM or a vCPU. */
export const kvm_enable_cap = struct('kvm_enable_cap', {
  cap: u32,
  flags: u32,
  args: array(u64, 4),
  pad: pad(64),
});
