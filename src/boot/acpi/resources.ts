/** Resource descriptors for `_CRS` (ACPI 6.5 section 6.4). */
import { TsvError } from '../../errors.ts';
import { type Aml, buffer, bytes, le } from './aml.ts';

// Tags, sections 6.4.2 and 6.4.3. Small ones hold their length in bits 2 to 0.
const TAG_IRQ = 0x22;
const TAG_IRQ_FLAGS = 0x23;
const TAG_IO = 0x47;
const TAG_END = 0x79;
const TAG_MEMORY32_FIXED = 0x86;
const TAG_DWORD_ADDRESS = 0x87;
const TAG_WORD_ADDRESS = 0x88;
const TAG_EXTENDED_IRQ = 0x89;
const TAG_QWORD_ADDRESS = 0x8a;

// Address space descriptors, section 6.4.3.5.
const TYPE_MEMORY = 0;
const TYPE_IO = 1;
const TYPE_BUS = 2;
/** Resource producer, positive decode, minimum and maximum fixed. */
const WINDOW = 0x0c;
const IO_ENTIRE_RANGE = 0x03;
const MEMORY_READ_WRITE = 0x01;

/** An IRQ's trigger and polarity; edge and active high when absent, as ISA devices have it. */
export interface IrqMode {
  readonly level?: boolean;
  readonly activeLow?: boolean;
  readonly shared?: boolean;
}

/** A `_CRS` value: the descriptors in a buffer, ended by an end tag whose checksum is not used. */
export function resourceTemplate(descriptors: readonly Aml[]): Aml {
  return buffer(bytes(...descriptors, TAG_END, 0));
}

/** Fixed I/O ports, 16 address lines decoded (section 6.4.2.5). */
export function ioPorts(port: number, length: number): Aml {
  return bytes(TAG_IO, 1, le(port, 2), le(port, 2), 1, le(length, 1));
}

/** One of the ISA interrupts 0 to 15 (section 6.4.2.1). */
export function irq(line: number, mode: IrqMode = {}): Aml {
  if (!(line >= 0 && line <= 15)) throw invalid(`ISA interrupt ${line} is not 0 to 15.`);
  const mask = le(1 << line, 2);
  if (!mode.level && !mode.activeLow && !mode.shared) return bytes(TAG_IRQ, mask);
  const flags = (mode.level ? 0 : 1) | (mode.activeLow ? 1 << 3 : 0) | (mode.shared ? 1 << 4 : 0);
  return bytes(TAG_IRQ_FLAGS, mask, flags);
}

/** A global system interrupt (section 6.4.3.6). */
export function interrupt(gsi: number, mode: IrqMode = {}): Aml {
  const consumer = 1;
  const flags = consumer | (mode.level ? 0 : 2) | (mode.activeLow ? 4 : 0) | (mode.shared ? 8 : 0);
  return bytes(TAG_EXTENDED_IRQ, le(6, 2), flags, 1, le(gsi, 4));
}

/** Registers at a fixed address below 4 GiB (section 6.4.3.4). */
export function memory32Fixed(address: number, length: number): Aml {
  return bytes(TAG_MEMORY32_FIXED, le(9, 2), 1, le(address, 4), le(length, 4));
}

/** Bus numbers behind a bridge. */
export function busNumbers(first: number, last: number): Aml {
  return window(TAG_WORD_ADDRESS, 2, TYPE_BUS, 0, first, last);
}

/** I/O ports a bridge passes on. */
export function ioWindow(first: number, last: number): Aml {
  return window(TAG_WORD_ADDRESS, 2, TYPE_IO, IO_ENTIRE_RANGE, first, last);
}

/** Memory addresses below 4 GiB a bridge passes on. */
export function memoryWindow(first: number, last: number): Aml {
  return window(TAG_DWORD_ADDRESS, 4, TYPE_MEMORY, MEMORY_READ_WRITE, first, last);
}

/** Memory addresses a bridge passes on, anywhere. */
export function memoryWindow64(first: number, last: number): Aml {
  return window(TAG_QWORD_ADDRESS, 8, TYPE_MEMORY, MEMORY_READ_WRITE, first, last);
}

/** Granularity 0, minimum, maximum, translation 0, length. */
function window(
  tag: number,
  size: 2 | 4 | 8,
  type: number,
  typeFlags: number,
  first: number,
  last: number,
): Aml {
  if (!(last >= first)) throw invalid(`The address window ${first} to ${last} is empty.`);
  const values = [0, first, last, 0, last - first + 1].map((value) => le(value, size));
  return bytes(tag, le(3 + 5 * size, 2), type, WINDOW, typeFlags, ...values);
}

function invalid(message: string): TsvError {
  return new TsvError('TSV_E_CONFIG', message, { hint: 'See ACPI 6.5 section 6.4.' });
}
