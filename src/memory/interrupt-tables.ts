/** The interrupt descriptor table and the task state segment (SDM vol. 3 sections 6.10 to 6.14 and 7.2, 7.7). */
import { TsvError } from '../errors.ts';
import type { Dtable } from '../vcpu/state.ts';
import type { GuestMemory } from './guest-memory.ts';
import { SYSTEM_TYPE } from './segments.ts';

/** A gate of the IDT. */
export interface Gate {
  /** Address of the handler; 64 bits in long mode, else 32. */
  readonly offset: bigint;
  /** Code segment of the handler. */
  readonly selector: number;
  /** `interrupt` clears RFLAGS.IF on entry, `trap` leaves it; `interrupt` when absent. */
  readonly type?: 'interrupt' | 'trap';
  /** Least privileged level that may use INT n on it; 0 when absent. */
  readonly dpl?: number;
  /** Interrupt stack table entry, 1 to 7; 0 (none) when absent. Long mode only. */
  readonly ist?: number;
}

/** Whether a table is for long mode (16-byte gates) or for 32-bit protected mode (8-byte gates). */
export type GateWidth = 32 | 64;

/**
 * Encodes a gate.
 * @returns 16 bytes for long mode, 8 for 32-bit protected mode
 * @throws TSV_E_CONFIG when a field does not fit
 */
export function encodeGate(gate: Gate, width: GateWidth = 64): Uint8Array {
  const { offset, selector, type = 'interrupt', dpl = 0, ist = 0 } = gate;
  if (offset < 0n || offset >> BigInt(width) !== 0n) {
    throw invalid(`Handler address 0x${offset.toString(16)} does not fit ${width} bits.`);
  }
  if (!fits(selector, 0xffff)) throw invalid(`Gate selector ${selector} does not fit 16 bits.`);
  if (!fits(dpl, 3)) throw invalid(`Gate privilege level ${dpl} is not 0 to 3.`);
  if (!fits(ist, width === 64 ? 7 : 0)) throw invalid(`Gate stack ${ist} is not one of a ${width}-bit gate.`);
  const bytes = new Uint8Array(width === 64 ? 16 : 8);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, Number(offset & 0xffffn), true);
  view.setUint16(2, selector, true);
  view.setUint8(4, ist);
  view.setUint8(
    5,
    (type === 'trap' ? SYSTEM_TYPE.TRAP_GATE : SYSTEM_TYPE.INTERRUPT_GATE) | (dpl << 5) | 0x80,
  );
  view.setUint16(6, Number((offset >> 16n) & 0xffffn), true);
  if (width === 64) view.setUint32(8, Number(offset >> 32n), true);
  return bytes;
}

/**
 * Writes an IDT; vectors without a gate stay not present and raise #NP when they are used.
 * @param gates by vector, 0 to 255
 * @returns what IDTR must hold: a table that ends with the highest vector given
 * @throws TSV_E_CONFIG, TSV_E_GUEST_ADDRESS
 */
export function writeIdt(
  memory: GuestMemory,
  gpa: number,
  gates: ReadonlyMap<number, Gate>,
  width: GateWidth = 64,
): Dtable {
  const length = width === 64 ? 16 : 8;
  const vectors = [...gates.keys()];
  const outside = vectors.find((vector) => !fits(vector, 255));
  if (outside !== undefined) throw invalid(`Interrupt vector ${outside} is not 0 to 255.`);
  const table = new Uint8Array(length * (Math.max(-1, ...vectors) + 1));
  for (const [vector, gate] of gates) table.set(encodeGate(gate, width), vector * length);
  memory.write(gpa, table);
  return { base: BigInt(gpa), limit: Math.max(0, table.length - 1) };
}

/** Contents of a 64-bit TSS (SDM vol. 3 figure 7-11). */
export interface Tss64 {
  /** Stack pointers for entry to privilege levels 0, 1 and 2. */
  readonly rsp?: readonly bigint[];
  /** Interrupt stacks 1 to 7, the first at index 0. */
  readonly ist?: readonly bigint[];
  /** I/O permission bitmap: bit n set denies port n to code above IOPL; none when absent, all ports denied. */
  readonly iomap?: Uint8Array;
}

/** Bytes of a 64-bit TSS without its I/O map. */
export const TSS64_SIZE = 104;
/** Offsets of figure 7-11. */
const TSS64_RSP0 = 4;
const TSS64_IST1 = 36;
const TSS64_IOMAP_BASE = 102;
/** A bit for each of 65536 ports. */
const MAX_IOMAP = 8192;

/**
 * Encodes a 64-bit TSS. An I/O map is followed by the byte of ones the processor may read past its end
 * (SDM vol. 1 section 19.5.2); its segment limit is the length minus one.
 * @throws TSV_E_CONFIG when a field does not fit
 */
export function encodeTss64(tss: Tss64): Uint8Array {
  const { rsp = [], ist = [], iomap } = tss;
  if (rsp.length > 3) throw invalid('A TSS has three stack pointers.');
  if (ist.length > 7) throw invalid('A TSS has seven interrupt stacks.');
  if (iomap !== undefined && iomap.length > MAX_IOMAP) throw invalid('An I/O map has at most 8192 bytes.');
  if ([...rsp, ...ist].some((pointer) => pointer < 0n || pointer >> 64n !== 0n)) {
    throw invalid('A stack pointer of the TSS does not fit 64 bits.');
  }
  const bytes = new Uint8Array(TSS64_SIZE + (iomap === undefined ? 0 : iomap.length + 1));
  const view = new DataView(bytes.buffer);
  for (const [i, pointer] of rsp.entries()) view.setBigUint64(TSS64_RSP0 + 8 * i, pointer, true);
  for (const [i, pointer] of ist.entries()) view.setBigUint64(TSS64_IST1 + 8 * i, pointer, true);
  view.setUint16(TSS64_IOMAP_BASE, TSS64_SIZE, true);
  if (iomap !== undefined) {
    bytes.set(iomap, TSS64_SIZE);
    bytes[bytes.length - 1] = 0xff;
  }
  return bytes;
}

function fits(value: number, max: number): boolean {
  return Number.isInteger(value) && value >= 0 && value <= max;
}

function invalid(message: string): TsvError {
  return new TsvError('TSV_E_CONFIG', message, {
    hint: 'See SDM vol. 3 sections 6.14 and 7.7 for the ranges.',
  });
}
