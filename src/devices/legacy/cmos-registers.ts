/** Registers of the MC146818A, named as its data sheet names them, and the PC's bytes of CMOS RAM. */

export const SECONDS = 0x00;
export const SECONDS_ALARM = 0x01;
export const MINUTES = 0x02;
export const MINUTES_ALARM = 0x03;
export const HOURS = 0x04;
export const HOURS_ALARM = 0x05;
/** 1 is Sunday. */
export const DAY_OF_WEEK = 0x06;
export const DAY_OF_MONTH = 0x07;
export const MONTH = 0x08;
export const YEAR = 0x09;
/** Where PCs keep the century; the FADT's CENTURY field names it. */
export const CENTURY = 0x32;
/** The registers that make up the date, in the order of `rtc-time.ts`. */
export const DATE_REGISTERS: readonly number[] = [
  SECONDS,
  MINUTES,
  HOURS,
  DAY_OF_WEEK,
  DAY_OF_MONTH,
  MONTH,
  YEAR,
  CENTURY,
];

export const A = 0x0a;
/** Update in progress: the date may change within 244 us. */
export const A_UIP = 0x80;
export const A_DIVIDER = 0x70;
/** Divider bits 6 and 5 set hold the divider in reset. */
export const A_DIVIDER_RESET = 0x60;
export const A_RATE = 0x0f;

export const B = 0x0b;
export const B_SET = 0x80;
export const B_UIE = 0x10;
export const B_BINARY = 0x04;
export const B_24_HOUR = 0x02;

/** Enables in register B and flags in register C. */
export const PERIODIC = 0x40;
export const ALARM = 0x20;
export const UPDATE = 0x10;
export const INTERRUPTS = PERIODIC | ALARM | UPDATE;

export const C = 0x0c;
export const C_IRQF = 0x80;

export const D = 0x0d;
/** The battery is good. */
export const D_VRT = 0x80;

/** Why the processor is reset (0: cold start). */
export const SHUTDOWN_STATUS = 0x0f;
/** Diskette drives, fixed disks and equipment; the checksum covers 0x10-0x2D. */
export const EQUIPMENT = 0x14;
/** A math coprocessor, no diskette drive, display by its own BIOS. */
export const EQUIPMENT_FPU = 0x02;
/** KiB below 640 KiB. */
export const BASE_MEMORY = 0x15;
/** KiB above 1 MiB, at most 65535. */
export const EXTENDED_MEMORY = 0x17;
export const CHECKSUM = 0x2e;
/** Once more what is at 0x17, as the POST found it. */
export const EXTENDED_MEMORY_POST = 0x30;
/** 64 KiB units above 16 MiB, below 4 GiB. */
export const MEMORY_ABOVE_16M = 0x34;
/** 64 KiB units above 4 GiB, three bytes. */
export const MEMORY_ABOVE_4G = 0x5b;
