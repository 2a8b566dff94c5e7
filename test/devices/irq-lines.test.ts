import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { IrqLines, UNCONNECTED } from '../../src/devices/irq-lines.ts';

function recorded() {
  const changes: [number, 0 | 1][] = [];
  return { changes, lines: new IrqLines((gsi, level) => changes.push([gsi, level])) };
}

describe('interrupt lines', () => {
  it('drive their GSI when the level changes, not again when it does not', () => {
    const { changes, lines } = recorded();
    const line = lines.line(4);

    line.raise();
    line.raise();
    line.lower();
    line.lower();

    expect(changes).toEqual([
      [4, 1],
      [4, 0],
    ]);
  });

  it('share a GSI: it is high while any of them is', () => {
    const { changes, lines } = recorded();
    const [a, b] = [lines.line(9), lines.line(9)];

    a.raise();
    b.raise();
    a.lower();
    const shared = [...changes];
    b.lower();

    expect(shared).toEqual([[9, 1]]);
    expect(changes.at(-1)).toEqual([9, 0]);
  });

  it('give no edge for a pulse while another line holds the GSI high', () => {
    const { changes, lines } = recorded();
    lines.line(3).raise();

    lines.line(3).pulse();

    expect(changes).toEqual([[3, 1]]);
  });

  it('are the OR of their levels after any sequence', () => {
    fc.assert(
      fc.property(
        fc.array(fc.constantFrom(0, 1, 5), { minLength: 1, maxLength: 6 }),
        fc.array(fc.tuple(fc.nat(5), fc.constantFrom('raise' as const, 'lower' as const, 'pulse' as const)), {
          maxLength: 60,
        }),
        (wiring, steps) => {
          const { changes, lines } = recorded();
          const made = wiring.map((gsi) => lines.line(gsi));
          const levels = wiring.map(() => false);
          for (const [index, action] of steps) {
            const i = index % made.length;
            made[i][action]();
            levels[i] = action === 'raise';
          }

          for (const gsi of new Set(wiring)) {
            const high = wiring.some((other, i) => other === gsi && levels[i]);
            const own = changes.filter(([changed]) => changed === gsi).map(([, level]) => level);
            expect(own.at(-1) ?? 0).toBe(high ? 1 : 0);
            // Changes alternate, beginning with a rise.
            expect(own).toEqual(own.map((_, i) => (i % 2 === 0 ? 1 : 0)));
          }
        },
      ),
    );
  });

  it('that go nowhere may be used', () => {
    expect(() => {
      UNCONNECTED.raise();
      UNCONNECTED.lower();
      UNCONNECTED.pulse();
    }).not.toThrow();
  });
});
