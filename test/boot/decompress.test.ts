import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Compression } from '../../src/boot/compression.ts';
import { detectCompression } from '../../src/boot/compression.ts';
import { decompress, unpackZstdInJs } from '../../src/boot/decompress.ts';
import { TsvError } from '../../src/errors.ts';
import { expectError, MIB, pipe } from './support.ts';

/** Commands that pack each supported format, with the options that matter to a decoder. */
const PACKERS: readonly (readonly [Compression, string, readonly string[]])[] = [
  ['gzip', 'gzip', ['-c']],
  ['lz4', 'lz4', ['-l', '-c', '-']],
  ['zstd', 'zstd', ['-c', '-3']],
  ['zstd', 'zstd', ['-c', '-19', '--no-check', '--long=27']],
  ['lzma', 'lzma', ['-c', '-1']],
  ['lzma', 'xz', ['-c', '--format=lzma', '-9']],
  ['xz', 'xz', ['-c', '-1']],
  ['xz', 'xz', ['-c', '--check=none', '-1']],
  ['xz', 'xz', ['-c', '--check=sha256', '-0']],
  ['xz', 'xz', ['-c', '--check=crc32', '--x86', '--lzma2=dict=128MiB']],
  ['xz', 'xz', ['-c', '--check=crc64', '--x86', '--lzma2=lc=0,lp=4,pb=4']],
  ['xz', 'xz', ['-c', '-T2', '--block-size=3000']],
];

/** Looks like machine code to the x86 filter: calls and jumps near and far among other bytes. */
function codeLike(seed: number, size: number): Buffer {
  const data = Buffer.alloc(size);
  let state = seed;
  for (let i = 0; i < size; i++) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    const pick = state >>> 28;
    data[i] = pick < 5 ? 0xe8 | (pick & 1) : pick < 8 ? 0 : pick < 10 ? 0xff : state >>> 16;
  }
  return data;
}

const what = 'the test data';

describe.each(PACKERS)('%s packed by %s %j', (compression, command, args) => {
  const pack = (data: Uint8Array): Buffer => pipe(command, args, data);
  const text = Buffer.from('A text with some repetition, a text with some more of it.\n'.repeat(50));

  it('is recognised', () => {
    expect(detectCompression(pack(text))).toBe(compression);
  });

  it('is unpacked, with and without knowing the size', async () => {
    const inputs = [text, codeLike(7, 50_000), Buffer.alloc(3 * MIB), Buffer.from('x')];
    for (const data of inputs) {
      const packed = pack(data);
      const maxSize = 4 * MIB;
      expect(Buffer.compare(await decompress(packed, { compression, maxSize, what }), data)).toBe(0);
      const expectedSize = data.length;
      const known = await decompress(packed, { compression, maxSize, expectedSize, what });
      expect(Buffer.compare(known, data)).toBe(0);
    }
  });

  it('is refused when it is larger than allowed or of another size than announced', async () => {
    const packed = pack(text);
    const run = (options: { maxSize: number; expectedSize?: number }): Promise<Uint8Array> =>
      decompress(packed, { compression, what, ...options });

    await expectError(() => run({ maxSize: text.length - 1 }), 'TSV_E_KERNEL_FORMAT');
    for (const expectedSize of [text.length - 1, text.length + 1, 0, 5 * MIB]) {
      await expectError(() => run({ maxSize: 4 * MIB, expectedSize }), 'TSV_E_KERNEL_FORMAT');
    }
  });

  it('is refused when it is cut off', async () => {
    const packed = pack(text);

    for (let cut = 0; cut < packed.length - 12; cut += 1 + (cut >> 3)) {
      const action = (): Promise<Uint8Array> =>
        decompress(packed.subarray(0, cut), { compression, maxSize: MIB, expectedSize: text.length, what });
      await expectError(action, 'TSV_E_KERNEL_FORMAT');
    }
  });

  it('never does anything but unpack or be refused when it is damaged', async () => {
    const packed = pack(text);
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(packed.length - 1), fc.nat(255)), { minLength: 1, maxLength: 6 }),
        async (changes) => {
          const damaged = Buffer.from(packed);
          for (const [at, value] of changes) damaged[at] = value;
          try {
            const output = await decompress(damaged, { compression, maxSize: MIB, what });
            expect(output.length).toBeLessThanOrEqual(MIB);
          } catch (error) {
            expect(error).toBeInstanceOf(TsvError);
          }
        },
      ),
      { numRuns: 150 },
    );
  });
});

describe('the ZSTD decoder for Node versions without one', () => {
  it('unpacks as zstd(1) packs, piped or from a known size', () => {
    const data = codeLike(3, 700_000);
    for (const args of [['-c'], ['-c', `--stream-size=${data.length}`]]) {
      const packed = pipe('zstd', args, data);
      expect(Buffer.compare(unpackZstdInJs(packed, MIB), data)).toBe(0);
      expect(Buffer.compare(unpackZstdInJs(packed, MIB, data.length), data)).toBe(0);
    }
  });

  it('notices a size that is not the real one', () => {
    const data = codeLike(5, 300_000);
    const packed = pipe('zstd', ['-c'], data);

    expect(() => unpackZstdInJs(packed, MIB, data.length + 1)).toThrow(/less than/);
    expect(() => unpackZstdInJs(packed, MIB, data.length - 1)).toThrow();
    expect(() => unpackZstdInJs(packed, 1000)).toThrow(/more than/);
  });

  it('refuses windows no kernel uses before it allocates them', () => {
    const header = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf0, 1, 0, 0]);

    expect(() => unpackZstdInJs(header, MIB)).toThrow(/window/);
  });
});
