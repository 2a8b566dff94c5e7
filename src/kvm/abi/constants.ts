/** Constants of the KVM UAPI (Linux include/uapi/linux/kvm.h and arch/x86/include/uapi/asm/kvm.h), under their own names. */

/** What KVM_GET_API_VERSION must return. */
export const KVM_API_VERSION = 12;

// Exit reasons: kvm_run.exit_reason.
export const KVM_EXIT_UNKNOWN = 0;
export const KVM_EXIT_EXCEPTION = 1;
export const KVM_EXIT_IO = 2;
export const KVM_EXIT_HYPERCALL = 3;
export const KVM_EXIT_DEBUG = 4;
export const KVM_EXIT_HLT = 5;
export const KVM_EXIT_MMIO = 6;
export const KVM_EXIT_IRQ_WINDOW_OPEN = 7;
export const KVM_EXIT_SHUTDOWN = 8;
export const KVM_EXIT_FAIL_ENTRY = 9;
export const KVM_EXIT_INTR = 10;
export const KVM_EXIT_SET_TPR = 11;
export const KVM_EXIT_TPR_ACCESS = 12;
export const KVM_EXIT_NMI = 16;
export const KVM_EXIT_INTERNAL_ERROR = 17;
export const KVM_EXIT_WATCHDOG = 21;
export const KVM_EXIT_SYSTEM_EVENT = 24;
export const KVM_EXIT_IOAPIC_EOI = 26;
export const KVM_EXIT_HYPERV = 27;
export const KVM_EXIT_X86_RDMSR = 29;
export const KVM_EXIT_X86_WRMSR = 30;
export const KVM_EXIT_DIRTY_RING_FULL = 31;
export const KVM_EXIT_AP_RESET_HOLD = 32;
export const KVM_EXIT_X86_BUS_LOCK = 33;
export const KVM_EXIT_XEN = 34;
export const KVM_EXIT_NOTIFY = 37;
export const KVM_EXIT_MEMORY_FAULT = 39;

/** Names of the exit reasons without their prefix, for counters and traces. */
const EXIT_NAMES: Readonly<Record<number, string>> = {
  [KVM_EXIT_UNKNOWN]: 'UNKNOWN',
  [KVM_EXIT_EXCEPTION]: 'EXCEPTION',
  [KVM_EXIT_IO]: 'IO',
  [KVM_EXIT_HYPERCALL]: 'HYPERCALL',
  [KVM_EXIT_DEBUG]: 'DEBUG',
  [KVM_EXIT_HLT]: 'HLT',
  [KVM_EXIT_MMIO]: 'MMIO',
  [KVM_EXIT_IRQ_WINDOW_OPEN]: 'IRQ_WINDOW_OPEN',
  [KVM_EXIT_SHUTDOWN]: 'SHUTDOWN',
  [KVM_EXIT_FAIL_ENTRY]: 'FAIL_ENTRY',
  [KVM_EXIT_INTR]: 'INTR',
  [KVM_EXIT_SET_TPR]: 'SET_TPR',
  [KVM_EXIT_TPR_ACCESS]: 'TPR_ACCESS',
  [KVM_EXIT_NMI]: 'NMI',
  [KVM_EXIT_INTERNAL_ERROR]: 'INTERNAL_ERROR',
  [KVM_EXIT_WATCHDOG]: 'WATCHDOG',
  [KVM_EXIT_SYSTEM_EVENT]: 'SYSTEM_EVENT',
  [KVM_EXIT_IOAPIC_EOI]: 'IOAPIC_EOI',
  [KVM_EXIT_HYPERV]: 'HYPERV',
  [KVM_EXIT_X86_RDMSR]: 'X86_RDMSR',
  [KVM_EXIT_X86_WRMSR]: 'X86_WRMSR',
  [KVM_EXIT_DIRTY_RING_FULL]: 'DIRTY_RING_FULL',
  [KVM_EXIT_AP_RESET_HOLD]: 'AP_RESET_HOLD',
  [KVM_EXIT_X86_BUS_LOCK]: 'X86_BUS_LOCK',
  [KVM_EXIT_XEN]: 'XEN',
  [KVM_EXIT_NOTIFY]: 'NOTIFY',
  [KVM_EXIT_MEMORY_FAULT]: 'MEMORY_FAULT',
};

/** `IO`, `MMIO`, ...; `EXIT_n` for a reason this build does not know. */
export function exitReasonName(reason: number): string {
  return EXIT_NAMES[reason] ?? `EXIT_${reason}`;
}

// kvm_run.io.direction
export const KVM_EXIT_IO_IN = 0;
export const KVM_EXIT_IO_OUT = 1;

// kvm_run.flags
export const KVM_RUN_X86_SMM = 1 << 0;
export const KVM_RUN_X86_BUS_LOCK = 1 << 1;

// kvm_run.internal.suberror
export const KVM_INTERNAL_ERROR_EMULATION = 1;
export const KVM_INTERNAL_ERROR_SIMUL_EX = 2;
export const KVM_INTERNAL_ERROR_DELIVERY_EV = 3;
export const KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON = 4;
// kvm_run.emulation_failure.flags
export const KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES = 1;

// kvm_run.system_event.type
export const KVM_SYSTEM_EVENT_SHUTDOWN = 1;
export const KVM_SYSTEM_EVENT_RESET = 2;
export const KVM_SYSTEM_EVENT_CRASH = 3;
export const KVM_SYSTEM_EVENT_WAKEUP = 4;
export const KVM_SYSTEM_EVENT_SUSPEND = 5;
export const KVM_SYSTEM_EVENT_SEV_TERM = 6;

// kvm_run.msr.reason, and the same bits enable the exits with KVM_CAP_X86_USER_SPACE_MSR
export const KVM_MSR_EXIT_REASON_INVAL = 1 << 0;
export const KVM_MSR_EXIT_REASON_UNKNOWN = 1 << 1;
export const KVM_MSR_EXIT_REASON_FILTER = 1 << 2;
// kvm_msr_filter.flags and kvm_msr_filter_range.flags
export const KVM_MSR_FILTER_DEFAULT_ALLOW = 0;
export const KVM_MSR_FILTER_DEFAULT_DENY = 1;
export const KVM_MSR_FILTER_READ = 1 << 0;
export const KVM_MSR_FILTER_WRITE = 1 << 1;
export const KVM_MSR_FILTER_MAX_RANGES = 16;
/** Bytes. */
export const KVM_MSR_FILTER_MAX_BITMAP_SIZE = 0x600;

// kvm_userspace_memory_region.flags
export const KVM_MEM_LOG_DIRTY_PAGES = 1 << 0;
export const KVM_MEM_READONLY = 1 << 1;

// Argument of KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2
export const KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE = 1 << 0;
export const KVM_DIRTY_LOG_INITIALLY_SET = 1 << 1;
// kvm_dirty_gfn.flags
export const KVM_DIRTY_GFN_F_DIRTY = 1 << 0;
export const KVM_DIRTY_GFN_F_RESET = 1 << 1;

// Pages of the vCPU mapping
export const KVM_PIO_PAGE_OFFSET = 1;
export const KVM_COALESCED_MMIO_PAGE_OFFSET = 2;
export const KVM_DIRTY_LOG_PAGE_OFFSET = 64;

// kvm_irqchip.chip_id and kvm_irq_routing_irqchip.irqchip
export const KVM_IRQCHIP_PIC_MASTER = 0;
export const KVM_IRQCHIP_PIC_SLAVE = 1;
export const KVM_IRQCHIP_IOAPIC = 2;
export const KVM_IOAPIC_NUM_PINS = 24;
// kvm_irq_routing_entry.type
export const KVM_IRQ_ROUTING_IRQCHIP = 1;
export const KVM_IRQ_ROUTING_MSI = 2;
// kvm_msi.flags
export const KVM_MSI_VALID_DEVID = 1 << 0;
// kvm_irqfd.flags
export const KVM_IRQFD_FLAG_DEASSIGN = 1 << 0;
export const KVM_IRQFD_FLAG_RESAMPLE = 1 << 1;
// kvm_ioeventfd.flags
export const KVM_IOEVENTFD_FLAG_DATAMATCH = 1 << 0;
export const KVM_IOEVENTFD_FLAG_PIO = 1 << 1;
export const KVM_IOEVENTFD_FLAG_DEASSIGN = 1 << 2;

/** Channels of the 8254; the headers have it as a bare 3. */
export const PIT_CHANNELS = 3;
// kvm_pit_config.flags
export const KVM_PIT_SPEAKER_DUMMY = 1;
// kvm_pit_state2.flags
export const KVM_PIT_FLAGS_HPET_LEGACY = 1;
export const KVM_PIT_FLAGS_SPEAKER_DATA_ON = 2;

// kvm_clock_data.flags
export const KVM_CLOCK_TSC_STABLE = 2;
export const KVM_CLOCK_REALTIME = 1 << 2;
export const KVM_CLOCK_HOST_TSC = 1 << 3;

// kvm_cpuid_entry2.flags
export const KVM_CPUID_FLAG_SIGNIFCANT_INDEX = 1 << 0;
export const KVM_CPUID_FLAG_STATEFUL_FUNC = 1 << 1;
export const KVM_CPUID_FLAG_STATE_READ_NEXT = 1 << 2;

// kvm_vcpu_events.flags: which fields KVM_SET_VCPU_EVENTS takes
export const KVM_VCPUEVENT_VALID_NMI_PENDING = 0x01;
export const KVM_VCPUEVENT_VALID_SIPI_VECTOR = 0x02;
export const KVM_VCPUEVENT_VALID_SHADOW = 0x04;
export const KVM_VCPUEVENT_VALID_SMM = 0x08;
export const KVM_VCPUEVENT_VALID_PAYLOAD = 0x10;
export const KVM_VCPUEVENT_VALID_TRIPLE_FAULT = 0x20;
// kvm_vcpu_events.interrupt.shadow
export const KVM_X86_SHADOW_INT_MOV_SS = 0x01;
export const KVM_X86_SHADOW_INT_STI = 0x02;

// kvm_guest_debug.control
export const KVM_GUESTDBG_ENABLE = 0x0000_0001;
export const KVM_GUESTDBG_SINGLESTEP = 0x0000_0002;
export const KVM_GUESTDBG_USE_SW_BP = 0x0001_0000;
export const KVM_GUESTDBG_USE_HW_BP = 0x0002_0000;
export const KVM_GUESTDBG_INJECT_DB = 0x0004_0000;
export const KVM_GUESTDBG_INJECT_BP = 0x0008_0000;
export const KVM_GUESTDBG_BLOCKIRQ = 0x0010_0000;

// kvm_run.kvm_valid_regs and kvm_run.kvm_dirty_regs
export const KVM_SYNC_X86_REGS = 1 << 0;
export const KVM_SYNC_X86_SREGS = 1 << 1;
export const KVM_SYNC_X86_EVENTS = 1 << 2;

// Argument of KVM_CAP_X86_DISABLE_EXITS
export const KVM_X86_DISABLE_EXITS_MWAIT = 1 << 0;
export const KVM_X86_DISABLE_EXITS_HLT = 1 << 1;
export const KVM_X86_DISABLE_EXITS_PAUSE = 1 << 2;
export const KVM_X86_DISABLE_EXITS_CSTATE = 1 << 3;
// Argument of KVM_CAP_X2APIC_API
export const KVM_X2APIC_API_USE_32BIT_IDS = 1 << 0;
export const KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK = 1 << 1;
// Argument of KVM_CAP_DISABLE_QUIRKS2
export const KVM_X86_QUIRK_LINT0_REENABLED = 1 << 0;
export const KVM_X86_QUIRK_CD_NW_CLEARED = 1 << 1;
export const KVM_X86_QUIRK_LAPIC_MMIO_HOLE = 1 << 2;
export const KVM_X86_QUIRK_OUT_7E_INC_RIP = 1 << 3;
export const KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT = 1 << 4;
export const KVM_X86_QUIRK_FIX_HYPERCALL_INSN = 1 << 5;
export const KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS = 1 << 6;
// Argument of KVM_CAP_X86_BUS_LOCK_EXIT
export const KVM_BUS_LOCK_DETECTION_OFF = 1 << 0;
export const KVM_BUS_LOCK_DETECTION_EXIT = 1 << 1;
// Argument of KVM_CAP_X86_NOTIFY_VMEXIT
export const KVM_X86_NOTIFY_VMEXIT_ENABLED = 1 << 0;
export const KVM_X86_NOTIFY_VMEXIT_USER = 1 << 1;
// Argument of KVM_CAP_PMU_CAPABILITY
export const KVM_PMU_CAP_DISABLE = 1 << 0;

// KVM_{GET,SET,HAS}_DEVICE_ATTR on a vCPU: the offset of the guest TSC from the host's
export const KVM_VCPU_TSC_CTRL = 0;
export const KVM_VCPU_TSC_OFFSET = 0;
