import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { GuestMemory } from '../../src/memory/guest-memory.ts';

/** Two adjacent regions of 64 KiB in two memories, and one apart. */
function sample(): GuestMemory {
  const memory = () => new WebAssembly.Memory({ initial: 2, maximum: 2, shared: true });
  return new GuestMemory({
    memories: [memory(), memory()],
    regions: [
      { gpa: 0x10000, size: 0x10000, memory: 1, offset: 0x8000 },
      { gpa: 0, size: 0x10000, memory: 0, offset: 0x1000 },
      { gpa: 0x40000, size: 0x1000, memory: 1, offset: 0x18000 },
    ],
  });
}
const denied = expect.objectContaining({ code: 'TSV_E_GUEST_ADDRESS' });

describe('GuestMemory', () => {
  it('reads back little-endian values of every width', () => {
    const ram = sample();

    ram.writeU64(8, 0xfedcba9876543210n);

    expect(ram.readU8(8)).toBe(0x10);
    expect(ram.readU16(8)).toBe(0x3210);
    expect(ram.readU32(12)).toBe(0xfedcba98);
    expect(ram.readU64(8)).toBe(0xfedcba9876543210n);
  });

  it('copies across adjacent regions but gives views of one only', () => {
    const ram = sample();

    ram.write(0xfffe, new Uint8Array([1, 2, 3, 4]));

    expect([...ram.read(0xfffe, 4)]).toEqual([1, 2, 3, 4]);
    expect(() => ram.bytes(0xfffe, 4)).toThrow(denied);
    expect(ram.bytes(0x10000, 2)[1]).toBe(4);
  });

  it('is seen by whoever gets its shared form', () => {
    const ram = sample();
    const other = new GuestMemory(structuredClone(ram.share()));

    ram.writeU32(0x40ffc, 42);

    expect(other.readU32(0x40ffc)).toBe(42);
  });

  it('writes nothing when part of a range is not RAM', () => {
    const ram = sample();

    expect(() => ram.write(0x1fffe, new Uint8Array([1, 2, 3, 4]))).toThrow(denied);

    expect(ram.readU16(0x1fffe)).toBe(0);
  });

  it('refuses lengths no host could allocate before allocating', () => {
    expect(() => sample().read(0, 2 ** 50)).toThrow(denied);
    expect(() => sample().read(0, Number.POSITIVE_INFINITY)).toThrow(denied);
  });

  it('throws for any access outside RAM and for nothing inside', () => {
    const address = fc.oneof(fc.integer({ min: -16, max: 0x42000 }), fc.double(), fc.constant(2 ** 52));
    fc.assert(
      fc.property(address, fc.constantFrom(1, 2, 4, 8), (gpa, size) => {
        const ram = sample();
        const whole = Number.isInteger(gpa);
        const inside = whole && ram.regions.some((r) => gpa >= r.gpa && gpa + size <= r.gpa + r.size);
        const read = { 1: ram.readU8, 2: ram.readU16, 4: ram.readU32, 8: ram.readU64 }[size]!.bind(ram);
        if (inside) expect(Number(read(gpa))).toBe(0);
        else if (whole) expect(() => read(gpa)).toThrow(denied);
      }),
    );
  });
});
