/** Accesses to linear addresses for operations written in TypeScript. */
import type { Cpu } from '../cpu.ts';
import { ACCESS } from '../emit/access.ts';
import { PAGE, S } from '../layout.ts';
import { alignmentOf } from '../mmu/mmu.ts';
import { WALK } from '../mmu/walk.ts';
import { DeviceExit, GuestFault, VECTOR } from './fault.ts';

const MASK64 = (1n << 64n) - 1n;
/** Bytes of the largest operand that is one value. */
const LARGEST_OPERAND = 16;

/** Whether bits 47 to 63 of an address are the same. */
export function isCanonical(linear: bigint): boolean {
  return BigInt.asUintN(64, BigInt.asIntN(48, linear)) === linear;
}

/** Reads and writes guest memory by linear address; throws GuestFault, or DeviceExit. */
export class LinearMemory {
  readonly #cpu: Cpu;
  readonly #buffer = new Uint8Array(16);
  readonly #view = new DataView(this.#buffer.buffer);

  /**
   * Device memory reads as all ones and takes no writes. Set while an exception is delivered: that cannot be left and
   * repeated, and tables or stacks in device memory are of no use to a guest.
   */
  withoutDevices = false;

  constructor(cpu: Cpu) {
    this.#cpu = cpu;
  }

  /**
   * The address in the memory of an operand that can be had at one (Mmu.direct).
   * @returns -1 when there is none, or only with a fault: {@link read}, {@link write} and {@link probe} find out
   * @throws GuestFault #AC; images of many bytes have rules of their own about alignment
   */
  host(linear: bigint, bytes: number, access: number): number {
    const low = Number(linear & 0xffff_ffffn) | 0;
    if ((low & (PAGE - 1)) + bytes > PAGE) return -1;
    const host = this.#cpu.mmu.direct(low, Number(linear >> 32n) | 0, access);
    if (host >= 0 && bytes <= LARGEST_OPERAND) this.#align(linear, bytes);
    return host;
  }

  /** Reads bytes. `system`: with supervisor privilege whatever CPL is (descriptor tables, TSS). */
  read(linear: bigint, into: Uint8Array, system = false): void {
    const { map, state, log } = this.#cpu;
    if (!system) this.#look(linear, into.length, ACCESS.read);
    for (let done = 0; done < into.length; ) {
      const gpa = this.#walk(linear + BigInt(done), ACCESS.read, system);
      const length = Math.min(into.length - done, PAGE - (gpa & (PAGE - 1)));
      const host = map.host(gpa);
      const piece = into.subarray(done, done + length);
      if (host >= 0) piece.set(state.bytes.subarray(host, host + length));
      else if (this.withoutDevices) piece.fill(0xff);
      else if (!log.read(gpa, piece)) throw new DeviceExit();
      done += length;
    }
  }

  /** Writes bytes; nothing is written when any of them may not be. */
  write(linear: bigint, from: Uint8Array, system = false): void {
    const { mmu, map, state, log } = this.#cpu;
    if (!system) this.#look(linear, from.length, ACCESS.write);
    const pieces: { gpa: number; start: number; length: number }[] = [];
    for (let done = 0; done < from.length; ) {
      const gpa = this.#walk(linear + BigInt(done), ACCESS.write, system);
      const length = Math.min(from.length - done, PAGE - (gpa & (PAGE - 1)));
      pieces.push({ gpa, start: done, length });
      done += length;
    }
    for (const { gpa, start, length } of pieces) {
      const host = map.host(gpa, true);
      const piece = from.subarray(start, start + length);
      if (host >= 0) {
        state.bytes.set(piece, host);
        mmu.touched(host, length);
      } else if (!this.withoutDevices && !log.write(gpa, piece)) throw new DeviceExit();
    }
  }

  /** Sets bits of a byte with supervisor privilege, as one access to memory that other vCPUs share. */
  setBits(linear: bigint, bits: number): void {
    const { mmu, map, state } = this.#cpu;
    const host = map.host(this.#walk(linear, ACCESS.modify, true));
    if (host < 0) {
      this.set(linear, this.get(linear, 1, true) | BigInt(bits), 1, true);
      return;
    }
    if ((Atomics.or(state.bytes, host, bits) & bits) !== bits) mmu.touched(host, 1);
  }

  /** Checks that a range may be accessed. */
  probe(linear: bigint, length: number, access: number, system = false): void {
    for (let at = linear; at < linear + BigInt(length); at = (at & ~0xfffn) + 0x1000n)
      this.#walk(at, access, system);
  }

  /** Data breakpoints: an access that hits one outside of a single step abandons the instruction. */
  #look(linear: bigint, bytes: number, access: number): void {
    const { breakpoints } = this.#cpu.mmu;
    if (breakpoints === undefined || this.withoutDevices) return;
    const low = Number(linear & 0xffff_ffffn) | 0;
    const high = Number((linear & MASK64) >> 32n) | 0;
    if (!breakpoints.access(low, high, bytes, access)) throw new DeviceExit();
  }

  /** @throws GuestFault #AC where user code must align what it accesses */
  #align(linear: bigint, bytes: number): void {
    if (this.#cpu.mmu.checksAlignment && linear & BigInt(alignmentOf(bytes) - 1))
      throw new GuestFault(VECTOR.AC);
  }

  #walk(linear: bigint, access: number, system: boolean): number {
    const { mmu, state } = this.#cpu;
    const low = Number(linear & 0xffff_ffffn) | 0;
    const high = Number((linear & MASK64) >> 32n) | 0;
    const result = mmu.walker.walk(low, high, access, !system && state.cpl === 3);
    if (result === WALK.ok) return mmu.walker.physical;
    if (result === WALK.notCanonical) throw new GuestFault(VECTOR.GP);
    state.setU64(S.CR2, linear);
    throw new GuestFault(VECTOR.PF, mmu.walker.error);
  }

  /** An unsigned little-endian number of 1, 2, 4 or 8 bytes. */
  get(linear: bigint, bytes: number, system = false): bigint {
    this.#view.setBigUint64(0, 0n);
    this.read(linear, this.#buffer.subarray(0, bytes), system);
    if (!system) this.#align(linear, bytes);
    return this.#view.getBigUint64(0, true);
  }

  set(linear: bigint, value: bigint, bytes: number, system = false): void {
    this.#view.setBigUint64(0, value & MASK64, true);
    if (!system) this.#align(linear, bytes);
    this.write(linear, this.#buffer.subarray(0, bytes), system);
  }
}
