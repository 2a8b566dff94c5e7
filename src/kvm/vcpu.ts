/** A vCPU of the kvm engine, in its worker thread (KVM api.rst, vCPU ioctls). */
import { TsvError } from '../errors.ts';
import type { EngineVcpu, GuestDebug, StateKey, VcpuPort } from '../vcpu/engine.ts';
import type { Msr, Translation, VcpuState, Xcr } from '../vcpu/state.ts';
import * as abi from './abi/index.ts';
import { ioctlError, KvmFd, MAX_CPUID_ENTRIES } from './fd.ts';
import { loadNative } from './native.ts';

const MAP_SHARED = 1;
const MAP_PRIVATE = 2;

/** The engine-specific part of a {@link VcpuPort}. */
export interface KvmVcpuDetail {
  vmFd: number;
  /** KVM's vcpu_id, which is the local APIC's id (KVM api.rst 4.7). */
  vcpuId: number;
  /** Shared memory over which struct kvm_run is mapped. */
  run: SharedArrayBuffer;
  runSize: number;
  msrIndices: number[];
}

/** Reads and writes one state component. */
interface Accessor<T> {
  get(vcpu: KvmVcpu): T;
  set(vcpu: KvmVcpu, value: T): void;
}

function plain<T>(
  codec: { size: number; encode(value: T): Uint8Array; decode(bytes: Uint8Array): T },
  get: number,
  set: number,
): Accessor<T> {
  return {
    get(vcpu) {
      const bytes = new Uint8Array(codec.size);
      vcpu.fd.ioctl(get, bytes);
      return codec.decode(bytes);
    },
    set: (vcpu, value) => {
      vcpu.fd.ioctl(set, codec.encode(value));
    },
  };
}

const blob = (size: number, get: number, set: number): Accessor<Uint8Array> =>
  plain({ size, encode: (value) => value, decode: (bytes) => bytes }, get, set);

const ACCESSORS: { [K in StateKey]: Accessor<VcpuState[K]> } = {
  regs: plain(abi.kvm_regs, abi.KVM_GET_REGS, abi.KVM_SET_REGS),
  sregs: plain(abi.kvm_sregs, abi.KVM_GET_SREGS, abi.KVM_SET_SREGS),
  fpu: plain(abi.kvm_fpu, abi.KVM_GET_FPU, abi.KVM_SET_FPU),
  xsave: blob(abi.kvm_xsave.size, abi.KVM_GET_XSAVE, abi.KVM_SET_XSAVE),
  xcrs: plain(
    { size: abi.kvm_xcrs.size, encode: (xcrs: Xcr[]) => abi.encodeXcrs(xcrs), decode: abi.decodeXcrs },
    abi.KVM_GET_XCRS,
    abi.KVM_SET_XCRS,
  ),
  debugregs: plain(abi.kvm_debugregs, abi.KVM_GET_DEBUGREGS, abi.KVM_SET_DEBUGREGS),
  lapic: blob(abi.kvm_lapic_state.size, abi.KVM_GET_LAPIC, abi.KVM_SET_LAPIC),
  events: plain(abi.kvm_vcpu_events, abi.KVM_GET_VCPU_EVENTS, abi.KVM_SET_VCPU_EVENTS),
  mp_state: plain(
    {
      size: abi.kvm_mp_state.size,
      encode: (mp_state: number) => abi.kvm_mp_state.encode({ mp_state }),
      decode: (bytes) => abi.kvm_mp_state.decode(bytes).mp_state,
    },
    abi.KVM_GET_MP_STATE,
    abi.KVM_SET_MP_STATE,
  ),
  tsc_khz: {
    get: (vcpu) => vcpu.fd.ioctl(abi.KVM_GET_TSC_KHZ, 0),
    set: (vcpu, value) => {
      vcpu.fd.ioctl(abi.KVM_SET_TSC_KHZ, value);
    },
  },
  cpuid: {
    get(vcpu) {
      const bytes = abi.kvm_cpuid2.allocate(MAX_CPUID_ENTRIES);
      vcpu.fd.ioctl(abi.KVM_GET_CPUID2, bytes);
      return abi.kvm_cpuid2.decode(bytes);
    },
    set: (vcpu, value) => {
      vcpu.fd.ioctl(abi.KVM_SET_CPUID2, abi.kvm_cpuid2.encode(value));
    },
  },
  msrs: {
    get: (vcpu) => vcpu.readableMsrs(),
    set: (vcpu, value) => vcpu.setMsrs(value),
  },
};

/** A KVM vCPU; create and use it on one thread. */
export class KvmVcpu implements EngineVcpu {
  readonly run: Uint8Array;
  readonly fd: KvmFd;
  readonly #enter: () => number;
  readonly #msrIndices: number[];

  constructor(port: VcpuPort) {
    const native = loadNative();
    const detail = port.detail as KvmVcpuDetail;
    const fd = native.ioctl(detail.vmFd, abi.KVM_CREATE_VCPU, detail.vcpuId);
    if (fd < 0) throw ioctlError('KVM_CREATE_VCPU', fd);
    this.fd = new KvmFd(native, fd);
    this.run = new Uint8Array(detail.run, 0, detail.runSize);
    this.fd.check('mmap of kvm_run', native.mapFixed(this.run, fd, 0, MAP_SHARED));
    this.fd.check('sigaction', native.enableKick());
    this.#enter = () => native.run(fd);
    this.#msrIndices = detail.msrIndices;
  }

  enter(): number {
    return this.#enter();
  }

  get<K extends StateKey>(key: K): VcpuState[K] {
    return ACCESSORS[key].get(this);
  }

  set<K extends StateKey>(key: K, value: VcpuState[K]): void {
    ACCESSORS[key].set(this, value);
  }

  getMsrs(indices: readonly number[]): Msr[] {
    const bytes = abi.kvm_msrs.encode(indices.map((index) => ({ index, data: 0n })));
    const done = this.fd.ioctl(abi.KVM_GET_MSRS, bytes);
    if (done < indices.length) throw refused('read', indices[done]);
    return abi.kvm_msrs.decode(bytes);
  }

  setMsrs(msrs: readonly Msr[]): void {
    const done = this.fd.ioctl(abi.KVM_SET_MSRS, abi.kvm_msrs.encode(msrs));
    if (done < msrs.length) throw refused('written', msrs[done].index);
  }

  /** All MSRs of the saved state; those that this vCPU's CPUID does not have are left out. */
  readableMsrs(): Msr[] {
    const msrs: Msr[] = [];
    let rest = this.#msrIndices;
    while (rest.length > 0) {
      const bytes = abi.kvm_msrs.encode(rest.map((index) => ({ index, data: 0n })));
      const done = this.fd.ioctl(abi.KVM_GET_MSRS, bytes);
      msrs.push(...abi.kvm_msrs.decode(bytes).slice(0, done));
      // KVM stops at the first it refuses; go on behind it.
      rest = rest.slice(done + 1);
    }
    return msrs;
  }

  translate(linear: bigint): Translation {
    const bytes = abi.kvm_translation.encode({
      linear_address: linear,
      physical_address: 0n,
      valid: 0,
      writeable: 0,
      usermode: 0,
    });
    this.fd.ioctl(abi.KVM_TRANSLATE, bytes);
    return abi.kvm_translation.decode(bytes);
  }

  setGuestDebug({ control, debugregs }: GuestDebug): void {
    // struct kvm_guest_debug keeps DR0-3 in debugreg[0..3] and DR7 in debugreg[7].
    const debugreg = [...debugregs.db, 0n, 0n, 0n, debugregs.dr7];
    this.fd.ioctl(abi.KVM_SET_GUEST_DEBUG, abi.kvm_guest_debug.encode({ control, arch: { debugreg } }));
  }

  interrupt(vector: number): void {
    this.fd.ioctl(abi.KVM_INTERRUPT, abi.kvm_interrupt.encode({ irq: vector }));
  }

  nmi(): void {
    this.fd.ioctl(abi.KVM_NMI);
  }

  announcePause(): void {
    // Fails where the guest does not use kvm-clock: then there is nobody to tell.
    this.fd.tryIoctl(abi.KVM_KVMCLOCK_CTRL);
  }

  close(): void {
    // The mapping holds the vCPU, and with it the VM, alive: replace it before closing.
    this.fd.native.mapFixed(this.run, -1, 0, MAP_PRIVATE);
    this.fd.close();
  }
}

function refused(done: string, index: number): TsvError {
  return new TsvError('TSV_E_IOCTL', `MSR 0x${index.toString(16)} cannot be ${done} on this vCPU.`, {
    hint: "Check that the vCPU's CPUID has the feature the MSR belongs to.",
  });
}

/** Opens a vCPU in the calling thread. */
export function openVcpu(port: VcpuPort): EngineVcpu {
  return new KvmVcpu(port);
}
