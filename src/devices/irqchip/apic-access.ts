/**
 * How the guest reaches a local APIC's registers: the xAPIC page, the x2APIC MSRs and IA32_TSC_DEADLINE (SDM vol. 3,
 * 11.4.1, 11.12.1). After any write the vCPU must look at its pending interrupts again.
 */
import {
  APIC,
  APIC_BASE_MSR,
  APIC_ESR_ILLREGA,
  APIC_ICR_BUSY,
  APIC_INPUT_POLARITY,
  APIC_LAST_MSR,
  APIC_LVT_LEVEL_TRIGGER,
  APIC_LVT_MASKED,
  APIC_LVT_REMOTE_IRR,
  APIC_LVT_TIMER_MASK,
  APIC_MODE_MASK,
  APIC_REGISTER_STEP,
  APIC_SEND_PENDING,
  APIC_SPIV_APIC_ENABLED,
  APIC_SPIV_FOCUS_DISABLED,
  APIC_VECTOR_MASK,
  LVT_REGISTERS,
  MSR_IA32_APICBASE,
  MSR_IA32_TSC_DEADLINE,
} from './apic-registers.ts';
import type { LocalApic } from './local-apic.ts';

const LVT_ENTRY = APIC_LVT_MASKED | APIC_VECTOR_MASK;
const LVT_PIN = LVT_ENTRY | APIC_MODE_MASK | APIC_INPUT_POLARITY | APIC_LVT_LEVEL_TRIGGER;

/** Bits that a write sets. */
const WRITABLE = new Map<number, number>([
  [APIC.TASKPRI, 0xff],
  [APIC.SPIV, APIC_VECTOR_MASK | APIC_SPIV_APIC_ENABLED | APIC_SPIV_FOCUS_DISABLED],
  [APIC.LVTT, LVT_ENTRY | APIC_LVT_TIMER_MASK],
  [APIC.LVTTHMR, LVT_ENTRY | APIC_MODE_MASK],
  [APIC.LVTPC, LVT_ENTRY | APIC_MODE_MASK],
  [APIC.LVT0, LVT_PIN],
  [APIC.LVT1, LVT_PIN],
  [APIC.LVTERR, LVT_ENTRY],
  [APIC.TMICT, 0xffff_ffff],
  [APIC.TDCR, 0xb],
  [APIC.EOI, 0],
  [APIC.ESR, 0],
  [APIC.SELF_IPI, APIC_VECTOR_MASK],
]);
/** Bits of an x2APIC register that may be written as read, without effect. */
const LVT_READ_ONLY = APIC_SEND_PENDING | APIC_LVT_REMOTE_IRR;
const IS_LVT: ReadonlySet<number> = new Set(LVT_REGISTERS);

/** Registers of the page that x2APIC mode does not have, or has in another form. */
const XAPIC_ONLY: ReadonlySet<number> = new Set([APIC.ARBPRI, APIC.DFR, APIC.ICR2]);
const READABLE: ReadonlySet<number> = new Set([
  ...Object.values(APIC).filter((offset) => offset !== APIC.EOI && offset !== APIC.SELF_IPI),
  ...[APIC.ISR, APIC.TMR, APIC.IRR].flatMap((first) =>
    Array.from({ length: 8 }, (_, word) => first + word * APIC_REGISTER_STEP),
  ),
]);

/** Reserved bits of the x2APIC interrupt command register's low word (SDM vol. 3, figure 11-28). */
const X2APIC_ICR_RESERVED = 0xfff3_2000;
/** Offset of the last register of the page. */
const LAST_REGISTER = 0x3f0;

/**
 * Reads the register page.
 * @param offset within the page; only 32-bit aligned accesses are defined, bytes within a register are read as stored
 * @param size 1, 2 or 4 bytes
 * @returns unsigned value, zero where no register is; all ones when the page is not there
 */
export function readApicPage(apic: LocalApic, offset: number, size: number): number {
  const ones = 2 ** (size * 8) - 1;
  if (!apic.isEnabled || apic.isX2apic) return ones;
  const within = offset & (APIC_REGISTER_STEP - 1);
  const register = offset - within;
  if (within + size > 4) return 0;
  if (!READABLE.has(register)) {
    if (register !== APIC.EOI) apic.raiseError(APIC_ESR_ILLREGA);
    return 0;
  }
  return Math.floor(readRegister(apic, register) / 2 ** (within * 8)) % 2 ** (size * 8);
}

/**
 * Writes the register page; anything but an aligned 32-bit write is ignored, as KVM does.
 * @param value unsigned
 */
export function writeApicPage(apic: LocalApic, offset: number, size: number, value: number): void {
  if (!apic.isEnabled || apic.isX2apic) return;
  if (size !== 4 || offset % APIC_REGISTER_STEP !== 0) return;
  switch (offset) {
    case APIC.ID:
      apic.registers[APIC.ID >> 4] = value & 0xff00_0000;
      apic.publish();
      return;
    case APIC.LDR:
      apic.registers[APIC.LDR >> 4] = value & 0xff00_0000;
      apic.publish();
      return;
    case APIC.DFR:
      apic.registers[APIC.DFR >> 4] = value | 0x0fff_ffff;
      apic.publish();
      return;
    case APIC.ICR:
      // Messages leave at once, so the delivery status is always idle.
      apic.registers[APIC.ICR >> 4] = value & ~APIC_ICR_BUSY;
      apic.sendCommand(value, apic.registers[APIC.ICR2 >> 4] >>> 24);
      return;
    case APIC.ICR2:
      apic.registers[APIC.ICR2 >> 4] = value & 0xff00_0000;
      return;
    default: {
      const mask = offset === APIC.SELF_IPI ? undefined : WRITABLE.get(offset);
      if (mask !== undefined) writeRegister(apic, offset, value & mask);
      else if (offset > LAST_REGISTER || !READABLE.has(offset)) apic.raiseError(APIC_ESR_ILLREGA);
    }
  }
}

/** Whether an MSR is the local APIC's: IA32_APIC_BASE, IA32_TSC_DEADLINE and 0x800 to 0x8ff. */
export function isApicMsr(index: number): boolean {
  const isRegister = index >= APIC_BASE_MSR && index <= APIC_LAST_MSR;
  return isRegister || index === MSR_IA32_APICBASE || index === MSR_IA32_TSC_DEADLINE;
}

/**
 * RDMSR. Whether CPUID offers the TSC deadline at all is for the caller to check.
 * @returns undefined for #GP
 */
export function readApicMsr(apic: LocalApic, index: number): bigint | undefined {
  if (index === MSR_IA32_APICBASE) return apic.apicBase;
  if (index === MSR_IA32_TSC_DEADLINE) {
    apic.poll();
    return apic.timer.tscDeadline;
  }
  const register = (index - APIC_BASE_MSR) * APIC_REGISTER_STEP;
  if (!apic.isX2apic || !READABLE.has(register) || XAPIC_ONLY.has(register)) return undefined;
  const low = BigInt(readRegister(apic, register));
  return register === APIC.ICR ? (BigInt(apic.registers[APIC.ICR2 >> 4]) << 32n) | low : low;
}

/**
 * WRMSR.
 * @param value unsigned 64-bit
 * @returns false for #GP
 */
export function writeApicMsr(apic: LocalApic, index: number, value: bigint): boolean {
  if (index === MSR_IA32_APICBASE) return apic.writeApicBase(value);
  if (index === MSR_IA32_TSC_DEADLINE) {
    apic.poll();
    apic.timer.tscDeadline = value;
    return true;
  }
  if (!apic.isX2apic) return false;
  const register = (index - APIC_BASE_MSR) * APIC_REGISTER_STEP;
  const low = Number(value & 0xffff_ffffn);
  if (register === APIC.ICR) {
    if ((low & X2APIC_ICR_RESERVED) !== 0) return false;
    const destination = Number(value >> 32n);
    apic.registers[APIC.ICR >> 4] = low & ~APIC_ICR_BUSY;
    apic.registers[APIC.ICR2 >> 4] = destination;
    apic.sendCommand(low, destination);
    return true;
  }
  const mask = WRITABLE.get(register);
  if (mask === undefined || value >> 32n !== 0n) return false;
  const ignored = IS_LVT.has(register) ? LVT_READ_ONLY : 0;
  if ((low & ~(mask | ignored)) !== 0) return false;
  writeRegister(apic, register, low & mask);
  return true;
}

/** Bits of a stored register that it can ever hold, for loading state. */
export function holdableBits(register: number): number {
  const mask = WRITABLE.get(register);
  if (mask === undefined) return register === APIC.ICR ? ~APIC_ICR_BUSY : 0xffff_ffff;
  if (register === APIC.ESR) return 0xff;
  return register === APIC.LVT0 ? mask | APIC_LVT_REMOTE_IRR : mask;
}

/** A readable register, unsigned. */
export function readRegister(apic: LocalApic, register: number): number {
  const word = (register >> 4) & 7;
  switch (register) {
    case APIC.TMICT:
      return apic.timer.initialCount;
    case APIC.TMCCT:
      apic.poll();
      return apic.timer.currentCount;
    case APIC.TDCR:
      return apic.timer.divideConfiguration;
    default:
      if (register >= APIC.ISR && register < APIC.TMR) return apic.inService.word(word);
      if (register >= APIC.TMR && register < APIC.IRR) return apic.mailbox.levelWord(word);
      if (register >= APIC.IRR && register < APIC.ESR) return apic.mailbox.requestWord(word);
      return apic.registers[register >> 4];
  }
}

/** Writes a register that both modes have; `value` has only writable bits. */
function writeRegister(apic: LocalApic, register: number, value: number): void {
  const { registers, timer } = apic;
  // What has happened up to now happened under the old settings.
  apic.poll();
  switch (register) {
    case APIC.EOI:
      apic.endOfInterrupt();
      return;
    case APIC.SELF_IPI:
      apic.sendSelf(value);
      return;
    case APIC.ESR:
      apic.latchErrors();
      return;
    case APIC.TMICT:
      timer.initialCount = value >>> 0;
      return;
    case APIC.TDCR:
      timer.divideConfiguration = value;
      return;
    case APIC.TASKPRI:
      registers[register >> 4] = value;
      apic.updatePriority();
      return;
    case APIC.SPIV:
      registers[register >> 4] = value;
      if ((value & APIC_SPIV_APIC_ENABLED) === 0) {
        for (const lvt of LVT_REGISTERS) registers[lvt >> 4] |= APIC_LVT_MASKED;
      }
      apic.publish();
      return;
    default: {
      // The LVT: while the APIC is disabled by software every entry stays masked (SDM vol. 3, 11.4.7.2).
      const masked = (apic.spurious & APIC_SPIV_APIC_ENABLED) === 0 ? APIC_LVT_MASKED : 0;
      const remoteIrr = registers[register >> 4] & APIC_LVT_REMOTE_IRR;
      registers[register >> 4] = value | masked | remoteIrr;
      if (register === APIC.LVTT) timer.setMode(value);
      if (register === APIC.LVT0) apic.lint0Changed();
    }
  }
}
