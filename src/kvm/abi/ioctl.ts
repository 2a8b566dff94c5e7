/**
 * ioctl request numbers of /dev/kvm, computed as <asm-generic/ioctl.h> does it: direction, size of the argument,
 * type and number.
 */
import type { Codec } from './struct.ts';
import { u64 } from './struct.ts';
import * as vcpu from './vcpu.ts';
import * as vm from './vm.ts';

const IOC_NRSHIFT = 0;
const IOC_TYPESHIFT = 8;
const IOC_SIZESHIFT = 16;
const IOC_DIRSHIFT = 30;
const IOC_NONE = 0;
const IOC_WRITE = 1;
const IOC_READ = 2;

/** The type byte of all KVM ioctls. */
const KVMIO = 0xae;

type Sized = Pick<Codec<unknown>, 'size'>;

function ioc(direction: number, number: number, size: number): number {
  const request =
    (direction << IOC_DIRSHIFT) |
    (size << IOC_SIZESHIFT) |
    (KVMIO << IOC_TYPESHIFT) |
    (number << IOC_NRSHIFT);
  return request >>> 0;
}
const _IO = (number: number) => ioc(IOC_NONE, number, 0);
const _IOR = (number: number, argument: Sized) => ioc(IOC_READ, number, argument.size);
const _IOW = (number: number, argument: Sized) => ioc(IOC_WRITE, number, argument.size);
const _IOWR = (number: number, argument: Sized) => ioc(IOC_READ | IOC_WRITE, number, argument.size);

// On /dev/kvm
export const KVM_GET_API_VERSION = _IO(0x00);
export const KVM_CREATE_VM = _IO(0x01);
export const KVM_GET_MSR_INDEX_LIST = _IOWR(0x02, vcpu.kvm_msr_list);
/** Also on a VM, with KVM_CAP_CHECK_EXTENSION_VM. */
export const KVM_CHECK_EXTENSION = _IO(0x03);
export const KVM_GET_VCPU_MMAP_SIZE = _IO(0x04);
export const KVM_GET_SUPPORTED_CPUID = _IOWR(0x05, vcpu.kvm_cpuid2);
export const KVM_GET_EMULATED_CPUID = _IOWR(0x09, vcpu.kvm_cpuid2);
export const KVM_GET_MSR_FEATURE_INDEX_LIST = _IOWR(0x0a, vcpu.kvm_msr_list);

// On a VM
export const KVM_CREATE_VCPU = _IO(0x41);
export const KVM_GET_DIRTY_LOG = _IOW(0x42, vm.kvm_dirty_log);
export const KVM_SET_USER_MEMORY_REGION = _IOW(0x46, vm.kvm_userspace_memory_region);
export const KVM_SET_TSS_ADDR = _IO(0x47);
export const KVM_SET_IDENTITY_MAP_ADDR = _IOW(0x48, u64);
export const KVM_CREATE_IRQCHIP = _IO(0x60);
export const KVM_IRQ_LINE = _IOW(0x61, vm.kvm_irq_level);
export const KVM_GET_IRQCHIP = _IOWR(0x62, vm.kvm_irqchip);
export const KVM_SET_IRQCHIP = _IOR(0x63, vm.kvm_irqchip);
export const KVM_IRQ_LINE_STATUS = _IOWR(0x67, vm.kvm_irq_level);
export const KVM_REGISTER_COALESCED_MMIO = _IOW(0x67, vm.kvm_coalesced_mmio_zone);
export const KVM_UNREGISTER_COALESCED_MMIO = _IOW(0x68, vm.kvm_coalesced_mmio_zone);
export const KVM_SET_GSI_ROUTING = _IOW(0x6a, vm.kvm_irq_routing);
export const KVM_REINJECT_CONTROL = _IO(0x71);
export const KVM_IRQFD = _IOW(0x76, vm.kvm_irqfd);
export const KVM_CREATE_PIT2 = _IOW(0x77, vm.kvm_pit_config);
export const KVM_SET_BOOT_CPU_ID = _IO(0x78);
export const KVM_IOEVENTFD = _IOW(0x79, vm.kvm_ioeventfd);
export const KVM_SET_CLOCK = _IOW(0x7b, vm.kvm_clock_data);
export const KVM_GET_CLOCK = _IOR(0x7c, vm.kvm_clock_data);
export const KVM_GET_PIT2 = _IOR(0x9f, vm.kvm_pit_state2);
export const KVM_SET_PIT2 = _IOW(0xa0, vm.kvm_pit_state2);
export const KVM_SIGNAL_MSI = _IOW(0xa5, vm.kvm_msi);
export const KVM_CLEAR_DIRTY_LOG = _IOWR(0xc0, vm.kvm_clear_dirty_log);
export const KVM_X86_SET_MSR_FILTER = _IOW(0xc6, vm.kvm_msr_filter);
export const KVM_RESET_DIRTY_RINGS = _IO(0xc7);
/** Also on a vCPU. */
export const KVM_GET_STATS_FD = _IO(0xce);
/** Also on a vCPU. */
export const KVM_ENABLE_CAP = _IOW(0xa3, vcpu.kvm_enable_cap);
/** Also on a VM and on /dev/kvm; of this project only on a vCPU. */
export const KVM_SET_DEVICE_ATTR = _IOW(0xe1, vm.kvm_device_attr);
export const KVM_GET_DEVICE_ATTR = _IOW(0xe2, vm.kvm_device_attr);
export const KVM_HAS_DEVICE_ATTR = _IOW(0xe3, vm.kvm_device_attr);

// On a vCPU
export const KVM_RUN = _IO(0x80);
export const KVM_GET_REGS = _IOR(0x81, vcpu.kvm_regs);
export const KVM_SET_REGS = _IOW(0x82, vcpu.kvm_regs);
export const KVM_GET_SREGS = _IOR(0x83, vcpu.kvm_sregs);
export const KVM_SET_SREGS = _IOW(0x84, vcpu.kvm_sregs);
export const KVM_TRANSLATE = _IOWR(0x85, vcpu.kvm_translation);
export const KVM_INTERRUPT = _IOW(0x86, vcpu.kvm_interrupt);
/** Also on /dev/kvm, for the feature MSRs. */
export const KVM_GET_MSRS = _IOWR(0x88, vcpu.kvm_msrs);
export const KVM_SET_MSRS = _IOW(0x89, vcpu.kvm_msrs);
export const KVM_GET_FPU = _IOR(0x8c, vcpu.kvm_fpu);
export const KVM_SET_FPU = _IOW(0x8d, vcpu.kvm_fpu);
export const KVM_GET_LAPIC = _IOR(0x8e, vcpu.kvm_lapic_state);
export const KVM_SET_LAPIC = _IOW(0x8f, vcpu.kvm_lapic_state);
export const KVM_SET_CPUID2 = _IOW(0x90, vcpu.kvm_cpuid2);
export const KVM_GET_CPUID2 = _IOWR(0x91, vcpu.kvm_cpuid2);
export const KVM_GET_MP_STATE = _IOR(0x98, vcpu.kvm_mp_state);
export const KVM_SET_MP_STATE = _IOW(0x99, vcpu.kvm_mp_state);
export const KVM_NMI = _IO(0x9a);
export const KVM_SET_GUEST_DEBUG = _IOW(0x9b, vcpu.kvm_guest_debug);
export const KVM_GET_VCPU_EVENTS = _IOR(0x9f, vcpu.kvm_vcpu_events);
export const KVM_SET_VCPU_EVENTS = _IOW(0xa0, vcpu.kvm_vcpu_events);
export const KVM_GET_DEBUGREGS = _IOR(0xa1, vcpu.kvm_debugregs);
export const KVM_SET_DEBUGREGS = _IOW(0xa2, vcpu.kvm_debugregs);
export const KVM_SET_TSC_KHZ = _IO(0xa2);
export const KVM_GET_TSC_KHZ = _IO(0xa3);
export const KVM_GET_XSAVE = _IOR(0xa4, vcpu.kvm_xsave);
export const KVM_SET_XSAVE = _IOW(0xa5, vcpu.kvm_xsave);
export const KVM_GET_XCRS = _IOR(0xa6, vcpu.kvm_xcrs);
export const KVM_SET_XCRS = _IOW(0xa7, vcpu.kvm_xcrs);
export const KVM_KVMCLOCK_CTRL = _IO(0xad);
/** Its argument is as long as KVM_CHECK_EXTENSION(KVM_CAP_XSAVE2) says; the number has the classic size. */
export const KVM_GET_XSAVE2 = _IOR(0xcf, vcpu.kvm_xsave);
