import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BOOT_LAYOUT, MemoryPlan } from '../../src/boot/layout.ts';
import { BIOS_AREA_START, EBDA_START } from '../../src/memory/layout.ts';
import { expectError, MIB, machine } from './support.ts';

describe('BOOT_LAYOUT', () => {
  it('keeps its parts apart, above the BIOS data area and below the EBDA', () => {
    const ranges = Object.values(BOOT_LAYOUT).sort((a, b) => a.gpa - b.gpa);

    ranges.forEach((range, i) => {
      expect(range.gpa).toBeGreaterThanOrEqual(0x500);
      expect(range.gpa + range.size).toBeLessThanOrEqual(ranges[i + 1]?.gpa ?? EBDA_START);
    });
  });
});

describe('MemoryPlan', () => {
  const plan = (): MemoryPlan => {
    const { memory, e820 } = machine(16 * MIB);
    return new MemoryPlan(memory, e820);
  };

  it('knows RAM from holes', () => {
    expect(plan().isRam(0, EBDA_START)).toBe(true);
    expect(plan().isRam(0, EBDA_START + 1)).toBe(false);
    expect(plan().isRam(BIOS_AREA_START, 1)).toBe(false);
    expect(plan().isRam(MIB, 15 * MIB)).toBe(true);
    expect(plan().isRam(MIB, 15 * MIB + 1)).toBe(false);
  });

  it('names both parties of an overlap', async () => {
    const p = plan();
    p.take({ name: 'command line', gpa: 0x20000, size: 100 });

    p.take({ name: 'thing beside it', gpa: 0x20064, size: 100 });
    await expectError(
      () => p.take({ name: 'kernel segment', gpa: 0x1f000, size: 0x1001 }),
      'TSV_E_KERNEL_LAYOUT',
      /kernel segment at 0x1f000-0x20001 overlaps the command line at 0x20000-0x20064/,
    );
  });

  it('places things high and low, page aligned, free and in RAM, as far out as there is room', () => {
    const range = fc.record({ gpa: fc.nat(16 * MIB - 1), size: fc.integer({ min: 1, max: 2 * MIB }) });
    fc.assert(
      fc.property(fc.array(range, { maxLength: 8 }), fc.integer({ min: 1, max: 8 * MIB }), (taken, size) => {
        const p = plan();
        for (const each of taken) p.avoid({ name: 'x', ...each });
        const free = (gpa: number): boolean => p.isRam(gpa, size) && p.overlapping(gpa, size) === undefined;
        const places: number[] = [];
        for (let gpa = 0; gpa < 16 * MIB; gpa += 4096) if (free(gpa)) places.push(gpa);

        expect(p.findLow(size, 0)).toBe(places[0]);
        expect(p.findHigh(size, 2 ** 32)).toBe(places.at(-1));
      }),
      { numRuns: 60 },
    );
  });
});
