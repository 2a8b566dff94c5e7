/** The cryptographic instructions on the examples of their standards. */
import { expect, test } from 'vitest';
import { BareGuest, DATA } from '../support/bare-guest.ts';

const bytes = (hex: string) => Uint8Array.from(Buffer.from(hex, 'hex'));
const KEYS = DATA + 0x100;
const OUT = DATA + 0x400;

/** Writes data to DATA on, runs the code, and gives 16 or more bytes at OUT. */
function outputOf(source: string, input: Uint8Array, length = 16): string {
  const guest = new BareGuest(`${source}\nhlt`);
  guest.memory.write(DATA, input);
  expect(guest.run()).toBe('halt');
  return Buffer.from(guest.memory.read(OUT, length)).toString('hex');
}

/** Expands the key at DATA + 16 to eleven round keys at KEYS (FIPS 197, 5.2). */
function expandKey(): string {
  const lines = [`movdqa xmm1, [${DATA + 16}]`, `movdqa [${KEYS}], xmm1`];
  let constant = 1;
  for (let round = 1; round <= 10; round++) {
    lines.push(`aeskeygenassist xmm2, xmm1, ${constant}`, 'pshufd xmm2, xmm2, 0xff', 'movdqa xmm3, xmm1');
    for (let k = 0; k < 3; k++) lines.push('pslldq xmm3, 4', 'pxor xmm1, xmm3');
    lines.push('pxor xmm1, xmm2', `movdqa [${KEYS + round * 16}], xmm1`);
    constant = constant < 0x80 ? constant << 1 : 0x1b;
  }
  return lines.join('\n');
}

// FIPS 197, appendix C.1.
const PLAIN = '00112233445566778899aabbccddeeff';
const KEY = '000102030405060708090a0b0c0d0e0f';
const CIPHER = '69c4e0d86a7b0430d8cdb78070b4c55a';

test('AES encrypts the example of FIPS 197', () => {
  const lines = [expandKey(), `movdqa xmm0, [${DATA}]`, `pxor xmm0, [${KEYS}]`];
  for (let round = 1; round < 10; round++) lines.push(`aesenc xmm0, [${KEYS + round * 16}]`);
  lines.push(`aesenclast xmm0, [${KEYS + 160}]`, `movdqa [${OUT}], xmm0`);
  expect(outputOf(lines.join('\n'), bytes(PLAIN + KEY))).toBe(CIPHER);
});

test('AES decrypts it again by the equivalent inverse cipher', () => {
  const lines = [expandKey(), `movdqa xmm0, [${DATA}]`, `pxor xmm0, [${KEYS + 160}]`];
  for (let round = 9; round > 0; round--)
    lines.push(`aesimc xmm1, [${KEYS + round * 16}]`, 'aesdec xmm0, xmm1');
  lines.push(`aesdeclast xmm0, [${KEYS}]`, `movdqa [${OUT}], xmm0`);
  expect(outputOf(lines.join('\n'), bytes(CIPHER + KEY))).toBe(PLAIN);
});

test('PCLMULQDQ multiplies polynomials over GF(2)', () => {
  const a = 0x7b5b5465_73745665_63746f72_5d53475dn;
  const b = 0x48692853_68617929_5b477565_726f6e5dn;
  const input = new Uint8Array(32);
  const view = new DataView(input.buffer);
  [a, a >> 64n, b, b >> 64n].forEach((half, i) => {
    view.setBigUint64(i * 8, BigInt.asUintN(64, half), true);
  });
  const code = [0x00, 0x01, 0x10, 0x11].map(
    (control, i) =>
      `movdqa xmm0, [${DATA}]\npclmulqdq xmm0, [${DATA + 16}], ${control}\nmovdqa [${OUT + i * 16}], xmm0`,
  );
  const out = Buffer.from(outputOf(code.join('\n'), input, 64), 'hex');
  const halves = (x: bigint) => [BigInt.asUintN(64, x), x >> 64n];
  [0, 1, 2, 3].forEach((i) => {
    let product = 0n;
    for (let bit = 0n; bit < 64n; bit++) {
      if ((halves(b)[i >> 1] >> bit) & 1n) product ^= halves(a)[i & 1] << bit;
    }
    expect([out.readBigUInt64LE(i * 16), out.readBigUInt64LE(i * 16 + 8)]).toEqual(halves(product));
  });
});

const PRIMES = Array.from({ length: 312 }, (_, n) => n).filter(
  (n) => n > 1 && !Array.from({ length: n - 2 }, (_, k) => k + 2).some((d) => n % d === 0),
);
/** The first 32 bits of the fraction (FIPS 180-4, 4.2.2 and 5.3.3). */
const fraction = (x: number) => Math.floor((x % 1) * 2 ** 32) >>> 0;

/** "abc" in its block, as big-endian words. */
const ABC = [0x61626380, ...new Array<number>(14).fill(0), 24];
const littleEndian = (words: readonly number[]) =>
  Uint8Array.from(Buffer.concat(words.map((w) => Buffer.from(Uint32Array.of(w).buffer))));

test('the SHA instructions hash the SHA-256 example of FIPS 180', () => {
  const initial = PRIMES.slice(0, 8).map((p) => fraction(Math.sqrt(p)));
  const [a, b, c, d, e, f, g, h] = initial;
  const constants = PRIMES.slice(0, 64).map((p) => fraction(Math.cbrt(p)));
  // State as the instruction wants it, then the message, then the constants.
  const input = littleEndian([f, e, b, a, h, g, d, c, ...ABC, ...constants]);
  const lines = [`movdqa xmm1, [${DATA}]`, `movdqa xmm2, [${DATA + 16}]`];
  for (let i = 0; i < 4; i++) lines.push(`movdqa xmm${3 + i}, [${DATA + 32 + i * 16}]`);
  for (let i = 0; i < 16; i++) {
    const w = (k: number) => `xmm${3 + ((i + k) & 3)}`;
    lines.push(`movdqa xmm0, ${w(0)}`, `paddd xmm0, [${DATA + 96 + i * 16}]`);
    lines.push('sha256rnds2 xmm2, xmm1', 'pshufd xmm0, xmm0, 0x0e', 'sha256rnds2 xmm1, xmm2');
    lines.push(`sha256msg1 ${w(0)}, ${w(1)}`, `movdqa xmm7, ${w(3)}`, `palignr xmm7, ${w(2)}, 4`);
    lines.push(`paddd ${w(0)}, xmm7`, `sha256msg2 ${w(0)}, ${w(3)}`);
  }
  lines.push(`paddd xmm1, [${DATA}]`, `paddd xmm2, [${DATA + 16}]`);
  lines.push(`movdqa [${OUT}], xmm1`, `movdqa [${OUT + 16}], xmm2`);
  const out = Buffer.from(outputOf(lines.join('\n'), input, 32), 'hex');
  const word = (i: number) =>
    out
      .readUInt32LE(i * 4)
      .toString(16)
      .padStart(8, '0');
  // A, B, C, D, E, F, G, H
  expect([3, 2, 7, 6, 1, 0, 5, 4].map(word).join('')).toBe(
    'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad',
  );
});

test('the SHA instructions hash the SHA-1 example of FIPS 180', () => {
  const [a, b, c, d, e] = [0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0];
  const message = [0, 4, 8, 12].flatMap((i) => ABC.slice(i, i + 4).reverse());
  const input = littleEndian([d, c, b, a, 0, 0, 0, e, ...message]);
  // xmm0: A to D; xmm1: E with the words of these rounds; xmm2: A to D of four rounds before.
  const lines = [`movdqa xmm0, [${DATA}]`, `movdqa xmm1, [${DATA + 16}]`];
  for (let i = 0; i < 4; i++) lines.push(`movdqa xmm${3 + i}, [${DATA + 32 + i * 16}]`);
  for (let i = 0; i < 20; i++) {
    const w = (k: number) => `xmm${3 + ((i + k) & 3)}`;
    if (i >= 4) lines.push(`sha1msg1 ${w(0)}, ${w(1)}`, `pxor ${w(0)}, ${w(2)}`, `sha1msg2 ${w(0)}, ${w(3)}`);
    lines.push(i === 0 ? `paddd xmm1, ${w(0)}` : `sha1nexte xmm1, ${w(0)}`);
    lines.push('movdqa xmm2, xmm0', `sha1rnds4 xmm0, xmm1, ${Math.floor(i / 5)}`, 'movdqa xmm1, xmm2');
  }
  lines.push(`sha1nexte xmm1, [${DATA + 16}]`, `paddd xmm0, [${DATA}]`);
  lines.push(`movdqa [${OUT}], xmm0`, `movdqa [${OUT + 16}], xmm1`);
  const out = Buffer.from(outputOf(lines.join('\n'), input, 32), 'hex');
  const word = (i: number) =>
    out
      .readUInt32LE(i * 4)
      .toString(16)
      .padStart(8, '0');
  expect([3, 2, 1, 0, 7].map(word).join('')).toBe('a9993e364706816aba3e25717850c26c9cd0d89d');
});
