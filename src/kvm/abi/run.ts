/**
 * struct kvm_run: the page shared between a vCPU's thread and KVM (Linux Documentation/virt/kvm/api.rst, section 5).
 *
 * The offsets are plain numbers because the exit loop reads single fields, and copying the page would cost more than
 * the exit's handling. `KVM_RUN_X` is `offsetof(struct kvm_run, X)`.
 */

/** sizeof(struct kvm_run); the vCPU mapping is larger (KVM_GET_VCPU_MMAP_SIZE). */
export const KVM_RUN_SIZE = 2352;

// in
export const KVM_RUN_REQUEST_INTERRUPT_WINDOW = 0;
export const KVM_RUN_IMMEDIATE_EXIT = 1;
// out
export const KVM_RUN_EXIT_REASON = 8;
export const KVM_RUN_READY_FOR_INTERRUPT_INJECTION = 12;
export const KVM_RUN_IF_FLAG = 13;
export const KVM_RUN_FLAGS = 14;
// in and out
export const KVM_RUN_CR8 = 16;
export const KVM_RUN_APIC_BASE = 24;

/** Start of the union of exit data; 256 bytes. */
export const KVM_RUN_EXIT_DATA = 32;

// KVM_EXIT_UNKNOWN
export const KVM_RUN_HW_HARDWARE_EXIT_REASON = 32;
// KVM_EXIT_FAIL_ENTRY
export const KVM_RUN_FAIL_ENTRY_HARDWARE_ENTRY_FAILURE_REASON = 32;
export const KVM_RUN_FAIL_ENTRY_CPU = 40;
// KVM_EXIT_EXCEPTION
export const KVM_RUN_EX_EXCEPTION = 32;
export const KVM_RUN_EX_ERROR_CODE = 36;
// KVM_EXIT_IO
export const KVM_RUN_IO_DIRECTION = 32;
export const KVM_RUN_IO_SIZE = 33;
export const KVM_RUN_IO_PORT = 34;
export const KVM_RUN_IO_COUNT = 36;
/** 64-bit, relative to the start of kvm_run. */
export const KVM_RUN_IO_DATA_OFFSET = 40;
// KVM_EXIT_DEBUG
export const KVM_RUN_DEBUG_EXCEPTION = 32;
export const KVM_RUN_DEBUG_PC = 40;
export const KVM_RUN_DEBUG_DR6 = 48;
export const KVM_RUN_DEBUG_DR7 = 56;
// KVM_EXIT_MMIO
export const KVM_RUN_MMIO_PHYS_ADDR = 32;
export const KVM_RUN_MMIO_DATA = 40;
export const KVM_RUN_MMIO_LEN = 48;
export const KVM_RUN_MMIO_IS_WRITE = 52;
// KVM_EXIT_HYPERCALL
export const KVM_RUN_HYPERCALL_NR = 32;
export const KVM_RUN_HYPERCALL_ARGS = 40;
export const KVM_RUN_HYPERCALL_RET = 88;
export const KVM_RUN_HYPERCALL_LONGMODE = 96;
// KVM_EXIT_TPR_ACCESS
export const KVM_RUN_TPR_ACCESS_RIP = 32;
export const KVM_RUN_TPR_ACCESS_IS_WRITE = 40;
// KVM_EXIT_INTERNAL_ERROR
export const KVM_RUN_INTERNAL_SUBERROR = 32;
export const KVM_RUN_INTERNAL_NDATA = 36;
export const KVM_RUN_INTERNAL_DATA = 40;
// KVM_EXIT_INTERNAL_ERROR, suberror KVM_INTERNAL_ERROR_EMULATION
export const KVM_RUN_EMULATION_FAILURE_FLAGS = 40;
export const KVM_RUN_EMULATION_FAILURE_INSN_SIZE = 48;
/** Fifteen bytes. */
export const KVM_RUN_EMULATION_FAILURE_INSN_BYTES = 49;
// KVM_EXIT_SYSTEM_EVENT
export const KVM_RUN_SYSTEM_EVENT_TYPE = 32;
export const KVM_RUN_SYSTEM_EVENT_NDATA = 36;
export const KVM_RUN_SYSTEM_EVENT_DATA = 40;
// KVM_EXIT_IOAPIC_EOI
export const KVM_RUN_EOI_VECTOR = 32;
// KVM_EXIT_X86_RDMSR and KVM_EXIT_X86_WRMSR
/** Written by userspace: non-zero makes the instruction fault with #GP. */
export const KVM_RUN_MSR_ERROR = 32;
export const KVM_RUN_MSR_REASON = 40;
export const KVM_RUN_MSR_INDEX = 44;
export const KVM_RUN_MSR_DATA = 48;
// KVM_EXIT_NOTIFY
export const KVM_RUN_NOTIFY_FLAGS = 32;

// Synchronised registers (KVM_CAP_SYNC_REGS).
export const KVM_RUN_KVM_VALID_REGS = 288;
export const KVM_RUN_KVM_DIRTY_REGS = 296;
/** struct kvm_regs. */
export const KVM_RUN_S_REGS_REGS = 304;
/** struct kvm_sregs. */
export const KVM_RUN_S_REGS_SREGS = 448;
/** struct kvm_vcpu_events. */
export const KVM_RUN_S_REGS_EVENTS = 760;
