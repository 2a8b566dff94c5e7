/** Registers and bits of the local APIC, named as Linux's apicdef.h names them (SDM vol. 3, 11.4 to 11.12). */

/** Offsets in the xAPIC page; the x2APIC MSR is 0x800 + offset / 16 (SDM vol. 3, tables 11-1 and 11-6). */
export const APIC = {
  ID: 0x020,
  LVR: 0x030,
  TASKPRI: 0x080,
  ARBPRI: 0x090,
  PROCPRI: 0x0a0,
  EOI: 0x0b0,
  LDR: 0x0d0,
  DFR: 0x0e0,
  SPIV: 0x0f0,
  ISR: 0x100,
  TMR: 0x180,
  IRR: 0x200,
  ESR: 0x280,
  ICR: 0x300,
  ICR2: 0x310,
  LVTT: 0x320,
  LVTTHMR: 0x330,
  LVTPC: 0x340,
  LVT0: 0x350,
  LVT1: 0x360,
  LVTERR: 0x370,
  TMICT: 0x380,
  TMCCT: 0x390,
  TDCR: 0x3e0,
  SELF_IPI: 0x3f0,
} as const;

/** The LVT entries, in the order of their addresses. */
export const LVT_REGISTERS = [
  APIC.LVTT,
  APIC.LVTTHMR,
  APIC.LVTPC,
  APIC.LVT0,
  APIC.LVT1,
  APIC.LVTERR,
] as const;

/** Bytes from one register to the next, and bytes of the page that hold registers (struct kvm_lapic_state). */
export const APIC_REGISTER_STEP = 0x10;
export const APIC_REG_SIZE = 0x400;
/** Where the page is after reset (SDM vol. 3, 11.4.1). */
export const APIC_DEFAULT_PHYS_BASE = 0xfee0_0000;

/** IA32_APIC_BASE (SDM vol. 3, figures 11-5 and 11-26). */
export const MSR_IA32_APICBASE_BSP = 1n << 8n;
export const X2APIC_ENABLE = 1n << 10n;
export const MSR_IA32_APICBASE_ENABLE = 1n << 11n;

export const MSR_IA32_APICBASE = 0x1b;
export const MSR_IA32_TSC_DEADLINE = 0x6e0;
/** First and last x2APIC MSR. */
export const APIC_BASE_MSR = 0x800;
export const APIC_LAST_MSR = 0x8ff;

/** Version register: the P6-and-later local APIC (11.4.8). */
export const APIC_VERSION = 0x14;

/** Spurious-interrupt vector register (11.9). */
export const APIC_SPIV_APIC_ENABLED = 1 << 8;
export const APIC_SPIV_FOCUS_DISABLED = 1 << 9;

/** Local vector table (11.5.1). */
export const APIC_VECTOR_MASK = 0xff;
export const APIC_MODE_MASK = 0x700;
export const APIC_INPUT_POLARITY = 1 << 13;
export const APIC_LVT_LEVEL_TRIGGER = 1 << 15;
export const APIC_LVT_MASKED = 1 << 16;
export const APIC_LVT_TIMER_MASK = 3 << 17;
export const APIC_LVT_TIMER_ONESHOT = 0;
export const APIC_LVT_TIMER_PERIODIC = 1 << 17;
export const APIC_LVT_TIMER_TSCDEADLINE = 2 << 17;
/** Delivery status and remote IRR: read-only. */
export const APIC_SEND_PENDING = 1 << 12;
export const APIC_LVT_REMOTE_IRR = 1 << 14;

/** Delivery modes of LVT, ICR, MSI data and I/O APIC entries, already shifted down. */
export const DELIVERY = {
  FIXED: 0,
  LOWEST: 1,
  SMI: 2,
  NMI: 4,
  INIT: 5,
  STARTUP: 6,
  EXTINT: 7,
} as const;

/** Interrupt command register (11.6.1). */
export const APIC_ICR_BUSY = 1 << 12;
export const APIC_DEST_LOGICAL = 1 << 11;
export const APIC_INT_ASSERT = 1 << 14;
export const APIC_INT_LEVELTRIG = 1 << 15;
/** Destination shorthand, shifted down: none, self, all including self, all but self. */
export const SHORTHAND = { NONE: 0, SELF: 1, ALL: 2, OTHERS: 3 } as const;

/** Error status register (11.5.3). */
export const APIC_ESR_SENDILL = 1 << 5;
export const APIC_ESR_RECVILL = 1 << 6;
export const APIC_ESR_ILLREGA = 1 << 7;

/** Vectors below this cannot be sent or received (SDM vol. 3, 11.5.2). */
export const FIRST_LEGAL_VECTOR = 16;

/** Destinations that mean every local APIC. */
export const APIC_BROADCAST = 0xff;
export const X2APIC_BROADCAST = 0xffff_ffff;

/** Logical ID of an x2APIC: cluster and one bit within it (11.12.10.2). */
export function x2apicLogicalId(id: number): number {
  return ((Math.floor(id / 16) << 16) | (1 << (id & 15))) >>> 0;
}
