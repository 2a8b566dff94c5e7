/** Arithmetic on 128-bit lanes of packed integers. */

const ARRAYS = {
  u8: Uint8Array,
  s8: Int8Array,
  u16: Uint16Array,
  s16: Int16Array,
  u32: Uint32Array,
  s32: Int32Array,
} as const;

/** A copy of the lane's bytes that starts a buffer, so that wider elements are aligned. */
function aligned(lane: Uint8Array): ArrayBuffer {
  return new Uint8Array(lane).buffer;
}

/** Elements of up to 32 bits as a typed array, copied from the lane's bytes (the host is little-endian x86-64). */
export function elements(lane: Uint8Array, element: keyof typeof ARRAYS) {
  const Type = ARRAYS[element];
  return new Type(aligned(lane), 0, lane.length / Type.BYTES_PER_ELEMENT);
}

/** 64-bit elements. */
export function quads(lane: Uint8Array): BigUint64Array {
  return new BigUint64Array(aligned(lane), 0, lane.length / 8);
}

/** The lane a function of its elements makes. */
export function mapElements(
  element: keyof typeof ARRAYS,
  a: Uint8Array,
  b: Uint8Array,
  compute: (x: number, y: number) => number,
): Uint8Array {
  const [x, y] = [elements(a, element), elements(b, element)];
  const out = new ARRAYS[element](x.length);
  for (let i = 0; i < out.length; i++) out[i] = compute(x[i], y[i]);
  return new Uint8Array(out.buffer);
}

/** The same for 64-bit elements. */
export function mapQuads(
  a: Uint8Array,
  b: Uint8Array,
  compute: (x: bigint, y: bigint) => bigint,
): Uint8Array {
  const [x, y] = [quads(a), quads(b)];
  const out = new BigUint64Array(x.length);
  for (let i = 0; i < out.length; i++) out[i] = compute(x[i], y[i]);
  return new Uint8Array(out.buffer);
}

/** Clamps to the range of an element. */
export function saturate(value: number, element: 'u8' | 's8' | 'u16' | 's16'): number {
  const bits = element.endsWith('8') ? 8 : 16;
  const [min, max] = element[0] === 's' ? [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] : [0, 2 ** bits - 1];
  return Math.min(Math.max(value, min), max);
}

/** Interleaves the low or high halves of two lanes, elements of `size` bytes. */
export function unpack(a: Uint8Array, b: Uint8Array, size: number, high: boolean): Uint8Array {
  const out = new Uint8Array(a.length);
  const from = high ? a.length / 2 : 0;
  for (let i = 0; i < a.length / 2 / size; i++) {
    out.set(a.subarray(from + i * size, from + (i + 1) * size), 2 * i * size);
    out.set(b.subarray(from + i * size, from + (i + 1) * size), (2 * i + 1) * size);
  }
  return out;
}

/** Narrows the elements of two lanes with saturation. */
export function pack(
  a: Uint8Array,
  b: Uint8Array,
  from: 's16' | 's32',
  to: 'u8' | 's8' | 'u16' | 's16',
): Uint8Array {
  const values = [...elements(a, from), ...elements(b, from)].map((value) => saturate(value, to));
  return new Uint8Array(ARRAYS[to].from(values).buffer);
}

/** Elements of `size` bytes of a lane in the order given. */
export function shuffle(a: Uint8Array, size: number, order: readonly number[]): Uint8Array {
  const out = new Uint8Array(order.length * size);
  for (const [i, from] of order.entries()) out.set(a.subarray(from * size, (from + 1) * size), i * size);
  return out;
}

/** Four 2-bit selectors of an immediate. */
export function selectors(immediate: number): [number, number, number, number] {
  return [immediate & 3, (immediate >> 2) & 3, (immediate >> 4) & 3, (immediate >> 6) & 3];
}
