import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { KvmClock, tscScale } from '../../../src/devices/irqchip/kvm-clock.ts';

const SYSTEM_TIME = 0x4b56_4d01;
const WALL_CLOCK = 0x4b56_4d00;
const STABLE = 1;
const STOPPED = 2;

/** A clock over 64 KiB of RAM at 0, with a TSC that moves when told to. */
function bench(tscKhz = 2_000_000) {
  const ram = new Uint8Array(65536);
  const versions: number[] = [];
  const view = new DataView(ram.buffer);
  const state = { tsc: 0n, zero: 0n };
  const clock = new KvmClock({
    memory: {
      read: (gpa, size) => (gpa + size <= ram.length ? ram.slice(gpa, gpa + size) : undefined),
      write: (gpa, bytes) => {
        ram.set(bytes, gpa);
        if (bytes.length === 4) versions.push(view.getUint32(gpa, true));
      },
    },
    readTsc: () => state.tsc,
    tsc: { nsAt: (tsc) => (Number(tsc - state.zero) * 1e6) / tscKhz },
    tscKhz,
    wallBase: () => 1_700_000_000_250,
  });
  /** Guest time as the guest works it out. */
  const guestNs = (gpa: number) => {
    const delta = state.tsc - view.getBigUint64(gpa + 8, true);
    const shift = view.getInt8(gpa + 28);
    const shifted = shift < 0 ? delta >> BigInt(-shift) : delta << BigInt(shift);
    return view.getBigUint64(gpa + 16, true) + ((shifted * BigInt(view.getUint32(gpa + 24, true))) >> 32n);
  };
  return { clock, ram, view, versions, state, guestNs, flags: (gpa: number) => view.getUint8(gpa + 29) };
}

describe('system time', () => {
  it('is what the guest works out from its TSC', () => {
    const { clock, state, guestNs, versions, flags } = bench();
    state.tsc = 5_000n;
    clock.writeMsr(SYSTEM_TIME, 0x1001n);
    state.tsc += 2_000_000n;
    expect([guestNs(0x1000), versions, flags(0x1000)]).toEqual([1_002_500n, [1, 2], STABLE]);
    expect(clock.readMsr(SYSTEM_TIME)).toBe(0x1001n);
  });

  it('is not written while it is not enabled, nor across a page, nor where no RAM is', () => {
    const { clock, ram } = bench();
    for (const value of [0x1000n, 0x1ff1n, 0xffff_ff01n, 2n ** 64n - 1n]) clock.writeMsr(SYSTEM_TIME, value);
    expect(ram.every((byte) => byte === 0)).toBe(true);
  });

  it('is written anew after a pause, of which the guest takes notice itself', () => {
    const { clock, state, guestNs, versions, flags, ram } = bench();
    clock.writeMsr(SYSTEM_TIME, 0x1001n);
    state.tsc = 900n;
    state.zero = 500n;
    clock.update(true);
    clock.update();
    const noticed = flags(0x1000);
    ram[0x1000 + 29] = STABLE;
    clock.update();
    expect([guestNs(0x1000), noticed, flags(0x1000)]).toEqual([200n, STABLE | STOPPED, STABLE]);
    expect(versions).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
  });
});

it('gives the wall-clock time of guest time 0', () => {
  const { clock, view } = bench();
  clock.writeMsr(WALL_CLOCK, 0x2000n);
  expect([0, 4, 8].map((at) => view.getUint32(0x2000 + at, true))).toEqual([2, 1_700_000_000, 250_000_000]);
});

it('answers the old and the new MSR numbers, and no others', () => {
  const { clock, view } = bench();
  clock.writeMsr(0x12, 0x1001n);
  clock.writeMsr(0x11, 0x2000n);
  expect([clock.readMsr(SYSTEM_TIME), clock.readMsr(WALL_CLOCK), view.getUint32(0x1000, true)]).toEqual([
    0x1001n,
    0x2000n,
    2,
  ]);
  expect([0x10, 0x11, 0x12, WALL_CLOCK, SYSTEM_TIME, SYSTEM_TIME + 1].map(KvmClock.isMsr)).toEqual([
    false,
    true,
    true,
    true,
    true,
    false,
  ]);
});

it('scales any TSC frequency with 31 bits or more', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 0xffff_ffff }), (khz) => {
      const { mul, shift } = tscScale(khz);
      expect(mul).toBeGreaterThanOrEqual(2 ** 31 - 1);
      expect(mul).toBeLessThan(2 ** 32);
      // One second of ticks; the frequency's own low bits are lost below the shift.
      const exact = (mul / 2 ** 32) * khz * 1000 * 2 ** shift;
      expect(Math.abs(exact - 1e9)).toBeLessThan(4);
    }),
  );
});

it('withstands any addresses and times', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(SYSTEM_TIME, WALL_CLOCK),
      fc.oneof(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), fc.bigInt({ min: 0n, max: 0x11000n })),
      fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
      (index, value, tsc) => {
        const { clock, state } = bench();
        state.tsc = tsc;
        clock.writeMsr(index, value);
        clock.update(true);
        expect(clock.readMsr(index)).toBe(value);
      },
    ),
  );
});
