/**
 * Segment descriptors and the GDT (SDM vol. 3 sections 3.4.5 and 3.5).
 *
 * A {@link Segment} is what a segment register holds; a descriptor is its 8 bytes in memory (16 for a system segment
 * in long mode).
 */
import { TsvError } from '../errors.ts';
import type { Dtable, Segment } from '../vcpu/state.ts';
import type { GuestMemory } from './guest-memory.ts';

/** Types of code and data segments, s = 1 (SDM vol. 3 table 3-1); the accessed bit is set. */
export const SEGMENT_TYPE = { DATA_READ_WRITE: 0x3, CODE_EXECUTE_READ: 0xb } as const;
/** Types of system segments and gates, s = 0 (SDM vol. 3 table 3-2). */
export const SYSTEM_TYPE = {
  LDT: 0x2,
  TSS_16_BUSY: 0x3,
  TASK_GATE: 0x5,
  INTERRUPT_GATE_16: 0x6,
  TRAP_GATE_16: 0x7,
  TSS: 0x9,
  TSS_BUSY: 0xb,
  INTERRUPT_GATE: 0xe,
  TRAP_GATE: 0xf,
} as const;

/** What a descriptor says; everything but the selector and `unusable`, which belong to the register. */
export type SegmentFields = Omit<Segment, 'selector' | 'unusable'>;

const FLAT: SegmentFields = {
  base: 0n,
  limit: 0xffffffff,
  type: SEGMENT_TYPE.DATA_READ_WRITE,
  present: 1,
  dpl: 0,
  db: 1,
  s: 1,
  l: 0,
  g: 1,
  avl: 0,
};
/** Data segment over all 4 GiB; also what long mode wants in SS. */
export const FLAT_DATA: Readonly<SegmentFields> = FLAT;
/** 32-bit code segment over all 4 GiB. */
export const FLAT_CODE_32: Readonly<SegmentFields> = { ...FLAT, type: SEGMENT_TYPE.CODE_EXECUTE_READ };
/** 64-bit code segment. */
export const FLAT_CODE_64: Readonly<SegmentFields> = { ...FLAT_CODE_32, db: 0, l: 1 };

/**
 * The register contents for a segment.
 * @param selector 16 bits
 */
export function segment(fields: Readonly<SegmentFields>, selector: number): Segment {
  return { ...fields, selector, unusable: 0 };
}

/** A segment register in real mode: base = selector * 16, limit 64 KiB (SDM vol. 3 section 20.1.1). */
export function realModeSegment(selector: number, type: number = SEGMENT_TYPE.DATA_READ_WRITE): Segment {
  return segment({ ...FLAT, base: BigInt(selector) << 4n, limit: 0xffff, db: 0, g: 0, type }, selector);
}

/** A segment register that holds nothing usable, as after loading a null selector. */
export function unusableSegment(): Segment {
  const none = { base: 0n, limit: 0, type: 0, present: 0, dpl: 0, db: 0, s: 0, l: 0, g: 0, avl: 0 };
  return { ...none, selector: 0, unusable: 1 };
}

/**
 * Encodes a descriptor.
 * @returns 8 bytes, or 16 for a system segment whose base needs more than 32 bits or when `long` asks for it
 * @throws TSV_E_CONFIG when a field does not fit
 */
export function encodeDescriptor(fields: Readonly<SegmentFields>, long = false): Uint8Array {
  const { base, limit, type, present, dpl, db, s, l, g, avl } = fields;
  const wide = s === 0 && (long || base > 0xffffffffn);
  const bits: [string, number, number][] = [
    ['type', type, 15],
    ['dpl', dpl, 3],
    ...Object.entries({ present, db, s, l, g, avl }).map(([k, v]): [string, number, number] => [k, v, 1]),
  ];
  for (const [name, value, max] of bits) {
    if (!Number.isInteger(value) || value < 0 || value > max) {
      throw invalid(`Segment field ${name} = ${value} does not fit a descriptor.`, `It is 0 to ${max}.`);
    }
  }
  if (base < 0n || base > (wide ? 0xffff_ffff_ffff_ffffn : 0xffffffffn)) {
    throw invalid(`Segment base 0x${base.toString(16)} does not fit a descriptor.`, 'It has 32 bits.');
  }
  const scaled = g === 1 ? Math.floor(limit / 4096) : limit;
  if (!Number.isInteger(limit) || limit < 0 || scaled > 0xfffff || (g === 1 && limit % 4096 !== 4095)) {
    const hint = 'With g = 0 it is below 1 MiB; with g = 1 it ends in 0xfff and has 32 bits.';
    throw invalid(`Segment limit ${limit} with g = ${g} does not fit a descriptor.`, hint);
  }
  const bytes = new Uint8Array(wide ? 16 : 8);
  const view = new DataView(bytes.buffer);
  const low = Number(base & 0xffffffffn);
  view.setUint16(0, scaled & 0xffff, true);
  view.setUint16(2, low & 0xffff, true);
  view.setUint8(4, (low >>> 16) & 0xff);
  view.setUint8(5, type | (s << 4) | (dpl << 5) | (present << 7));
  view.setUint8(6, (scaled >>> 16) | (avl << 4) | (l << 5) | (db << 6) | (g << 7));
  view.setUint8(7, low >>> 24);
  if (wide) view.setUint32(8, Number(base >> 32n), true);
  return bytes;
}

/**
 * Decodes a descriptor as loading it into a segment register would.
 * @param bytes at least 8 bytes; a system segment's upper base half is taken from bytes 8 to 11 if they are given
 * @throws TSV_E_CONFIG when there are fewer than 8 bytes
 */
export function decodeDescriptor(bytes: Uint8Array, selector: number): Segment {
  if (bytes.length < 8) throw invalid('A segment descriptor has 8 bytes.', 'Read 8 bytes of the table.');
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const access = view.getUint8(5);
  const flags = view.getUint8(6);
  const s = (access >> 4) & 1;
  const g = flags >> 7;
  const scaled = view.getUint16(0, true) | ((flags & 0xf) << 16);
  const low = view.getUint16(2, true) + view.getUint8(4) * 2 ** 16 + view.getUint8(7) * 2 ** 24;
  const high = s === 0 && bytes.length >= 12 ? view.getUint32(8, true) : 0;
  return {
    base: (BigInt(high) << 32n) | BigInt(low),
    limit: g === 1 ? scaled * 4096 + 4095 : scaled,
    selector,
    type: access & 0xf,
    present: access >> 7,
    dpl: (access >> 5) & 3,
    db: (flags >> 6) & 1,
    s,
    l: (flags >> 5) & 1,
    g,
    avl: (flags >> 4) & 1,
    unusable: 0,
  };
}

/** Collects descriptors and writes them as a GDT (or LDT); the first slot is the null descriptor. */
export class GdtBuilder {
  readonly #slots: Uint8Array[] = [new Uint8Array(8)];

  /** Bytes the table takes so far. */
  get size(): number {
    return this.#slots.reduce((sum, slot) => sum + slot.length, 0);
  }

  /**
   * Appends a segment.
   * @param options.selector where it must be: the slots up to there stay null (Linux wants code at 0x10 and data at
   *   0x18: Documentation/arch/x86/boot.rst)
   * @param options.long 16-byte descriptor for a system segment, as long mode has it
   * @returns the register contents that loading its selector gives, with its selector and the dpl as rpl
   * @throws TSV_E_CONFIG when the selector is taken or a field does not fit
   */
  add(fields: Readonly<SegmentFields>, options: { selector?: number; long?: boolean } = {}): Segment {
    const { selector = this.size, long = false } = options;
    if (!Number.isInteger(selector) || selector % 8 !== 0 || selector < this.size || selector > 0xfff8) {
      const hint =
        'Add segments in ascending order of their selectors, which are multiples of 8 up to 0xfff8.';
      throw invalid(`Selector ${selector} is not free in this descriptor table.`, hint);
    }
    const descriptor = encodeDescriptor(fields, long);
    if (selector + descriptor.length > 0x10000)
      throw invalid('The descriptor table is full.', 'It holds 64 KiB.');
    while (this.size < selector) this.#slots.push(new Uint8Array(8));
    this.#slots.push(descriptor);
    return segment(fields, selector | fields.dpl);
  }

  /** Writes the table. @returns what GDTR must hold. @throws TSV_E_GUEST_ADDRESS */
  write(memory: GuestMemory, gpa: number): Dtable {
    let at = gpa;
    for (const slot of this.#slots) {
      memory.write(at, slot);
      at += slot.length;
    }
    return { base: BigInt(gpa), limit: this.size - 1 };
  }
}

function invalid(message: string, hint: string): TsvError {
  return new TsvError('TSV_E_CONFIG', message, { hint });
}
