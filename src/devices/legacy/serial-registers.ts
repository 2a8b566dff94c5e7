/** Registers and bits of the PC16550D UART, named as Linux's `serial_reg.h` and the data sheet name them. */

/** Receiver buffer (read), transmitter holding (write); low divisor byte with DLAB. */
export const RBR = 0;
export const THR = 0;
/** Interrupt enable; high divisor byte with DLAB. */
export const IER = 1;
/** Interrupt identification (read), FIFO control (write). */
export const IIR = 2;
export const FCR = 2;
export const LCR = 3;
export const MCR = 4;
export const LSR = 5;
export const MSR = 6;
export const SCR = 7;

/** Received data available (and character time-out). */
export const IER_RDI = 0x01;
/** Transmitter holding register empty. */
export const IER_THRI = 0x02;
/** Receiver line status. */
export const IER_RLSI = 0x04;
/** Modem status. */
export const IER_MSI = 0x08;
export const IER_MASK = 0x0f;

export const IIR_MSI = 0x00;
export const IIR_NO_INT = 0x01;
export const IIR_THRI = 0x02;
export const IIR_RDI = 0x04;
export const IIR_RLSI = 0x06;
export const IIR_CTI = 0x0c;
/** Bits 6 and 7 show that the FIFOs are on, and that this is a 16550A. */
export const IIR_FIFO_ENABLED = 0xc0;

export const FCR_ENABLE = 0x01;
export const FCR_CLEAR_RECEIVER = 0x02;
export const FCR_TRIGGER_MASK = 0xc0;
/** Receiver trigger levels in bytes, by FCR bits 6-7. */
export const FCR_TRIGGER_LEVELS = [1, 4, 8, 14] as const;

export const LCR_DLAB = 0x80;

export const MCR_DTR = 0x01;
export const MCR_RTS = 0x02;
export const MCR_OUT1 = 0x04;
export const MCR_OUT2 = 0x08;
export const MCR_LOOP = 0x10;
export const MCR_MASK = 0x1f;

export const LSR_DR = 0x01;
export const LSR_OE = 0x02;
export const LSR_BI = 0x10;
export const LSR_THRE = 0x20;
export const LSR_TEMT = 0x40;
export const LSR_FIFO_ERROR = 0x80;

/** Deltas of CTS, DSR, RI (trailing edge) and DCD. */
export const MSR_DCTS = 0x01;
export const MSR_DDSR = 0x02;
export const MSR_TERI = 0x04;
export const MSR_DDCD = 0x08;
export const MSR_CTS = 0x10;
export const MSR_DSR = 0x20;
export const MSR_RI = 0x40;
export const MSR_DCD = 0x80;
export const MSR_LINES = 0xf0;
