/** /dev/kvm itself: what the host offers, and the creation of VMs (KVM api.rst, system ioctls). */
import { TsvError } from '../errors.ts';
import type { CpuidEntry, Msr } from '../vcpu/state.ts';
import {
  KVM_API_VERSION,
  KVM_CREATE_VM,
  KVM_GET_API_VERSION,
  KVM_GET_EMULATED_CPUID,
  KVM_GET_MSR_FEATURE_INDEX_LIST,
  KVM_GET_MSR_INDEX_LIST,
  KVM_GET_MSRS,
  KVM_GET_SUPPORTED_CPUID,
  KVM_GET_VCPU_MMAP_SIZE,
  kvm_cpuid2,
  kvm_msr_list,
  kvm_msrs,
} from './abi/index.ts';
import { ioctlError, KvmFd, MAX_CPUID_ENTRIES, requestName } from './fd.ts';
import { errnoName, loadNative, type Native } from './native.ts';

const O_RDWR = 2;
const E2BIG = -7;

/** Options of {@link KvmSystem.open}. */
export interface KvmSystemOptions {
  /** Device node; default /dev/kvm. */
  path?: string;
  native?: Native;
}

/** An open /dev/kvm. */
export class KvmSystem implements Disposable {
  readonly native: Native;
  readonly fd: KvmFd;

  private constructor(native: Native, fd: number) {
    this.native = native;
    this.fd = new KvmFd(native, fd);
  }

  /**
   * Opens /dev/kvm and checks its API version.
   * @throws TSV_E_ADDON_MISSING, TSV_E_KVM_MISSING, TSV_E_KVM_PERMISSION, TSV_E_KVM_BUSY, TSV_E_KVM_CAPABILITY
   */
  static open({ path = '/dev/kvm', native = loadNative() }: KvmSystemOptions = {}): KvmSystem {
    const fd = native.open(path, O_RDWR);
    if (fd < 0) throw openError(path, fd);
    const version = native.ioctl(fd, KVM_GET_API_VERSION);
    if (version !== KVM_API_VERSION) {
      native.close(fd);
      const found = version < 0 ? 'does not answer like KVM' : `has KVM API version ${version}`;
      throw new TsvError('TSV_E_KVM_CAPABILITY', `${path} ${found}; version ${KVM_API_VERSION} is needed.`, {
        hint: 'Use the KVM of a Linux kernel 2.6.22 or later.',
      });
    }
    return new KvmSystem(native, fd);
  }

  /** KVM_CHECK_EXTENSION. */
  extension(capability: number): number {
    return this.fd.extension(capability);
  }

  /** Bytes of a vCPU's run area (KVM_GET_VCPU_MMAP_SIZE). */
  vcpuMmapSize(): number {
    return this.fd.ioctl(KVM_GET_VCPU_MMAP_SIZE);
  }

  /** CPUID leaves that KVM can run on this host. */
  supportedCpuid(): CpuidEntry[] {
    return this.#cpuid(KVM_GET_SUPPORTED_CPUID);
  }

  /** CPUID features that KVM emulates although the processor lacks them. */
  emulatedCpuid(): CpuidEntry[] {
    return this.#cpuid(KVM_GET_EMULATED_CPUID);
  }

  /** MSRs that belong to a guest's saved state. */
  msrIndices(): number[] {
    return this.#msrList(KVM_GET_MSR_INDEX_LIST);
  }

  /** MSRs that tell what the host's processor and KVM can do, with their values. */
  featureMsrs(): Msr[] {
    return this.#msrList(KVM_GET_MSR_FEATURE_INDEX_LIST).flatMap((index) => {
      const bytes = kvm_msrs.encode([{ index, data: 0n }]);
      return this.fd.tryIoctl(KVM_GET_MSRS, bytes) === 1 ? kvm_msrs.decode(bytes) : [];
    });
  }

  /** KVM_CREATE_VM. @throws TSV_E_KVM_BUSY, TSV_E_IOCTL */
  createVm(): KvmFd {
    const fd = this.fd.tryIoctl(KVM_CREATE_VM, 0);
    if (fd >= 0) return new KvmFd(this.native, fd);
    if (errnoName(fd) === 'EBUSY') {
      throw new TsvError(
        'TSV_E_KVM_BUSY',
        'Another hypervisor holds the virtualisation extensions of the processor.',
        {
          hint: 'Stop the other hypervisor (VirtualBox, VMware, a second KVM) and try again.',
        },
      );
    }
    throw ioctlError(requestName(KVM_CREATE_VM), fd);
  }

  close(): void {
    this.fd.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #cpuid(request: number): CpuidEntry[] {
    const bytes = kvm_cpuid2.allocate(MAX_CPUID_ENTRIES);
    this.fd.ioctl(request, bytes);
    return kvm_cpuid2.decode(bytes);
  }

  #msrList(request: number): number[] {
    const probe = kvm_msr_list.allocate(0);
    const result = this.fd.tryIoctl(request, probe);
    if (result < 0 && result !== E2BIG) throw ioctlError(requestName(request), result);
    // On E2BIG the kernel has written the count it needs.
    const count = new DataView(probe.buffer).getUint32(0, true);
    const list = kvm_msr_list.allocate(count);
    this.fd.ioctl(request, list);
    return kvm_msr_list.decode(list);
  }
}

function openError(path: string, result: number): TsvError {
  const errno = errnoName(result);
  switch (errno) {
    case 'ENOENT':
    case 'ENODEV':
    case 'ENXIO':
      return new TsvError('TSV_E_KVM_MISSING', `${path} is not there: this host offers no KVM.`, {
        hint: 'Load kvm_intel or kvm_amd, enable VT-x/AMD-V in the firmware, or pass --device /dev/kvm to the container.',
      });
    case 'EACCES':
    case 'EPERM':
      return new TsvError('TSV_E_KVM_PERMISSION', `${path} may not be opened by this user.`, {
        hint: 'Join the group that owns it (often "sudo usermod -aG kvm $USER", then log in again).',
      });
    case 'EBUSY':
      return new TsvError('TSV_E_KVM_BUSY', `${path} is busy: another hypervisor uses it exclusively.`, {
        hint: 'Stop the other hypervisor and try again.',
      });
    default:
      return new TsvError('TSV_E_KVM_MISSING', `${path} cannot be opened: ${errno}.`, {
        hint: 'Run "tsvisor doctor" for details.',
      });
  }
}
