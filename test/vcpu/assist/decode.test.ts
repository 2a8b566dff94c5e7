import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type CodeWidth, decode, describeInstruction } from '../../../src/vcpu/assist/index.ts';

const width = fc.constantFrom<CodeWidth>(16, 32, 64);
const hex = (text: string) => Uint8Array.from(Buffer.from(text.replaceAll(' ', ''), 'hex'));

/** Instruction bytes and their lengths; everything after is filler. */
const LENGTHS: readonly (readonly [string, CodeWidth, number])[] = [
  ['cc', 64, 1],
  ['cd 80', 64, 2],
  ['9b', 16, 1],
  ['90', 64, 1],
  ['48 b8 8877665544332211', 64, 10],
  ['b8 44332211', 64, 5],
  ['66 b8 2211', 64, 4],
  ['b8 2211', 16, 3],
  ['66 b8 44332211', 16, 6],
  ['a1 8877665544332211', 64, 9],
  ['67 a1 44332211', 64, 6],
  ['c8 1000 01', 64, 4],
  ['c2 0800', 64, 3],
  ['e8 00000000', 64, 5],
  ['66 e8 00000000', 64, 6],
  ['e8 0000', 16, 3],
  ['ea 00000000 0800', 32, 7],
  ['f6 04 25 00000000 01', 64, 8],
  ['f7 d8', 64, 2],
  ['f7 c0 01000000', 64, 6],
  ['f0 48 0f c7 0e', 64, 5],
  ['0f 1f 84 00 00000000', 64, 8],
  ['66 2e 0f 1f 84 00 00000000', 64, 10],
  ['0f 80 00000000', 64, 6],
  ['66 0f 3a 0f c1 04', 64, 6],
  ['66 0f 38 00 05 00000000', 64, 9],
  ['c5 f8 77', 64, 3],
  ['c4 e3 7d 39 c1 01', 64, 6],
  ['62 f1 7c 48 28 05 00000000', 64, 10],
  ['c4 00', 32, 2],
  ['62 00', 32, 2],
  ['8b 47 10', 16, 3],
  ['8b 06 3412', 16, 4],
  ['67 8b 04 24', 16, 4],
  ['0f 20 c0', 64, 3],
  ['0f ba e0 03', 64, 4],
  ['f3 0f 1e fa', 64, 4],
];

describe('decode', () => {
  test.each(LENGTHS)('%s at %i bits has %i bytes', (text, bits, length) => {
    const code = new Uint8Array(15).fill(0);
    code.set(hex(text));

    expect(decode(code, bits)?.bytes.length).toBe(length);
  });

  test('knows RIP-relative operands, SIB and REX', () => {
    expect(decode(hex('660f6f05 10000000'), 64)?.memory).toMatchObject({
      ripRelative: true,
      displacement: 16,
    });
    expect(decode(hex('4b8b44f5 f0'), 64)?.memory).toEqual({
      base: 13,
      index: 14,
      scale: 8,
      displacement: -16,
      ripRelative: false,
      segment: 3,
    });
    expect(decode(hex('65488b042528000000'), 64)?.memory).toMatchObject({ base: -1, index: -1, segment: 5 });
    expect(decode(hex('8b4500'), 32)?.memory).toMatchObject({ base: 5, segment: 2 });
  });

  test.each([
    ['a REX prefix before another prefix counts for nothing', '48660f6fc0', 64],
    ['LOCK', 'f00fc70e', 64],
  ] as const)('%s', (what, text, bits) => {
    const instruction = decode(hex(text), bits)!;

    expect(instruction.w).toBe(false);
    expect(instruction.lock).toBe(what === 'LOCK');
  });

  test('refuses what is no instruction', () => {
    expect(decode(hex('06'), 64)).toBeUndefined();
    expect(decode(hex('ea 00000000 0800'), 64)).toBeUndefined();
    expect(decode(hex('66'.repeat(15)), 64)).toBeUndefined();
    expect(decode(hex(`${'66'.repeat(14)}0f0b`), 64)).toBeUndefined();
    expect(decode(hex('f0c5f877'), 64)).toBeUndefined();
    expect(decode(new Uint8Array(0), 64)).toBeUndefined();
  });

  test('never throws and never exceeds 15 bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 24 }), width, (bytes, bits) => {
        const instruction = decode(bytes, bits);
        if (instruction === undefined) return;
        expect(instruction.bytes.length).toBeGreaterThan(0);
        expect(instruction.bytes.length).toBeLessThanOrEqual(15);
        expect([...instruction.bytes]).toEqual([...bytes.subarray(0, instruction.bytes.length)]);
      }),
      { numRuns: 5000 },
    );
  });

  test('depends on nothing behind the instruction', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 15, maxLength: 15 }), width, (bytes, bits) => {
        const instruction = decode(bytes, bits);
        if (instruction === undefined) return;
        expect(decode(instruction.bytes, bits)).toEqual(instruction);
        expect(decode(instruction.bytes.subarray(0, -1), bits)).toBeUndefined();
      }),
      { numRuns: 3000 },
    );
  });
});

describe('describeInstruction', () => {
  test.each([
    ['f0480fc70e', 'lock cmpxchg16b'],
    ['f00fc70e', 'lock cmpxchg8b'],
    ['0f01f9', 'rdtscp'],
    ['480f01f8', 'swapgs'],
    ['0f34', 'sysenter'],
    ['0f58c1', 'addps'],
    ['d9e8', 'fld1'],
    ['4889e5', 'mov'],
    ['0f01c1', 'vmcall'],
    ['c5f458c1', 'AVX instruction 0f 58'],
    ['62f17c4858c1', 'AVX-512 instruction 0f 58'],
    ['0f38cbc1', 'sha256rnds2'],
    ['66', 'unknown instruction'],
  ])('%s is %s', (text, mnemonic) => {
    expect(describeInstruction(hex(text), 64)).toBe(mnemonic);
  });

  test('always says something', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 16 }), width, (bytes, bits) => {
        expect(describeInstruction(bytes, bits).length).toBeGreaterThan(0);
      }),
      { numRuns: 3000 },
    );
  });
});
