import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  arg,
  buffer,
  device,
  eisaId,
  integer,
  le,
  local,
  method,
  name,
  namePath,
  packageOf,
  returns,
  scope,
  string,
} from '../../../src/boot/acpi/aml.ts';
import { irq, memoryWindow, resourceTemplate } from '../../../src/boot/acpi/resources.ts';

const hex = (aml: Uint8Array) => Buffer.from(aml).toString('hex');
const refused = expect.objectContaining({ code: 'TSV_E_CONFIG', hint: expect.stringMatching(/\w/) });

describe('AML', () => {
  it.each([
    [0, '00'],
    [1, '01'],
    [2, '0a02'],
    [0x100, '0b0001'],
    [0x10000, '0c00000100'],
    [0x1_0000_0000n, '0e0000000001000000'],
  ])('encodes integer %s in its shortest form', (value, expected) => {
    expect(hex(integer(value))).toBe(expected);
  });

  it.each([
    ['_S5', '5f53355f'],
    ['\\_SB', '5c5f53425f'],
    ['\\_SB.PCI0', '5c2e5f53425f50434930'],
    ['^^A.B.C', '5e5e2f03415f5f5f425f5f5f435f5f5f'],
    ['\\', '5c00'],
  ])('encodes the name %s', (path, expected) => {
    expect(hex(namePath(path))).toBe(expected);
  });

  it('encodes EISA identifiers as the specification does for PNP0303', () => {
    expect(hex(eisaId('PNP0303'))).toBe('0c41d00303');
  });

  it('encodes objects that hold others', () => {
    expect(hex(name('_UID', integer(3)))).toBe('085f5549440a03');
    expect(hex(packageOf([integer(5), integer(0)]))).toBe('1205020a0500');
    expect(hex(buffer(new Uint8Array([1, 2, 3])))).toBe('11060a03010203');
    expect(hex(device('COM1', []))).toBe('5b8205434f4d31');
    expect(hex(scope('\\_SB', []))).toBe('10065c5f53425f');
    expect(hex(method('_STA', 0, [returns(string('ok'))]))).toBe('140b5f53544100a40d6f6b00');
    expect(hex(local(1)) + hex(arg(2))).toBe('616a');
  });

  it('writes package lengths that count themselves, for any length', () => {
    const lengths = fc.oneof(
      fc.nat(70),
      fc.integer({ min: 4000, max: 4200 }),
      fc.constantFrom(2 ** 20 - 20, 2 ** 20),
    );
    fc.assert(
      fc.property(lengths, (length) => {
        const aml = scope('\\', [new Uint8Array(length)]);
        const following = aml[1] >> 6;
        let decoded = following === 0 ? aml[1] & 0x3f : aml[1] & 0xf;
        for (let i = 0; i < following; i++) decoded += aml[2 + i] * 2 ** (4 + 8 * i);
        expect(decoded).toBe(aml.length - 1);
      }),
    );
  });

  it('encodes resources', () => {
    expect(hex(irq(4))).toBe('221000');
    expect(hex(irq(9, { level: true, activeLow: true, shared: true }))).toBe('23000218');
    expect(hex(memoryWindow(0xc0000000, 0xfebfffff))).toBe(
      '871700000c0100000000000000c0ffffbffe000000000000c03e',
    );
    expect(hex(resourceTemplate([irq(4)]))).toBe('11080a052210007900');
  });

  it('refuses what it cannot encode', () => {
    expect(() => integer(-1)).toThrow(refused);
    expect(() => integer(1n << 64n)).toThrow(refused);
    expect(() => le(256, 1)).toThrow(refused);
    expect(() => string('ü')).toThrow(refused);
    expect(() => string('a\0b')).toThrow(refused);
    expect(() => eisaId('pnp0501')).toThrow(refused);
    for (const path of ['', 'abc', 'TOOLONG', '1ABC', 'A..B', 'A.', '^\\A'])
      expect(() => namePath(path)).toThrow(refused);
    expect(() => packageOf(new Array(256).fill(integer(0)))).toThrow(refused);
    expect(() => method('_X', 8, [])).toThrow(refused);
    expect(() => arg(7)).toThrow(refused);
    expect(() => local(8)).toThrow(refused);
    expect(() => irq(16)).toThrow(refused);
    expect(() => memoryWindow(5, 4)).toThrow(refused);
  });
});
