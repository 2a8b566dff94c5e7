/** Refcounts of 1 to 64 bits in a refcount block. Below a byte, the first is in the least significant bits. */

/** Reads refcount `index`; one of 64 bits beyond 2^53 is not exact. */
export function readRefcount(view: DataView, index: number, order: number): number {
  switch (order) {
    case 3:
      return view.getUint8(index);
    case 4:
      return view.getUint16(index * 2);
    case 5:
      return view.getUint32(index * 4);
    case 6:
      return view.getUint32(index * 8) * 2 ** 32 + view.getUint32(index * 8 + 4);
    default: {
      const { byte, shift, mask } = place(index, order);
      return (view.getUint8(byte) >> shift) & mask;
    }
  }
}

/** Writes refcount `index`; the value is at most {@link maxRefcount}. */
export function writeRefcount(view: DataView, index: number, order: number, value: number): void {
  switch (order) {
    case 3:
      view.setUint8(index, value);
      return;
    case 4:
      view.setUint16(index * 2, value);
      return;
    case 5:
      view.setUint32(index * 4, value);
      return;
    case 6:
      view.setUint32(index * 8, Math.floor(value / 2 ** 32));
      view.setUint32(index * 8 + 4, value >>> 0);
      return;
    default: {
      const { byte, shift, mask } = place(index, order);
      view.setUint8(byte, (view.getUint8(byte) & ~(mask << shift)) | (value << shift));
    }
  }
}

/** The largest refcount that is written. */
export function maxRefcount(order: number): number {
  return order === 6 ? Number.MAX_SAFE_INTEGER : 2 ** (2 ** order) - 1;
}

function place(index: number, order: number): { byte: number; shift: number; mask: number } {
  const bits = 1 << order;
  const perByte = 8 >> order;
  return { byte: Math.floor(index / perByte), shift: (index % perByte) * bits, mask: (1 << bits) - 1 };
}
