/** XMM and YMM registers and MXCSR within the area that KVM_GET_XSAVE returns (SDM vol. 1 13.4). */
import type { AssistCpu } from './cpu.ts';

/** Offsets in the XSAVE area. */
export const XSAVE = {
  FCW: 0,
  FSW: 2,
  FTW: 4,
  MXCSR: 24,
  MXCSR_MASK: 28,
  ST0: 32,
  XMM0: 160,
  LEGACY_SIZE: 416,
  XSTATE_BV: 512,
  XCOMP_BV: 520,
  HEADER_END: 576,
  YMM0_HIGH: 576,
} as const;

/** State component bits of XCR0 and XSTATE_BV. */
export const XSTATE = { X87: 1n << 0n, SSE: 1n << 1n, AVX: 1n << 2n } as const;

/** Values after reset (SDM vol. 1 13.6). */
export const FCW_INIT = 0x037f;
export const MXCSR_INIT = 0x1f80;

/** The vector state of one vCPU. */
export class VectorState {
  readonly #cpu: AssistCpu;
  /** The whole area in standard format. */
  readonly area: Uint8Array;
  readonly #view: DataView;
  #changed = false;
  #xcr0: bigint | undefined;
  #xcr0Changed = false;

  constructor(cpu: AssistCpu) {
    this.#cpu = cpu;
    this.area = cpu.get('xsave').slice();
    this.#view = new DataView(this.area.buffer);
    this.#materialise();
  }

  /** Components in their initial state may have stale bytes in the area; give them their values. */
  #materialise(): void {
    const present = this.present;
    if ((present & XSTATE.X87) === 0n) {
      this.area.fill(0, XSAVE.FCW, XSAVE.MXCSR);
      this.area.fill(0, XSAVE.ST0, XSAVE.XMM0);
      this.#view.setUint16(XSAVE.FCW, FCW_INIT, true);
    }
    if ((present & XSTATE.SSE) === 0n) this.area.fill(0, XSAVE.XMM0, XSAVE.LEGACY_SIZE);
    if ((present & XSTATE.AVX) === 0n) this.area.fill(0, XSAVE.YMM0_HIGH, XSAVE.YMM0_HIGH + 256);
  }

  /** XSTATE_BV: components not in their initial state. */
  get present(): bigint {
    return this.#view.getBigUint64(XSAVE.XSTATE_BV, true);
  }
  set present(bits: bigint) {
    this.#view.setBigUint64(XSAVE.XSTATE_BV, bits, true);
    this.#changed = true;
  }

  /** Says that the area was changed and which components are in use now. */
  touch(components: bigint): void {
    this.present |= components;
  }

  get xcr0(): bigint {
    this.#xcr0 ??= this.#cpu.get('xcrs').find(({ xcr }) => xcr === 0)?.value ?? 1n;
    return this.#xcr0;
  }
  set xcr0(value: bigint) {
    this.#xcr0 = value;
    this.#xcr0Changed = true;
  }

  get mxcsr(): number {
    return this.#view.getUint32(XSAVE.MXCSR, true);
  }
  set mxcsr(value: number) {
    this.#view.setUint32(XSAVE.MXCSR, value, true);
    // The initial value belongs to the initial state of the SSE component.
    this.touch(value === MXCSR_INIT ? 0n : XSTATE.SSE);
  }

  /** A live view of an XMM register; call {@link touch} after writing. */
  xmm(number: number): Uint8Array {
    return this.area.subarray(XSAVE.XMM0 + number * 16, XSAVE.XMM0 + number * 16 + 16);
  }

  /** A live view of the upper half of a YMM register. */
  ymmHigh(number: number): Uint8Array {
    return this.area.subarray(XSAVE.YMM0_HIGH + number * 16, XSAVE.YMM0_HIGH + number * 16 + 16);
  }

  /** A copy of a register, 16 or 32 bytes. */
  get(number: number, size: number): Uint8Array {
    const value = new Uint8Array(size);
    value.set(this.xmm(number));
    if (size === 32) value.set(this.ymmHigh(number), 16);
    return value;
  }

  /**
   * Writes a register from its low end. A VEX-encoded instruction zeroes what it does not write up to bit 255; a
   * legacy one leaves it (SDM vol. 1 14.1.1).
   */
  set(number: number, value: Uint8Array, vex: boolean): void {
    const low = this.xmm(number);
    low.set(value.subarray(0, 16));
    if (vex) {
      low.fill(0, Math.min(value.length, 16));
      const high = this.ymmHigh(number);
      high.fill(0);
      high.set(value.subarray(16));
    }
    this.touch(vex ? XSTATE.SSE | XSTATE.AVX : XSTATE.SSE);
  }

  /** Writes back what changed. */
  commit(): void {
    if (this.#xcr0Changed) {
      const others = this.#cpu.get('xcrs').filter(({ xcr }) => xcr !== 0);
      this.#cpu.set('xcrs', [{ xcr: 0, value: this.xcr0 }, ...others]);
    }
    if (this.#changed) this.#cpu.set('xsave', this.area);
  }
}
