import { describe, expect, it } from 'vitest';
import type { FlatOptions } from '../../src/boot/flat.ts';
import { loadKernel } from '../../src/boot/image.ts';
import { expectError, machine } from './support.ts';

const CODE = Buffer.from([0xb0, 0x41, 0xe6, 0xe9, 0xf4]);

function load(flat?: FlatOptions, more: object = {}): ReturnType<typeof loadKernel> {
  return loadKernel({ kernel: CODE, protocol: 'flat', flat, ...machine(), ...more });
}

describe('flat binaries', () => {
  it('start like a boot sector by default', async () => {
    const { memory, e820 } = machine();

    const result = await load(undefined, { memory, e820 });

    expect(result).toMatchObject({
      protocol: 'flat',
      mode: 'real',
      entry: 0x7c00,
      realMode: { cs: 0, ip: 0x7c00 },
      registers: {},
    });
    expect(Buffer.from(memory.read(0x7c00, CODE.length))).toEqual(CODE);
  });

  it('may lie in real mode where other protocols keep boot data', async () => {
    expect(await load({ address: 0 })).toMatchObject({ realMode: { cs: 0, ip: 0 } });
    expect(await load({ address: 0x7000, entry: 0x7002 })).toMatchObject({ entry: 0x7002 });
  });

  it('get a far pointer that reaches their entry', async () => {
    expect(await load({ address: 0x12340 })).toMatchObject({ realMode: { cs: 0x1234, ip: 0 } });
    expect(await load({ address: 0x12345 })).toMatchObject({ realMode: { cs: 0x1234, ip: 5 } });
    expect(await load({ address: 0x12345, cs: 0x1000 })).toMatchObject({
      realMode: { cs: 0x1000, ip: 0x2345 },
    });
  });

  it('start at 1 MiB in 64-bit mode with an identity map', async () => {
    expect(await load({ mode: 'long64' })).toMatchObject({
      mode: 'long64',
      entry: 0x100000,
      identityMap: { gpa: 0, size: 2 ** 32 },
    });
  });

  it.each<[string, FlatOptions, 'TSV_E_USAGE' | 'TSV_E_KERNEL_LAYOUT']>([
    ['outside RAM', { address: 0x10000000, mode: 'long64' }, 'TSV_E_KERNEL_LAYOUT'],
    ['in video memory', { address: 0xa0000 }, 'TSV_E_KERNEL_LAYOUT'],
    ['over the page tables', { address: 0x9000, mode: 'long64' }, 'TSV_E_KERNEL_LAYOUT'],
    ['at a negative address', { address: -1 }, 'TSV_E_USAGE'],
    ['at a broken address', { address: 1.5 }, 'TSV_E_USAGE'],
    ['above 4 GiB', { address: 2 ** 40, mode: 'long64' }, 'TSV_E_USAGE'],
    ['with a real-mode entry above 1 MiB', { address: 0x200000 }, 'TSV_E_USAGE'],
    ['with a segment that does not reach the entry', { address: 0x30000, cs: 0x1000 }, 'TSV_E_USAGE'],
    ['with a segment behind the entry', { address: 0x1000, cs: 0x200 }, 'TSV_E_USAGE'],
  ])('are refused %s', async (_, flat, code) => {
    await expectError(() => load(flat), code);
  });

  it('take neither initrd nor modules nor command line', async () => {
    await expectError(() => load({}, { cmdline: 'x' }), 'TSV_E_USAGE');
    await expectError(() => load({}, { initrd: CODE }), 'TSV_E_USAGE');
    await expectError(() => load({}, { modules: [{ source: CODE }] }), 'TSV_E_USAGE');
  });
});
