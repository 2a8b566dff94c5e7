/** The run area of a tcg vCPU: its exits in the layout of struct kvm_run, and the answers to them. */
import * as run from '../kvm/abi/run.ts';
import type { DeviceAccess } from './exits.ts';
import { RUN_PIO_DATA } from './layout.ts';

/** Writes exits and reads answers. */
export class RunArea {
  readonly bytes: Uint8Array;
  readonly #view: DataView;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** Whether the vCPU shall come back without running on. */
  get immediateExit(): boolean {
    return Atomics.load(this.bytes, run.KVM_RUN_IMMEDIATE_EXIT) !== 0;
  }

  exit(reason: number): void {
    this.#view.setUint32(run.KVM_RUN_EXIT_REASON, reason, true);
  }

  /** KVM_EXIT_IO or KVM_EXIT_MMIO. */
  access(reasons: { io: number; mmio: number }, { kind, address, write, data }: DeviceAccess): void {
    const view = this.#view;
    if (kind === 'port') {
      this.exit(reasons.io);
      view.setUint8(run.KVM_RUN_IO_DIRECTION, write ? 1 : 0);
      view.setUint8(run.KVM_RUN_IO_SIZE, data.length);
      view.setUint16(run.KVM_RUN_IO_PORT, address, true);
      view.setUint32(run.KVM_RUN_IO_COUNT, 1, true);
      view.setBigUint64(run.KVM_RUN_IO_DATA_OFFSET, BigInt(RUN_PIO_DATA), true);
      if (write) this.bytes.set(data, RUN_PIO_DATA);
      return;
    }
    this.exit(reasons.mmio);
    view.setBigUint64(run.KVM_RUN_MMIO_PHYS_ADDR, BigInt(address), true);
    view.setUint32(run.KVM_RUN_MMIO_LEN, data.length, true);
    view.setUint8(run.KVM_RUN_MMIO_IS_WRITE, write ? 1 : 0);
    if (write) this.bytes.set(data, run.KVM_RUN_MMIO_DATA);
  }

  /** Takes over what a read has given. */
  answer({ kind, write, data }: DeviceAccess): void {
    if (write) return;
    const at = kind === 'port' ? RUN_PIO_DATA : run.KVM_RUN_MMIO_DATA;
    data.set(this.bytes.subarray(at, at + data.length));
  }

  /** KVM_EXIT_IOAPIC_EOI. */
  eoi(reason: number, vector: number): void {
    this.exit(reason);
    this.#view.setUint8(run.KVM_RUN_EOI_VECTOR, vector);
  }

  /** KVM_EXIT_DEBUG. */
  debug(reason: number, exception: number, pc: bigint, dr6: bigint, dr7: bigint): void {
    this.exit(reason);
    this.#view.setUint32(run.KVM_RUN_DEBUG_EXCEPTION, exception, true);
    this.#view.setBigUint64(run.KVM_RUN_DEBUG_PC, pc, true);
    this.#view.setBigUint64(run.KVM_RUN_DEBUG_DR6, dr6, true);
    this.#view.setBigUint64(run.KVM_RUN_DEBUG_DR7, dr7, true);
  }
}
