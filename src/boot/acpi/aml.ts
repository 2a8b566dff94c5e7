/**
 * A writer of ACPI Machine Language (ACPI 6.5 chapter 20): each function answers the bytes of one AML object.
 *
 * ```
 * device('COM1', [name('_HID', eisaId('PNP0501')), name('_UID', integer(1))])
 * ```
 */
import { TsvError } from '../../errors.ts';

/** Bytes of an encoded object, which may be put into another. */
export type Aml = Uint8Array;

// Opcodes, ACPI 6.5 section 20.3.
const ZERO_OP = 0x00;
const ONE_OP = 0x01;
const NAME_OP = 0x08;
const BYTE_PREFIX = 0x0a;
const WORD_PREFIX = 0x0b;
const DWORD_PREFIX = 0x0c;
const STRING_PREFIX = 0x0d;
const QWORD_PREFIX = 0x0e;
const SCOPE_OP = 0x10;
const BUFFER_OP = 0x11;
const PACKAGE_OP = 0x12;
const METHOD_OP = 0x14;
const DUAL_NAME_PREFIX = 0x2e;
const MULTI_NAME_PREFIX = 0x2f;
const EXT_OP_PREFIX = 0x5b;
const ROOT_CHAR = 0x5c;
const PARENT_PREFIX_CHAR = 0x5e;
const LOCAL0_OP = 0x60;
const ARG0_OP = 0x68;
const STORE_OP = 0x70;
const DEVICE_OP = 0x82;
const RETURN_OP = 0xa4;
/** PkgLength: how many values the forms of 1, 2, 3 and 4 bytes have (section 20.2.4). */
const PKG_LENGTH_LIMITS = [2 ** 6, 2 ** 12, 2 ** 20, 2 ** 28];

/** Joins byte runs. */
export function bytes(...parts: (number | Uint8Array)[]): Aml {
  const out = new Uint8Array(parts.reduce<number>((n, p) => n + (typeof p === 'number' ? 1 : p.length), 0));
  let at = 0;
  for (const part of parts) {
    if (typeof part === 'number') out[at++] = part;
    else {
      out.set(part, at);
      at += part.length;
    }
  }
  return out;
}

/** The little-endian bytes of an unsigned number. */
export function le(value: number | bigint, size: 1 | 2 | 4 | 8): Aml {
  const wide = BigInt(value);
  if (wide < 0n || wide >> BigInt(8 * size) !== 0n) throw invalid(`${value} does not fit ${size} bytes.`);
  const out = new Uint8Array(8);
  new DataView(out.buffer).setBigUint64(0, wide, true);
  return out.subarray(0, size);
}

/**
 * An integer in its shortest form.
 * @param value 0 to 2^64-1
 */
export function integer(value: number | bigint): Aml {
  const wide = BigInt(value);
  if (wide === 0n) return bytes(ZERO_OP);
  if (wide === 1n) return bytes(ONE_OP);
  if (wide <= 0xffn) return bytes(BYTE_PREFIX, le(wide, 1));
  if (wide <= 0xffffn) return bytes(WORD_PREFIX, le(wide, 2));
  if (wide <= 0xffffffffn) return bytes(DWORD_PREFIX, le(wide, 4));
  return bytes(QWORD_PREFIX, le(wide, 8));
}

/** A string of ASCII characters other than NUL. */
export function string(text: string): Aml {
  if (!/^[\x01-\x7f]*$/.test(text)) throw invalid(`"${text}" is not ASCII.`);
  return bytes(STRING_PREFIX, Buffer.from(text, 'latin1'), 0);
}

/**
 * A compressed EISA identifier such as PNP0501 (section 19.3.4): three letters of 5 bits and four hexadecimal digits,
 * big-endian.
 */
export function eisaId(id: string): Aml {
  if (!/^[A-Z]{3}[0-9A-F]{4}$/.test(id)) throw invalid(`"${id}" is not an EISA identifier.`);
  const letters = [...id.slice(0, 3)].reduce((sum, letter) => sum * 32 + (letter.charCodeAt(0) - 0x40), 0);
  const bigEndian = letters * 2 ** 16 + Number.parseInt(id.slice(3), 16);
  return bytes(DWORD_PREFIX, le(bigEndian, 4).slice().reverse());
}

/** A name path: `_S5`, `\\_SB.PCI0`, `^COM1` (section 20.2.2). Segments are padded with `_`. */
export function namePath(path: string): Aml {
  const match = /^(\\|\^*)((?:[A-Z_][A-Z0-9_]{0,3})(?:\.[A-Z_][A-Z0-9_]{0,3})*)?$/.exec(path);
  const segments = match?.[2]?.split('.') ?? [];
  if (match === null || path === '' || segments.length > 255) throw invalid(`"${path}" is not an ACPI name.`);
  const prefix = [...match[1]].map((c) => (c === '\\' ? ROOT_CHAR : PARENT_PREFIX_CHAR));
  const encoded = segments.map((segment) => Buffer.from(segment.padEnd(4, '_'), 'latin1'));
  if (segments.length === 0) return bytes(...prefix, ZERO_OP);
  if (segments.length === 1) return bytes(...prefix, ...encoded);
  if (segments.length === 2) return bytes(...prefix, DUAL_NAME_PREFIX, ...encoded);
  return bytes(...prefix, MULTI_NAME_PREFIX, segments.length, ...encoded);
}

/** Gives an object a name. */
export function name(path: string, value: Aml): Aml {
  return bytes(NAME_OP, namePath(path), value);
}

/** Opens an existing scope. */
export function scope(path: string, body: readonly Aml[]): Aml {
  return bytes(SCOPE_OP, withLength(bytes(namePath(path), ...body)));
}

export function device(path: string, body: readonly Aml[]): Aml {
  return bytes(EXT_OP_PREFIX, DEVICE_OP, withLength(bytes(namePath(path), ...body)));
}

/** A control method that takes `args` (0 to 7) arguments. */
export function method(path: string, args: number, body: readonly Aml[]): Aml {
  if (!(args >= 0 && args <= 7)) throw invalid(`A method cannot take ${args} arguments.`);
  return bytes(METHOD_OP, withLength(bytes(namePath(path), args, ...body)));
}

/** A package of at most 255 elements. */
export function packageOf(elements: readonly Aml[]): Aml {
  return bytes(PACKAGE_OP, withLength(bytes(le(elements.length, 1), ...elements)));
}

export function buffer(contents: Uint8Array): Aml {
  return bytes(BUFFER_OP, withLength(bytes(integer(contents.length), contents)));
}

/** Argument 0 to 6 of the method being written. */
export function arg(index: number): Aml {
  if (!(index >= 0 && index <= 6)) throw invalid(`A method has no argument ${index}.`);
  return bytes(ARG0_OP + index);
}

/** Local variable 0 to 7 of the method being written. */
export function local(index: number): Aml {
  if (!(index >= 0 && index <= 7)) throw invalid(`A method has no local variable ${index}.`);
  return bytes(LOCAL0_OP + index);
}

/** `target = source`. */
export function store(source: Aml, target: Aml): Aml {
  return bytes(STORE_OP, source, target);
}

export function returns(value: Aml): Aml {
  return bytes(RETURN_OP, value);
}

/** A body with its PkgLength, which counts itself (section 20.2.4). */
function withLength(body: Uint8Array): Aml {
  const size = 1 + PKG_LENGTH_LIMITS.findIndex((limit, i) => body.length + i + 1 < limit);
  if (size === 0) throw invalid('An AML object is longer than 256 MiB.');
  const total = body.length + size;
  if (size === 1) return bytes(total, body);
  // The lead byte has the count of further bytes in bits 7 to 6 and the length's lowest four bits in bits 3 to 0.
  const rest = Array.from({ length: size - 1 }, (_, i) => (total >>> (4 + 8 * i)) & 0xff);
  return bytes(((size - 1) << 6) | (total & 0xf), ...rest, body);
}

function invalid(message: string): TsvError {
  return new TsvError('TSV_E_CONFIG', message, {
    hint: 'See ACPI 6.5 section 20.2 for what AML can encode.',
  });
}
