/**
 * A local APIC, xAPIC and x2APIC (SDM vol. 3, chapter 11), in its vCPU's thread: what it does with interrupts. How its
 * registers are reached is in apic-access.ts.
 *
 * Its registers are private to the thread; what others post to it arrives in its {@link ApicMailbox}. A run loop calls,
 * in this order, `mailbox.takeWake()`, {@link LocalApic.poll}, the mailbox's take methods for NMI, INIT and SIPI, then
 * {@link LocalApic.externalInterrupt} and {@link LocalApic.pendingVector}; it then runs the guest until
 * {@link LocalApic.nextDeadline} or until the wake word is set. A vCPU in HLT sleeps in the same way.
 *
 * After the same accesses its state is that of KVM's in-kernel APIC, except where KVM departs from the manual: here the
 * error status register works; a vector below 16 is an error, not a request that stays pending; delivery status and
 * remote IRR of LVT entries cannot be written; reserved bits of x2APIC MSRs raise #GP; clearing the enable bit of
 * IA32_APIC_BASE resets the registers; IPIs are always edge-triggered; a periodic timer may be shorter than 200 us.
 */
import type { ApicBus } from './apic-bus.ts';
import { type ApicMailbox, type LintPin, MODE_BITS } from './apic-mailbox.ts';
import {
  APIC,
  APIC_DEFAULT_PHYS_BASE,
  APIC_DEST_LOGICAL,
  APIC_ESR_RECVILL,
  APIC_ESR_SENDILL,
  APIC_INT_ASSERT,
  APIC_INT_LEVELTRIG,
  APIC_LVT_LEVEL_TRIGGER,
  APIC_LVT_MASKED,
  APIC_LVT_REMOTE_IRR,
  APIC_REG_SIZE,
  APIC_SPIV_APIC_ENABLED,
  APIC_VECTOR_MASK,
  APIC_VERSION,
  DELIVERY,
  FIRST_LEGAL_VECTOR,
  LVT_REGISTERS,
  MSR_IA32_APICBASE_BSP,
  MSR_IA32_APICBASE_ENABLE,
  SHORTHAND,
  X2APIC_ENABLE,
  x2apicLogicalId,
} from './apic-registers.ts';
import { ApicTimer, type ApicTimerOptions } from './apic-timer.ts';
import { VectorSet } from './vector-set.ts';

/** What {@link LocalApic} is built from. */
export interface LocalApicOptions extends ApicTimerOptions {
  /** Index of the vCPU and of its mailbox. */
  index: number;
  /** Initial APIC ID; default the index. */
  id?: number;
  /** All local APICs' mailboxes. */
  bus: ApicBus;
  /** A level-triggered interrupt has ended: every I/O APIC must hear of it ({@link IoApic.endOfInterrupt}). */
  onEoi(vector: number): void;
  /** Physical address bits, for IA32_APIC_BASE; 36 to 52. */
  physicalBits: number;
}

/** Bits of IA32_APIC_BASE that are always reserved. */
const APIC_BASE_RESERVED = 0x2ffn;
const LINT_PINS: readonly LintPin[] = [0, 1];
/** LVT0 of a bootstrap processor after reset: the PIC's interrupts reach it before anybody has set up an APIC. */
const LVT0_VIRTUAL_WIRE = DELIVERY.EXTINT << 8;

/** One vCPU's local APIC, created in the state after power-up; vCPU 0 is the bootstrap processor. */
export class LocalApic {
  readonly index: number;
  /** Initial APIC ID, which is also the x2APIC ID. */
  readonly id: number;
  readonly mailbox: ApicMailbox;
  readonly timer: ApicTimer;
  /** Vectors in service. */
  readonly inService = new VectorSet();
  /**
   * The registers that are plain storage, by offset / 16, for apic-access.ts and apic-page.ts; everybody else reads and
   * writes through the former.
   */
  readonly registers = new Uint32Array(APIC_REG_SIZE / 16);
  readonly #bus: ApicBus;
  readonly #onEoi: (vector: number) => void;
  /** CPUID's x2APIC bit: without it that mode cannot be entered. */
  offersX2apic = true;
  readonly #reservedBase: bigint;
  #apicBase = 0n;
  /** Errors since the guest last wrote the error status register. */
  #errors = 0;

  constructor(options: LocalApicOptions) {
    this.index = options.index;
    this.id = options.id ?? options.index;
    this.#bus = options.bus;
    this.mailbox = options.bus.mailboxes[options.index];
    this.timer = new ApicTimer(options);
    this.#onEoi = options.onEoi;
    this.#reservedBase = ~((1n << BigInt(options.physicalBits)) - 1n) | APIC_BASE_RESERVED;
    // Not a reset: what others have posted before this thread came up must not be lost.
    this.#powerUp();
  }

  // The processor's side -----------------------------------------------------------------------------------------

  /** Looks at what time and other threads have brought: timer, interrupt pins, errors. */
  poll(): void {
    if (this.mailbox.takeIllegal()) this.raiseError(APIC_ESR_RECVILL);
    const edges = this.mailbox.takeLintEdges();
    if (edges !== 0) for (const pin of LINT_PINS) if ((edges >> pin) & 1) this.#lintRose(pin);
    if (this.timer.expire()) this.#deliverLocal(APIC.LVTT);
  }

  /** The vector to deliver now if interrupts are enabled, or -1: the highest request above the processor's priority. */
  pendingVector(): number {
    if (!this.isEnabled) return -1;
    const vector = this.mailbox.highestRequest();
    return vector >> 4 > this.processorPriority >> 4 ? vector : -1;
  }

  /** Takes the pending vector into service; the spurious vector when none is pending any more (SDM vol. 3, 11.9). */
  acknowledge(): number {
    const vector = this.pendingVector();
    if (vector < 0) return this.spurious & APIC_VECTOR_MASK;
    this.mailbox.clearRequest(vector);
    this.inService.add(vector);
    this.updatePriority();
    return vector;
  }

  /** Whether the PIC's interrupt reaches this processor: its vector comes from {@link Pic.acknowledge}. */
  externalInterrupt(): boolean {
    if (!this.mailbox.lint(0)) return false;
    const lvt0 = this.#get(APIC.LVT0);
    return !this.isEnabled || ((lvt0 & APIC_LVT_MASKED) === 0 && deliveryMode(lvt0) === DELIVERY.EXTINT);
  }

  /** Guest time in nanoseconds at which {@link poll} has something to do, or Infinity. */
  nextDeadline(): number {
    return (this.#get(APIC.LVTT) & APIC_LVT_MASKED) !== 0 ? Number.POSITIVE_INFINITY : this.timer.deadline;
  }

  /** CR8: the task priority's upper four bits. */
  get cr8(): number {
    return this.#get(APIC.TASKPRI) >> 4;
  }
  set cr8(priority: number) {
    this.#set(APIC.TASKPRI, (priority & 0xf) << 4);
    this.updatePriority();
  }

  // Mode ---------------------------------------------------------------------------------------------------------

  /** IA32_APIC_BASE. */
  get apicBase(): bigint {
    return this.#apicBase;
  }

  /** Guest-physical address of the register page. */
  get base(): number {
    return Number(this.#apicBase & ~0xfffn);
  }

  /** Enabled in IA32_APIC_BASE. */
  get isEnabled(): boolean {
    return (this.#apicBase & MSR_IA32_APICBASE_ENABLE) !== 0n;
  }

  /** In x2APIC mode: registers are MSRs, the page is not there. */
  get isX2apic(): boolean {
    return (this.#apicBase & X2APIC_ENABLE) !== 0n;
  }

  /**
   * Writes IA32_APIC_BASE as the guest does (SDM vol. 3, 11.12.5).
   * @returns false when that raises #GP: reserved bits, x2APIC without the enable bit, or a transition that is not one
   */
  writeApicBase(value: bigint): boolean {
    const enable = (value & MSR_IA32_APICBASE_ENABLE) !== 0n;
    const x2apic = (value & X2APIC_ENABLE) !== 0n;
    if (x2apic && !this.isEnabled) return false;
    if (this.isX2apic && enable && !x2apic) return false;
    return this.loadApicBase(value);
  }

  /** Sets IA32_APIC_BASE from any mode to any other, as loading state does. @returns false when the value cannot be */
  loadApicBase(value: bigint): boolean {
    const enable = (value & MSR_IA32_APICBASE_ENABLE) !== 0n;
    const x2apic = (value & X2APIC_ENABLE) !== 0n;
    if ((value & this.#reservedBase) !== 0n || (x2apic && !(enable && this.offersX2apic))) return false;
    const wasEnabled = this.isEnabled;
    const wasX2apic = this.isX2apic;
    this.#apicBase = value;
    if (wasEnabled && !enable) this.#resetRegisters();
    if (x2apic !== wasX2apic || enable !== wasEnabled) this.#set(APIC.ID, x2apic ? this.id : this.id << 24);
    if (x2apic) this.#set(APIC.LDR, x2apicLogicalId(this.id));
    this.publish();
    return true;
  }

  #powerUp(): void {
    const bsp = this.index === 0 ? MSR_IA32_APICBASE_BSP : 0n;
    this.#apicBase = BigInt(APIC_DEFAULT_PHYS_BASE) | MSR_IA32_APICBASE_ENABLE | bsp;
    this.#set(APIC.ID, this.id << 24);
    this.#resetRegisters();
  }

  /** INIT (SDM vol. 3, 11.4.7.3): all but the APIC ID and the mode. Requests that are not vectors stay. */
  init(): void {
    this.#resetRegisters();
  }

  #resetRegisters(): void {
    const id = this.#get(APIC.ID);
    this.registers.fill(0);
    this.#set(APIC.ID, id);
    this.#set(APIC.LVR, APIC_VERSION | ((LVT_REGISTERS.length - 1) << 16));
    this.#set(APIC.DFR, 0xffff_ffff);
    this.#set(APIC.SPIV, 0xff);
    for (const lvt of LVT_REGISTERS) this.#set(lvt, APIC_LVT_MASKED);
    if (this.isX2apic) this.#set(APIC.LDR, x2apicLogicalId(this.id));
    if (this.index === 0) this.#set(APIC.LVT0, LVT0_VIRTUAL_WIRE);
    this.#errors = 0;
    this.inService.clear();
    for (let word = 0; word < 8; word++) this.mailbox.setWords(word, 0, 0);
    this.timer.setMode(0);
    this.timer.disarm();
    this.timer.divideConfiguration = 0;
    this.updatePriority();
    this.publish();
  }

  // What register accesses cause; for apic-access.ts and apic-page.ts ----------------------------------------------

  /** Processor priority register. */
  get processorPriority(): number {
    return this.#get(APIC.PROCPRI);
  }

  /** Spurious-interrupt vector register. */
  get spurious(): number {
    return this.#get(APIC.SPIV);
  }

  /** Works the processor priority out anew (SDM vol. 3, 11.8.3.1). */
  updatePriority(): void {
    const task = this.#get(APIC.TASKPRI);
    const service = Math.max(this.inService.highest(), 0) & 0xf0;
    const priority = (task & 0xf0) >= service ? task : service;
    this.#set(APIC.PROCPRI, priority);
    if (priority !== this.mailbox.priority) this.mailbox.publishPriority(priority);
  }

  /** Tells the senders of messages how this APIC is addressed. */
  publish(): void {
    const mode =
      (this.isEnabled ? MODE_BITS.hardwareEnabled : 0) |
      ((this.spurious & APIC_SPIV_APIC_ENABLED) !== 0 ? MODE_BITS.softwareEnabled : 0) |
      (this.isX2apic ? MODE_BITS.x2apic : 0);
    const id = this.#get(APIC.ID);
    this.mailbox.publish(mode, this.isX2apic ? id : id >>> 24, this.#get(APIC.LDR), this.#get(APIC.DFR));
  }

  /** The guest has ended the interrupt in service (SDM vol. 3, 11.8.5). */
  endOfInterrupt(): void {
    const vector = this.inService.highest();
    if (vector < 0) return;
    this.inService.delete(vector);
    this.updatePriority();
    if (!this.mailbox.isLevel(vector)) return;
    this.#onEoi(vector);
    const lvt0 = this.#get(APIC.LVT0);
    if ((lvt0 & APIC_LVT_REMOTE_IRR) !== 0 && (lvt0 & APIC_VECTOR_MASK) === vector) {
      this.#set(APIC.LVT0, lvt0 & ~APIC_LVT_REMOTE_IRR);
      this.lint0Changed();
    }
  }

  /**
   * Sends the interrupt command (SDM vol. 3, 11.6.1).
   * @param low the register's low word
   * @param destination APIC ID or logical destination
   */
  sendCommand(low: number, destination: number): void {
    const mode = deliveryMode(low);
    const vector = low & APIC_VECTOR_MASK;
    const isDeassert = (low & APIC_INT_LEVELTRIG) !== 0 && (low & APIC_INT_ASSERT) === 0;
    // INIT level de-assert once synchronized arbitration IDs; nothing has them any more.
    if (mode === DELIVERY.INIT && isDeassert) return;
    const shorthand = (low >>> 18) & 3;
    if ((mode === DELIVERY.FIXED || mode === DELIVERY.LOWEST) && vector < FIRST_LEGAL_VECTOR) {
      this.raiseError(APIC_ESR_SENDILL | (shorthand === SHORTHAND.SELF ? APIC_ESR_RECVILL : 0));
      return;
    }
    this.#bus.sendIpi(this.index, shorthand, {
      destination,
      destinationMode: (low & APIC_DEST_LOGICAL) !== 0 ? 'logical' : 'physical',
      deliveryMode: mode,
      vector,
      triggerMode: 'edge',
    });
  }

  /** Sends itself a fixed interrupt: the x2APIC's SELF IPI register (SDM vol. 3, 11.12.11). */
  sendSelf(vector: number): void {
    this.sendCommand((SHORTHAND.SELF << 18) | vector, 0);
  }

  /** Notes errors and interrupts for those that are new (SDM vol. 3, 11.5.3). */
  raiseError(bits: number): void {
    const isNew = (bits & ~this.#errors) !== 0;
    this.#errors |= bits;
    if (isNew) this.#deliverLocal(APIC.LVTERR);
  }

  /** A write of the error status register: shows the errors since the last one. */
  latchErrors(): void {
    this.#set(APIC.ESR, this.#errors);
    this.#errors = 0;
  }

  /** LVT0 has been written, or its level-triggered interrupt has ended while the pin is still up. */
  lint0Changed(): void {
    const lvt0 = this.#get(APIC.LVT0);
    const isLevel = (lvt0 & APIC_LVT_LEVEL_TRIGGER) !== 0 && deliveryMode(lvt0) === DELIVERY.FIXED;
    if (isLevel && this.mailbox.lint(0)) this.#deliverLocal(APIC.LVT0);
  }

  #lintRose(pin: LintPin): void {
    if (this.isEnabled) this.#deliverLocal(pin === 0 ? APIC.LVT0 : APIC.LVT1);
    // Without an APIC the pins are the processor's INTR, which externalInterrupt looks at, and NMI.
    else if (pin === 1) this.mailbox.postNmi();
  }

  /** Delivers a local interrupt source by its LVT entry (SDM vol. 3, 11.5.1). */
  #deliverLocal(register: number): void {
    const entry = this.#get(register);
    if (!this.isEnabled || (entry & APIC_LVT_MASKED) !== 0) return;
    switch (deliveryMode(entry)) {
      case DELIVERY.FIXED: {
        const isLevel = register === APIC.LVT0 && (entry & APIC_LVT_LEVEL_TRIGGER) !== 0;
        if (isLevel && (entry & APIC_LVT_REMOTE_IRR) !== 0) return;
        if (this.mailbox.post(entry & APIC_VECTOR_MASK, isLevel) && isLevel) {
          this.#set(register, entry | APIC_LVT_REMOTE_IRR);
        }
        return;
      }
      case DELIVERY.NMI:
        this.mailbox.postNmi();
        return;
      case DELIVERY.INIT:
        this.mailbox.postInit();
        return;
      default:
        // ExtINT is a level that externalInterrupt looks at; there is no SMI, and the rest is reserved.
        return;
    }
  }

  #get(offset: number): number {
    return this.registers[offset >> 4];
  }

  #set(offset: number, value: number): void {
    this.registers[offset >> 4] = value;
  }
}

/** Delivery mode of an LVT entry or interrupt command. */
function deliveryMode(entry: number): number {
  return (entry >>> 8) & 7;
}
