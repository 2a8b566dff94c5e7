/**
 * ACPI power management registers (ACPI 6.5 section 4.8): power button, sleep control with S5, PM timer and one
 * general-purpose event block. {@link PM} is the layout the FADT and the board describe and mount.
 *
 * There is no SMI command port: the machine is always in ACPI mode and SCI_EN always reads 1 (the FADT's SMI_CMD is
 * 0). The machine is reset through port 0xCF9, see `legacy/reset-control.ts`.
 *
 * No register is latched: the PM timer and its status bit change with time alone, so a word somebody published would
 * be old when it is read; the others are read once in an interrupt.
 */
import type { Timer } from '../clock.ts';
import type { AccessSize, Device, DeviceContext, DeviceState } from '../device.ts';
import { SavedState } from '../saved-state.ts';

/** Register blocks: offsets from the start of the device and lengths in bytes. */
export const PM = {
  /** Ports the device occupies. */
  SIZE: 32,
  /** PM1a event block: status and enable, two bytes each. */
  PM1A_EVT: 0,
  PM1A_EVT_LEN: 4,
  PM1A_CNT: 4,
  PM1A_CNT_LEN: 2,
  PM_TMR: 8,
  PM_TMR_LEN: 4,
  /** General-purpose event block 0: status and enable, two bytes each. */
  GPE0: 16,
  GPE0_LEN: 4,
} as const;

/** SLP_TYP of S5, soft off: the first value of the DSDT's \_S5 package. */
export const S5_SLEEP_TYPE = 5;

/** Frequency of the PM timer (section 4.8.2.1). */
export const PM_TIMER_HZ = 3579545;

/** PM1 status and enable bits (sections 4.8.3.1.1 and 4.8.3.1.2). */
export const TMR_STS = 0x0001;
export const GBL_STS = 0x0020;
export const PWRBTN_STS = 0x0100;
const RTC_STS = 0x0400;
export const WAK_STS = 0x8000;
const PM1_STATUS = TMR_STS | GBL_STS | PWRBTN_STS | RTC_STS | WAK_STS;
const PM1_ENABLES = TMR_STS | GBL_STS | PWRBTN_STS | RTC_STS;

/** PM1 control bits (section 4.8.3.2.1). */
export const SCI_EN = 0x0001;
const BM_RLD = 0x0002;
const SLP_TYP_SHIFT = 10;
const SLP_TYP = 0x1c00;
export const SLP_EN = 0x2000;

const NS_PER_SECOND = 1e9;

/** Options of {@link AcpiPm}. */
export interface AcpiPmOptions {
  /** Width of the PM timer; 32 needs TMR_VAL_EXT in the FADT. Default 24, which every FADT means without it. */
  timerBits?: 24 | 32;
}

/** PM1a, PM timer and GPE0; IRQ 0 of the context is the SCI, level-triggered. */
export class AcpiPm implements Device {
  readonly name = 'acpi-pm';
  readonly #timerRange: number;
  #context: DeviceContext | undefined;
  #timer: Timer | undefined;
  #irqLevel = false;

  #status = 0;
  #enable = 0;
  /** SLP_TYP and BM_RLD as written. */
  #control = 0;
  #gpeStatus = 0;
  #gpeEnable = 0;
  /** The half period of the timer up to which TMR_STS has been looked at. */
  #seenHalf = 0;

  constructor(options: AcpiPmOptions = {}) {
    this.#timerRange = 2 ** (options.timerBits ?? 24);
  }

  attach(context: DeviceContext): void {
    this.#context = context;
    this.#seenHalf = this.#half;
    this.#update(true);
  }

  /** The power button: with it enabled by the guest an orderly shutdown begins. */
  pressPowerButton(): void {
    this.#status |= PWRBTN_STS;
    this.#update();
  }

  /**
   * A general-purpose event.
   * @param bit 0-15, the number of the \_GPE._Lxx or _Exx method
   */
  raiseGpe(bit: number): void {
    this.#gpeStatus |= (1 << bit) & 0xffff;
    this.#update();
  }

  read(offset: number, size: AccessSize): number {
    this.#collect();
    // One look at the clock: the bytes of the timer belong together.
    const ticks = this.#ticks % this.#timerRange;
    let value = 0;
    for (let i = 0; i < size; i++) value += this.#byte(offset + i, ticks) * 2 ** (8 * i);
    this.#update();
    return value;
  }

  #byte(offset: number, ticks: number): number {
    const high = 8 * (offset & 1);
    switch (offset & ~1) {
      case PM.PM1A_EVT:
        return (this.#status >> high) & 0xff;
      case PM.PM1A_EVT + 2:
        return (this.#enable >> high) & 0xff;
      case PM.PM1A_CNT:
        return ((this.#control | SCI_EN) >> high) & 0xff;
      case PM.PM_TMR:
      case PM.PM_TMR + 2:
        return Math.floor(ticks / 2 ** (8 * (offset - PM.PM_TMR))) & 0xff;
      case PM.GPE0:
        return (this.#gpeStatus >> high) & 0xff;
      case PM.GPE0 + 2:
        return (this.#gpeEnable >> high) & 0xff;
      default:
        return 0;
    }
  }

  write(offset: number, size: AccessSize, value: number): void {
    this.#collect();
    for (let i = 0; i < size; i++) this.#writeByte(offset + i, Math.floor(value / 2 ** (8 * i)) & 0xff);
    this.#update();
  }

  #writeByte(offset: number, byte: number): void {
    const high = 8 * (offset & 1);
    const bits = byte << high;
    const merge = (old: number, mask: number) => (old & ~(0xff << high)) | (bits & mask);
    switch (offset & ~1) {
      case PM.PM1A_EVT:
        this.#status &= ~bits;
        return;
      case PM.PM1A_EVT + 2:
        this.#enable = merge(this.#enable, PM1_ENABLES);
        return;
      case PM.PM1A_CNT:
        this.#control = merge(this.#control, SLP_TYP | BM_RLD);
        if (bits & SLP_EN) this.#sleep((this.#control & SLP_TYP) >> SLP_TYP_SHIFT);
        return;
      case PM.GPE0:
        this.#gpeStatus &= ~bits;
        return;
      case PM.GPE0 + 2:
        this.#gpeEnable = merge(this.#gpeEnable, 0xffff);
        return;
    }
  }

  #sleep(type: number): void {
    if (type === S5_SLEEP_TYPE) {
      this.#context?.stop({ kind: 'poweroff', by: 'ACPI S5' });
      return;
    }
    // No other state is offered in the DSDT; a guest that waits for the wake-up goes on at once.
    this.#context?.log(
      'warn',
      `acpi-pm: the guest asked for sleep type ${type}, which this machine has not.`,
    );
    this.#status |= WAK_STS;
  }

  // Timer and interrupt ----------------------------------------------------------------------------------------

  /** Ticks of the PM timer since guest time 0. */
  get #ticks(): number {
    return Math.floor(((this.#context?.clock.now() ?? 0) * PM_TIMER_HZ) / NS_PER_SECOND);
  }

  /** Counts changes of the timer's top bit, which is what sets TMR_STS. */
  get #half(): number {
    return Math.floor(this.#ticks / (this.#timerRange / 2));
  }

  #collect(): void {
    const half = this.#half;
    if (half > this.#seenHalf) this.#status |= TMR_STS;
    this.#seenHalf = half;
  }

  #update(force = false): void {
    const context = this.#context;
    if (context === undefined) return;
    this.#collect();
    const level = (this.#status & this.#enable) !== 0 || (this.#gpeStatus & this.#gpeEnable) !== 0;
    if (level !== this.#irqLevel || force) {
      this.#irqLevel = level;
      if (level) context.irq().raise();
      else context.irq().lower();
    }
    this.#timer?.cancel();
    this.#timer = undefined;
    if ((this.#enable & TMR_STS) === 0 || (this.#status & TMR_STS) !== 0) return;
    const nextHalf = (this.#seenHalf + 1) * (this.#timerRange / 2);
    const deadline = Math.ceil((nextHalf * NS_PER_SECOND) / PM_TIMER_HZ) + 1;
    this.#timer = context.clock.setTimer(deadline, () => this.#update());
  }

  // Life cycle -------------------------------------------------------------------------------------------------

  reset(): void {
    this.#status = this.#enable = this.#control = this.#gpeStatus = this.#gpeEnable = 0;
    this.#seenHalf = this.#half;
    this.#update(true);
  }

  save(): DeviceState {
    this.#collect();
    return {
      status: this.#status,
      enable: this.#enable,
      control: this.#control,
      gpeStatus: this.#gpeStatus,
      gpeEnable: this.#gpeEnable,
      seenHalf: this.#seenHalf,
    };
  }

  /** @throws TSV_E_STATE */
  restore(state: DeviceState): void {
    const saved = new SavedState(this.name, state);
    const status = saved.int('status', PM1_STATUS) & PM1_STATUS;
    const enable = saved.int('enable', PM1_ENABLES) & PM1_ENABLES;
    const control = saved.int('control', SLP_TYP | BM_RLD) & (SLP_TYP | BM_RLD);
    const gpeStatus = saved.int('gpeStatus', 0xffff);
    const gpeEnable = saved.int('gpeEnable', 0xffff);
    const seenHalf = saved.int('seenHalf', Number.MAX_SAFE_INTEGER);
    this.#status = status;
    this.#enable = enable;
    this.#control = control;
    this.#gpeStatus = gpeStatus;
    this.#gpeEnable = gpeEnable;
    this.#seenHalf = seenHalf;
    this.#update(true);
  }
}
