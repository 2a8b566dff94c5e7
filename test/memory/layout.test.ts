import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { TsvError } from '../../src/errors.ts';
import {
  buildE820,
  E820_TYPE,
  MAX_RAM_SIZE,
  MMIO_HOLE_END,
  MMIO_HOLE_START,
  PAGE_SIZE,
  parseMemorySize,
  planRam,
} from '../../src/memory/layout.ts';

const GIB = 2 ** 30;
const pages = fc.integer({ min: 1, max: MAX_RAM_SIZE / PAGE_SIZE }).map((n) => n * PAGE_SIZE);

function codeOf(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    if (error instanceof TsvError && error.hint !== '') return error.code;
  }
  return 'no error';
}

describe('planRam', () => {
  it('keeps small RAM in one region from address 0', () => {
    expect(planRam(128 * 2 ** 20)).toEqual([{ gpa: 0, size: 128 * 2 ** 20 }]);
    expect(planRam(3 * GIB)).toEqual([{ gpa: 0, size: 3 * GIB }]);
  });

  it('continues above 4 GiB', () => {
    expect(planRam(5 * GIB)).toEqual([
      { gpa: 0, size: 3 * GIB },
      { gpa: 4 * GIB, size: 2 * GIB },
    ]);
  });

  it('never loses a byte and never touches the MMIO hole', () => {
    fc.assert(
      fc.property(pages, (size) => {
        const regions = planRam(size);
        expect(regions.reduce((sum, r) => sum + r.size, 0)).toBe(size);
        for (const r of regions) {
          expect(r.gpa + r.size <= MMIO_HOLE_START || r.gpa >= MMIO_HOLE_END).toBe(true);
        }
      }),
    );
  });
});

describe('parseMemorySize', () => {
  it.each([
    ['512', 512 * 2 ** 20],
    [512, 512 * 2 ** 20],
    ['512M', 512 * 2 ** 20],
    ['512MiB', 512 * 2 ** 20],
    ['512mb', 512 * 2 ** 20],
    ['2G', 2 * GIB],
    ['0.5g', GIB / 2],
    [' 64 K ', 65536],
    ['4096B', 4096],
    ['1T', 2 ** 40],
  ])('reads %j', (text, bytes) => {
    expect(parseMemorySize(text)).toBe(bytes);
  });

  it.each([
    '',
    '0',
    '0M',
    '3 bytes',
    '3B',
    '4097B',
    '0.0001K',
    '-1',
    '-512M',
    '10T',
    '10 TB',
    '1e3',
    'lots',
    '512X',
    '0x100',
    'NaN',
    'Infinity',
    '9'.repeat(400),
    Number.NaN,
    -5,
    0,
    Number.POSITIVE_INFINITY,
  ])('refuses %j', (text) => {
    expect(codeOf(() => parseMemorySize(text))).toBe('TSV_E_MEMORY_SIZE');
  });

  it('answers whole pages or an error for any text', () => {
    fc.assert(
      fc.property(
        fc.oneof(fc.string(), fc.stringMatching(/^\d{1,20}(\.\d{0,4})? ?[kKmMgGtTbB]?(iB)?$/)),
        (text) => {
          try {
            const size = parseMemorySize(text);
            expect(size > 0 && size <= MAX_RAM_SIZE && size % PAGE_SIZE === 0).toBe(true);
          } catch (error) {
            expect(error).toMatchObject({ code: 'TSV_E_MEMORY_SIZE' });
          }
        },
      ),
    );
  });
});

describe('buildE820', () => {
  it('describes a PC with 5 GiB', () => {
    const { RAM, RESERVED } = E820_TYPE;

    const map = buildE820(planRam(5 * GIB));

    expect(map).toEqual([
      { addr: 0, size: 0x9fc00, type: RAM },
      { addr: 0x9fc00, size: 0x400, type: RESERVED },
      { addr: 0xe0000, size: 0x20000, type: RESERVED },
      { addr: 0x100000, size: 3 * GIB - 0x100000, type: RAM },
      { addr: 0xfec00000, size: 0x1000, type: RESERVED },
      { addr: 0xfee00000, size: 0x1000, type: RESERVED },
      { addr: 0xfeffc000, size: 0x4000, type: RESERVED },
      { addr: 4 * GIB, size: 2 * GIB, type: RAM },
    ]);
  });

  it('takes further reserved ranges out of RAM', () => {
    const map = buildE820(planRam(16 * 2 ** 20), [{ gpa: 0x200000, size: 0x1000 }]);

    expect(map).toContainEqual({ addr: 0x100000, size: 0x100000, type: E820_TYPE.RAM });
    expect(map).toContainEqual({ addr: 0x200000, size: 0x1000, type: E820_TYPE.RESERVED });
    expect(map).toContainEqual({ addr: 0x201000, size: 0xdff000, type: E820_TYPE.RAM });
  });

  it('refuses reserved ranges that are no ranges', () => {
    expect(codeOf(() => buildE820(planRam(2 ** 20), [{ gpa: -1, size: 5 }]))).toBe('TSV_E_CONFIG');
    expect(codeOf(() => buildE820(planRam(2 ** 20), [{ gpa: 0, size: 0 }]))).toBe('TSV_E_CONFIG');
  });

  it('is sorted, does not overlap and calls nothing RAM that is not', () => {
    const range = fc.record({ gpa: fc.nat(2 ** 33), size: fc.integer({ min: 1, max: 2 ** 30 }) });
    fc.assert(
      fc.property(pages, fc.array(range, { maxLength: 8 }), (size, reserved) => {
        const ram = planRam(size);

        const map = buildE820(ram, reserved);

        for (let i = 1; i < map.length; i++) {
          expect(map[i].addr).toBeGreaterThanOrEqual(map[i - 1].addr + map[i - 1].size);
        }
        for (const e of map.filter((e) => e.type === E820_TYPE.RAM)) {
          expect(ram.some((r) => e.addr >= r.gpa && e.addr + e.size <= r.gpa + r.size)).toBe(true);
          expect(reserved.every((r) => e.addr >= r.gpa + r.size || e.addr + e.size <= r.gpa)).toBe(true);
        }
      }),
    );
  });
});
