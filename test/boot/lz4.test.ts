import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decodeLz4Legacy, Lz4Error } from '../../src/boot/lz4.ts';
import { MIB, pipe } from './support.ts';

const pack = (data: Uint8Array, level = 1): Buffer => pipe('lz4', ['-l', `-${level}`, '-c', '-'], data);

function unpack(packed: Uint8Array, size: number): Uint8Array {
  const output = new Uint8Array(size);
  return output.subarray(0, decodeLz4Legacy(packed, output));
}

/** A frame of one block with the given bytes. */
function frame(...block: number[]): Buffer {
  const header = Buffer.alloc(8);
  header.writeUInt32LE(0x184c2102);
  header.writeUInt32LE(block.length, 4);
  return Buffer.concat([header, Buffer.from(block)]);
}

describe('decodeLz4Legacy', () => {
  it('unpacks what lz4(1) packs', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.uint8Array({ minLength: 1, maxLength: 40 }), fc.integer({ min: 1, max: 600 }))),
        fc.constantFrom(1, 9),
        (runs, level) => {
          const data = Buffer.concat(runs.flatMap(([bytes, times]) => Array<Uint8Array>(times).fill(bytes)));
          fc.pre(data.length > 0);
          expect(Buffer.compare(unpack(pack(data, level), data.length), data)).toBe(0);
        },
      ),
      { numRuns: 40 },
    );
  });

  it('unpacks several blocks and concatenated frames', () => {
    const data = Buffer.alloc(20 * MIB + 5);
    for (let i = 0; i < data.length; i += 4)
      data.writeUInt32LE((i * 2654435761) >>> 16, Math.min(i, data.length - 4));
    const packed = pack(data);

    expect(Buffer.compare(unpack(packed, data.length), data)).toBe(0);
    const small = Buffer.from('small');
    expect(Buffer.from(unpack(Buffer.concat([pack(small), pack(small)]), 10)).toString()).toBe('smallsmall');
  });

  it('copies overlapping matches byte by byte', () => {
    // Literal "ab", then a match of 10 bytes at distance 2, then literal "c".
    const packed = frame(0x26, 0x61, 0x62, 2, 0, 0x10, 0x63);

    expect(Buffer.from(unpack(packed, 100)).toString()).toBe('abababababab' + 'c');
  });

  it.each<[string, Buffer]>([
    ['another magic number', Buffer.from([4, 0x22, 0x4d, 0x18, 0, 0, 0, 0])],
    ['no magic number', Buffer.alloc(3)],
    ['a cut block size', frame(0x10, 0x61).subarray(0, 6)],
    ['a cut block', frame(0x10, 0x61).subarray(0, 9)],
    ['an empty block', frame()],
    ['a block without its last literals', frame(0x10, 0x61, 1, 0)],
    ['a block that ends in a match offset', frame(0x10, 0x61, 1)],
    ['a match at distance 0', frame(0x10, 0x61, 0, 0, 0x10, 0x61)],
    ['a match before the block', frame(0x10, 0x61, 2, 0, 0x10, 0x61)],
    ['more literals than there are', frame(0xf0, 255, 255, 1, 0x61)],
    ['an endless literal length', frame(0xf0, 255, 255)],
    ['an endless match length', frame(0x1f, 0x61, 1, 0, 255)],
    ['a match larger than the output', frame(0x1f, 0x61, 1, 0, 255, 255, 0, 0x10, 0x61)],
  ])('refuses %s', (_, packed) => {
    expect(() => decodeLz4Legacy(packed, new Uint8Array(64))).toThrow(Lz4Error);
  });

  it('refuses literals larger than the output', () => {
    expect(() => decodeLz4Legacy(pack(Buffer.from('0123456789')), new Uint8Array(9))).toThrow(Lz4Error);
  });

  it('never does anything else with damaged data', () => {
    const packed = pack(Buffer.from('some text, some more text, and some text again '.repeat(40)));
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(packed.length - 1), fc.nat(255)), { minLength: 1, maxLength: 8 }),
        fc.nat(packed.length),
        (changes, length) => {
          const damaged = Buffer.from(packed);
          for (const [at, value] of changes) damaged[at] = value;
          try {
            decodeLz4Legacy(damaged.subarray(0, length), new Uint8Array(2000));
          } catch (error) {
            expect(error).toBeInstanceOf(Lz4Error);
          }
        },
      ),
      { numRuns: 2000 },
    );
  });
});
