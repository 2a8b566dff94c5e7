/** PCMPESTRI, PCMPESTRM, PCMPISTRI, PCMPISTRM (SDM vol. 2, section 4.1). */
import { FLAG } from '../emit/rflags.ts';
import { GPR, R, S } from '../layout.ts';
import { address, type Operations, pointer } from './operands.ts';
import type { Operation } from './operations.ts';

const { RAX, RCX, RDX } = GPR;
const BYTES = 16;
/** Fields of the immediate. */
const AGGREGATION = { equalAny: 0, ranges: 1, equalEach: 2, equalOrdered: 3 } as const;

/** Elements of a vector as the immediate's format says: unsigned or signed bytes or words. */
function elements(bytes: Uint8Array, format: number): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, BYTES);
  const words = (format & 1) !== 0;
  const signed = (format & 2) !== 0;
  return Array.from({ length: words ? 8 : 16 }, (_, i) => {
    if (words) return signed ? view.getInt16(i * 2, true) : view.getUint16(i * 2, true);
    return signed ? view.getInt8(i) : view.getUint8(i);
  });
}

/** Length of a string that ends with a zero element. */
function implicitLength(list: readonly number[]): number {
  const end = list.indexOf(0);
  return end < 0 ? list.length : end;
}

/** Length from a register: its magnitude, at most the number of elements. */
function explicitLength(o: Operation, register: number, most: number): number {
  const { state } = o.cpu;
  const value =
    o.detail === 1 ? BigInt.asIntN(64, state.gpr(register)) : BigInt.asIntN(32, state.gpr(register));
  const magnitude = value < 0n ? -value : value;
  return magnitude > BigInt(most) ? most : Number(magnitude);
}

/** The comparison's bits, before the polarity is applied. */
function aggregate(mode: number, a: readonly number[], b: readonly number[], la: number, lb: number): number {
  const count = a.length;
  let bits = 0;
  for (let i = 0; i < count; i++) {
    let hit = false;
    switch (mode) {
      case AGGREGATION.equalAny:
        for (let j = 0; j < la; j++) hit ||= i < lb && a[j] === b[i];
        break;
      case AGGREGATION.ranges:
        for (let j = 0; j + 1 < la; j += 2) hit ||= i < lb && b[i] >= a[j] && b[i] <= a[j + 1];
        break;
      case AGGREGATION.equalEach:
        // Beyond both ends is equal, beyond one is not.
        hit = i < la && i < lb ? a[i] === b[i] : i >= la && i >= lb;
        break;
      default:
        hit = true;
        for (let j = 0; j < la && i + j < count; j++) hit &&= i + j < lb && a[j] === b[i + j];
    }
    if (hit) bits |= 1 << i;
  }
  return bits;
}

function compare(o: Operation, explicit: boolean, index: boolean): void {
  const { state, exports } = o.cpu;
  const control = state.bytes[o.pc + R.IMMEDIATE];
  const first = pointer(o, 0);
  const source = new Uint8Array(BYTES);
  if (o.memory) o.system.linear.read(address(o, BYTES), source);
  else source.set(state.bytes.subarray(pointer(o, 1), pointer(o, 1) + BYTES));
  const a = elements(state.bytes.slice(first, first + BYTES), control & 3);
  const b = elements(source, control & 3);
  const count = a.length;
  const la = explicit ? explicitLength(o, RAX, count) : implicitLength(a);
  const lb = explicit ? explicitLength(o, RDX, count) : implicitLength(b);
  let bits = aggregate((control >> 2) & 3, a, b, la, lb);
  const all = (1 << count) - 1;
  if (control & 0x10) bits ^= control & 0x20 ? (1 << lb) - 1 : all;
  bits &= all;
  if (index) {
    const at = bits === 0 ? count : control & 0x40 ? 31 - Math.clz32(bits) : 31 - Math.clz32(bits & -bits);
    state.setGpr32(RCX, at);
  } else writeMask(o, bits, count, (control & 0x40) !== 0);
  exports.setFlags(
    BigInt(
      (bits !== 0 ? FLAG.CF : 0) |
        (lb < count ? FLAG.ZF : 0) |
        (la < count ? FLAG.SF : 0) |
        (bits & 1 ? FLAG.OF : 0),
    ),
  );
}

/** XMM0: the bits themselves, or each spread over its element. */
function writeMask(o: Operation, bits: number, count: number, spread: boolean): void {
  const { state } = o.cpu;
  const xmm0 = state.base + S.XMM;
  state.bytes.fill(0, xmm0, xmm0 + BYTES);
  if (!spread) {
    state.view.setUint16(xmm0, bits, true);
    return;
  }
  const width = BYTES / count;
  for (let i = 0; i < count; i++)
    if ((bits >> i) & 1) state.bytes.fill(0xff, xmm0 + i * width, xmm0 + (i + 1) * width);
}

export const STRING_COMPARE_OPERATIONS: Operations = {
  PCMPESTRI: (o) => compare(o, true, true),
  PCMPESTRM: (o) => compare(o, true, false),
  PCMPISTRI: (o) => compare(o, false, true),
  PCMPISTRM: (o) => compare(o, false, false),
};
