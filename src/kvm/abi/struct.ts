/**
 * C struct layouts in TypeScript: natural alignment, little endian, as the x86-64 System V ABI lays out the KVM
 * UAPI. Offsets and sizes are computed from the field list, and encoding checks that every value fits its field.
 */
import { TsvError } from '../../errors.ts';

/** How one field is read and written; `size` and `align` in bytes. */
export interface Codec<T> {
  readonly size: number;
  readonly align: number;
  read(view: DataView, at: number): T;
  /** @param path the field's name for error messages, e.g. `kvm_regs.rip` */
  write(view: DataView, at: number, value: T, path: string): void;
}

/** Value type of padding: it never appears in decoded values. */
declare const padding: unique symbol;
type Padding = typeof padding;

/** Fields of a struct in order of declaration. */
export type Fields = Record<string, Codec<unknown>>;

/** The TypeScript value of a struct with these fields. */
export type ValueOf<F extends Fields> = {
  -readonly [K in keyof F as F[K] extends { readonly padding: true } ? never : K]: F[K] extends Codec<infer T>
    ? T
    : never;
};

/** A struct: a codec with a name, field offsets and whole-buffer encode and decode. */
export interface Struct<T, Names extends string = string> extends Codec<T> {
  readonly name: string;
  /** Codecs of the fields, without padding. */
  readonly fields: Fields;
  /** Byte offset of each field, without padding. */
  readonly offsets: Readonly<Record<Names, number>>;
  /**
   * Writes `value` into `out` (its first `size` bytes; padding is zeroed), or into a new buffer.
   * @throws TSV_E_STATE when a value does not fit its field or is missing
   */
  encode(value: T, out?: Uint8Array): Uint8Array;
  /** Reads the first `size` bytes. @throws TSV_E_STATE when there are fewer */
  decode(bytes: Uint8Array): T;
}

function misfit(path: string, value: unknown, type: string): TsvError {
  return new TsvError('TSV_E_STATE', `${path} is ${String(value)}, which is not a valid ${type}.`, {
    hint: `Give ${path} a value of that type.`,
  });
}

function scalar(
  bytes: 1 | 2 | 4,
  signed: boolean,
  read: (view: DataView, at: number) => number,
  write: (view: DataView, at: number, value: number) => void,
): Codec<number> {
  const type = `${signed ? 's' : 'u'}${bytes * 8}`;
  const span = 2 ** (bytes * 8);
  const min = signed ? -span / 2 : 0;
  const max = min + span - 1;
  return {
    size: bytes,
    align: bytes,
    read,
    write(view, at, value, path) {
      if (!Number.isInteger(value) || value < min || value > max) throw misfit(path, value, type);
      write(view, at, value);
    },
  };
}

export const u8 = scalar(
  1,
  false,
  (view, at) => view.getUint8(at),
  (view, at, value) => view.setUint8(at, value),
);
export const u16 = scalar(
  2,
  false,
  (view, at) => view.getUint16(at, true),
  (view, at, value) => view.setUint16(at, value, true),
);
export const u32 = scalar(
  4,
  false,
  (view, at) => view.getUint32(at, true),
  (view, at, value) => view.setUint32(at, value, true),
);
export const s32 = scalar(
  4,
  true,
  (view, at) => view.getInt32(at, true),
  (view, at, value) => view.setInt32(at, value, true),
);

/** A 64-bit value as an unsigned bigint. */
export const u64: Codec<bigint> = {
  size: 8,
  align: 8,
  read: (view, at) => view.getBigUint64(at, true),
  write(view, at, value, path) {
    if (typeof value !== 'bigint' || value < 0n || value > 0xffff_ffff_ffff_ffffn) {
      throw misfit(path, value, 'u64');
    }
    view.setBigUint64(at, value, true);
  },
};

/** A signed 64-bit value (host time stamps). */
export const s64: Codec<bigint> = {
  size: 8,
  align: 8,
  read: (view, at) => view.getBigInt64(at, true),
  write(view, at, value, path) {
    if (typeof value !== 'bigint' || BigInt.asIntN(64, value) !== value) throw misfit(path, value, 's64');
    view.setBigInt64(at, value, true);
  },
};

/** A 64-bit field that holds a guest-physical address or a size: a number below 2^53. */
export const address: Codec<number> = {
  size: 8,
  align: 8,
  read(view, at) {
    return view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
  },
  write(view, at, value, path) {
    if (!Number.isSafeInteger(value) || value < 0) throw misfit(path, value, 'address');
    view.setUint32(at, value % 2 ** 32, true);
    view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
  },
};

/** `length` raw bytes; decoding copies them, encoding needs exactly that many. */
export function blob(length: number): Codec<Uint8Array> {
  return {
    size: length,
    align: 1,
    read: (view, at) => new Uint8Array(view.buffer, view.byteOffset + at, length).slice(),
    write(view, at, value, path) {
      if (!(value instanceof Uint8Array) || value.length !== length) {
        throw misfit(
          path,
          value instanceof Uint8Array ? `${value.length} bytes` : value,
          `blob of ${length} bytes`,
        );
      }
      new Uint8Array(view.buffer, view.byteOffset + at, length).set(value);
    },
  };
}

/** A codec of bytes that mean nothing. */
export interface PaddingCodec extends Codec<Padding> {
  readonly padding: true;
}

/** `length` bytes that mean nothing; written as zero. */
export function pad(length: number): PaddingCodec {
  return {
    padding: true,
    size: length,
    align: 1,
    read: () => undefined as unknown as Padding,
    write() {},
  };
}

/** A C array of `length` elements. */
export function array<T>(element: Codec<T>, length: number): Codec<T[]> {
  return {
    size: element.size * length,
    align: element.align,
    read: (view, at) => Array.from({ length }, (_, i) => element.read(view, at + i * element.size)),
    write(view, at, value, path) {
      if (!Array.isArray(value) || value.length !== length) {
        throw misfit(
          path,
          Array.isArray(value) ? `${value.length} elements` : value,
          `array of ${length} elements`,
        );
      }
      for (let i = 0; i < length; i++) element.write(view, at + i * element.size, value[i], `${path}[${i}]`);
    },
  };
}

/**
 * Lays out a struct. Fields follow each other with natural alignment; {@link pad} fields are left out of values.
 * @param name the C name without `struct`
 */
export function struct<F extends Fields>(name: string, fields: F): Struct<ValueOf<F>, keyof F & string> {
  const offsets: Record<string, number> = {};
  const members: { key: string; at: number; codec: Codec<unknown> }[] = [];
  let at = 0;
  let align = 1;
  for (const [key, codec] of Object.entries(fields)) {
    at = Math.ceil(at / codec.align) * codec.align;
    align = Math.max(align, codec.align);
    if (!('padding' in codec)) {
      offsets[key] = at;
      members.push({ key, at, codec });
    }
    at += codec.size;
  }
  const size = Math.ceil(at / align) * align;

  function read(view: DataView, base: number): ValueOf<F> {
    const value: Record<string, unknown> = {};
    for (const member of members) value[member.key] = member.codec.read(view, base + member.at);
    return value as ValueOf<F>;
  }
  function write(view: DataView, base: number, value: ValueOf<F>, path: string): void {
    if (typeof value !== 'object' || value === null) throw misfit(path, value, name || 'struct');
    const values = value as Record<string, unknown>;
    for (const { key, at, codec } of members) codec.write(view, base + at, values[key], `${path}.${key}`);
  }
  return {
    name,
    size,
    align,
    fields: Object.fromEntries(members.map(({ key, codec }) => [key, codec])),
    offsets: offsets as Record<keyof F & string, number>,
    read,
    write,
    encode(value, out = new Uint8Array(size)) {
      need(name, out, size);
      out.fill(0, 0, size);
      write(viewOf(out), 0, value, name);
      return out;
    },
    decode(bytes) {
      need(name, bytes, size);
      return read(viewOf(bytes), 0);
    },
  };
}

/** A header with a 32-bit count followed by that many elements (kvm_msrs, kvm_cpuid2, kvm_irq_routing ...). */
export interface ListStruct<T> {
  readonly name: string;
  /** Bytes before the first element; the size the ioctl number is computed from. */
  readonly size: number;
  readonly element: Codec<T>;
  /** A list with its count set, ready for a SET ioctl. @throws TSV_E_STATE */
  encode(list: readonly T[]): Uint8Array;
  /** A zeroed list with room for `capacity` elements and the count set to it, ready for a GET ioctl. */
  allocate(capacity: number): Uint8Array;
  /** Reads as many elements as the count says. @throws TSV_E_STATE when they are not all there */
  decode(bytes: Uint8Array): T[];
}

/**
 * Lays out a list whose count is the first 32 bits.
 * @param headerSize bytes before the first element
 */
export function listStruct<T>(name: string, headerSize: number, element: Codec<T>): ListStruct<T> {
  function allocate(capacity: number): Uint8Array {
    const bytes = new Uint8Array(headerSize + capacity * element.size);
    viewOf(bytes).setUint32(0, capacity, true);
    return bytes;
  }
  return {
    name,
    size: headerSize,
    element,
    allocate,
    encode(list) {
      const bytes = allocate(list.length);
      const view = viewOf(bytes);
      list.forEach((item, i) => {
        element.write(view, headerSize + i * element.size, item, `${name}[${i}]`);
      });
      return bytes;
    },
    decode(bytes) {
      need(name, bytes, headerSize);
      const view = viewOf(bytes);
      const count = view.getUint32(0, true);
      need(name, bytes, headerSize + count * element.size);
      return Array.from({ length: count }, (_, i) => element.read(view, headerSize + i * element.size));
    },
  };
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function need(name: string, bytes: Uint8Array, size: number): void {
  if (bytes.length >= size) return;
  throw new TsvError(
    'TSV_E_STATE',
    `struct ${name} needs ${size} bytes but the buffer has ${bytes.length}.`,
    {
      hint: 'The buffer is truncated; pass it whole.',
    },
  );
}
