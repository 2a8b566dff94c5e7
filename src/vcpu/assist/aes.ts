/** AES rounds and carry-less multiplication (FIPS 197; Intel SDM vol. 2, AESENC ... PCLMULQDQ). */
import { quads } from './lanes.ts';

/** Multiplication by x in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1. */
function xtime(a: number): number {
  return ((a << 1) ^ (a & 0x80 ? 0x11b : 0)) & 0xff;
}

function multiply(a: number, b: number): number {
  let [product, factor] = [0, a];
  for (let bits = b; bits !== 0; bits >>= 1) {
    if (bits & 1) product ^= factor;
    factor = xtime(factor);
  }
  return product;
}

/** FIPS 197 section 5.1.1: the inverse in GF(2^8) and an affine transformation. */
function makeSbox(): Uint8Array {
  const sbox = new Uint8Array(256);
  for (let value = 0; value < 256; value++) {
    let inverse = 0;
    for (let candidate = 1; candidate < 256 && inverse === 0; candidate++) {
      if (multiply(value, candidate) === 1) inverse = candidate;
    }
    let out = 0x63;
    for (let turn = 0; turn < 5; turn++) out ^= ((inverse << turn) | (inverse >> (8 - turn))) & 0xff;
    sbox[value] = out;
  }
  return sbox;
}

let tables: { sbox: Uint8Array; inverse: Uint8Array } | undefined;

/** The S-box and its inverse, computed when first used. */
function sboxes(): { sbox: Uint8Array; inverse: Uint8Array } {
  if (tables === undefined) {
    const sbox = makeSbox();
    const inverse = new Uint8Array(256);
    for (const [value, substitute] of sbox.entries()) inverse[substitute] = value;
    tables = { sbox, inverse };
  }
  return tables;
}

/** ShiftRows by columns of a 4 by 4 state stored column by column. */
function shiftRows(state: Uint8Array, direction: 1 | -1): Uint8Array {
  return state.map((_, i) => state[(i + direction * 4 * (i % 4) + 16) % 16]);
}

function mixColumns(state: Uint8Array, matrix: readonly number[]): Uint8Array {
  return state.map((_, i) => {
    const column = i - (i % 4);
    return [0, 1, 2, 3].reduce(
      (sum, k) => sum ^ multiply(state[column + k], matrix[(k - (i % 4) + 4) % 4]),
      0,
    );
  });
}

const MIX = [2, 3, 1, 1];
const INVERSE_MIX = [14, 11, 13, 9];

const xor = (a: Uint8Array, b: Uint8Array): Uint8Array => a.map((byte, i) => byte ^ b[i]);
const substitute = (a: Uint8Array, box: Uint8Array): Uint8Array => a.map((byte) => box[byte]);

export function aesenc(state: Uint8Array, key: Uint8Array): Uint8Array {
  return xor(mixColumns(substitute(shiftRows(state, 1), sboxes().sbox), MIX), key);
}
export function aesenclast(state: Uint8Array, key: Uint8Array): Uint8Array {
  return xor(substitute(shiftRows(state, 1), sboxes().sbox), key);
}
export function aesdec(state: Uint8Array, key: Uint8Array): Uint8Array {
  return xor(mixColumns(substitute(shiftRows(state, -1), sboxes().inverse), INVERSE_MIX), key);
}
export function aesdeclast(state: Uint8Array, key: Uint8Array): Uint8Array {
  return xor(substitute(shiftRows(state, -1), sboxes().inverse), key);
}
export function aesimc(state: Uint8Array): Uint8Array {
  return mixColumns(state, INVERSE_MIX);
}

/** AESKEYGENASSIST: substituted words 1 and 3, and each rotated by a byte with the round constant. */
export function aeskeygenassist(source: Uint8Array, constant: number): Uint8Array {
  const out = new Uint8Array(16);
  const { sbox } = sboxes();
  for (const word of [1, 3]) {
    const bytes = substitute(source.subarray(word * 4, word * 4 + 4), sbox);
    const at = (word - 1) * 4;
    out.set(bytes, at);
    out.set([bytes[1] ^ constant, bytes[2], bytes[3], bytes[0]], at + 4);
  }
  return out;
}

/** PCLMULQDQ: the product over GF(2) of the quadwords that bits 0 and 4 of the immediate choose. */
export function pclmulqdq(a: Uint8Array, b: Uint8Array, immediate: number): Uint8Array {
  const factor = quads(a)[immediate & 1];
  let product = 0n;
  for (
    let [bits, shifted] = [quads(b)[(immediate >> 4) & 1], factor];
    bits !== 0n;
    bits >>= 1n, shifted <<= 1n
  ) {
    if ((bits & 1n) !== 0n) product ^= shifted;
  }
  const out = new BigUint64Array([product & 0xffff_ffff_ffff_ffffn, product >> 64n]);
  return new Uint8Array(out.buffer);
}
