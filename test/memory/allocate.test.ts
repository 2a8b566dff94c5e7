// needs: addon
import { mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadNative, type NativeMemory, nativeMemory } from '../../src/kvm/native.ts';
import { allocateRam } from '../../src/memory/allocate.ts';
import { backendAlignment, parseBackend } from '../../src/memory/backends.ts';
import { hostMemory } from '../../src/memory/host-memory.ts';

const MIB = 2 ** 20;
const GIB = 2 ** 30;
const SIZE = 4 * MIB;

let native: NativeMemory;
let folder: string;

beforeAll(() => {
  native = nativeMemory(loadNative());
  folder = mkdtempSync(join(tmpdir(), 'tsvisor-ram-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

const coded = (code: string) => expect.objectContaining({ code, hint: expect.stringMatching(/\w/) });

describe('allocateRam', () => {
  it('gives zeroed RAM in one memory without the addon', () => {
    const ram = allocateRam({ size: SIZE });

    expect(ram.memories).toHaveLength(1);
    expect(ram.size).toBe(SIZE);
    expect(ram.readU64(SIZE - 8)).toBe(0n);
    expect(ram.regions).toEqual([{ gpa: 0, size: SIZE, memory: 0, offset: 0 }]);
  });

  it('aligns the host address of RAM to 2 MiB with the addon', () => {
    for (let i = 0; i < 4; i++) {
      const ram = allocateRam({ size: SIZE, native });
      const { offset } = ram.regions[0];
      expect((native.addressOf(ram.memories[0].buffer) + BigInt(offset)) % BigInt(2 * MIB)).toBe(0n);
    }
  });

  it('puts RAM around the MMIO hole into one memory while it fits below 4 GiB', () => {
    const ram = allocateRam({ size: 3.5 * GIB, native, overcommit: true });

    expect(ram.memories).toHaveLength(1);
    expect(ram.regions.map(({ gpa, size }) => ({ gpa, size }))).toEqual([
      { gpa: 0, size: 3 * GIB },
      { gpa: 4 * GIB, size: 0.5 * GIB },
    ]);
    ram.writeU64(3 * GIB - 8, 1n);
    ram.writeU64(4 * GIB, 2n);
    expect(ram.readU64(3 * GIB - 8)).toBe(1n);
    expect(ram.contains(3 * GIB - 8, 16)).toBe(false);
  });

  it('spreads more RAM over several memories', () => {
    const ram = allocateRam({ size: 10 * GIB, native, overcommit: true });

    expect(ram.size).toBe(10 * GIB);
    expect(ram.memories.length).toBe(ram.regions.length);
    const last = 11 * GIB - 8;
    ram.writeU64(last, 0x1234n);
    expect(ram.readU64(last)).toBe(0x1234n);
    expect(ram.contains(4 * GIB, 7 * GIB)).toBe(true);
    ram.write(7 * GIB - 2, new Uint8Array([1, 2, 3, 4]));
    expect([...ram.read(7 * GIB - 2, 4)]).toEqual([1, 2, 3, 4]);
  });

  it.each([0, 3, 4097, 10 * 2 ** 40, Number.NaN, -4096])('refuses %d bytes', (size) => {
    expect(() => allocateRam({ size })).toThrow(coded('TSV_E_MEMORY_SIZE'));
  });

  it('refuses more than the host has unless overcommitting is allowed', () => {
    const size = Math.ceil((hostMemory().total + GIB) / GIB) * GIB;

    expect(() => allocateRam({ size })).toThrow(coded('TSV_E_MEMORY_SIZE'));
    expect(allocateRam({ size, overcommit: true }).size).toBe(size);
  });

  it('reports host memory figures that make sense', () => {
    const { total, available } = hostMemory();

    expect(available).toBeGreaterThan(0);
    expect(available).toBeLessThanOrEqual(total);
    expect(total).toBeGreaterThanOrEqual(Math.min(totalmem(), total));
  });

  it.each(['memfd', 'thp', 'hugepages', 'file:/tmp/x'])('says that %s needs the addon', (backend) => {
    expect(() => allocateRam({ size: SIZE, backend })).toThrow(coded('TSV_E_ADDON_MISSING'));
  });

  it('prefaults with and without the addon, keeping contents', () => {
    const path = join(folder, 'prefault');
    writeFileSync(path, Buffer.alloc(SIZE, 0x5a));
    const before = process.memoryUsage().rss;

    const plain = allocateRam({ size: 64 * MIB, prefault: true });
    const filled = allocateRam({ size: SIZE, backend: `file-private:${path}`, prefault: true, native });

    expect(process.memoryUsage().rss - before).toBeGreaterThan(48 * MIB);
    expect(plain.readU32(0)).toBe(0);
    expect(filled.readU32(SIZE - 4)).toBe(0x5a5a5a5a);
  });

  it('lets the host merge equal pages, or says that it cannot', () => {
    const ksm = statSync('/sys/kernel/mm/ksm', { throwIfNoEntry: false }) !== undefined;

    const allocate = () => allocateRam({ size: SIZE, native, mergeable: true });

    if (ksm) expect(allocate().size).toBe(SIZE);
    else expect(allocate).toThrow(coded('TSV_E_HOST_MEMORY'));
  });
});

describe('memory back ends', () => {
  it.each(['anonymous', 'thp', 'memfd'])('%s gives RAM that can be written', (backend) => {
    const ram = allocateRam({ size: SIZE, backend, native });

    ram.fill(0, SIZE, 0xa5);

    expect(ram.readU64(SIZE - 8)).toBe(0xa5a5a5a5a5a5a5a5n);
  });

  it('hugepages gives RAM from the pool, or says that the pool is empty', () => {
    const free = '/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages';
    const enough = Number(readFileSync(free, 'latin1')) >= SIZE / (2 * MIB);

    const allocate = () => allocateRam({ size: SIZE, backend: 'hugepages', native });

    if (enough) {
      const ram = allocate();
      ram.fill(0, SIZE, 1);
      expect(ram.readU8(SIZE - 1)).toBe(1);
    } else {
      expect(allocate).toThrow(coded('TSV_E_HOST_MEMORY'));
    }
    expect(() => allocateRam({ size: MIB, backend: 'hugepages', native })).toThrow(
      coded('TSV_E_MEMORY_SIZE'),
    );
  });

  it('file keeps what the guest writes and what was in it', () => {
    const path = join(folder, 'shared');
    writeFileSync(path, 'before');

    const ram = allocateRam({ size: SIZE, backend: `file:${path}`, native });
    ram.write(SIZE - 5, Buffer.from('after'));

    const file = readFileSync(path);
    expect(file.length).toBe(SIZE);
    expect(file.subarray(0, 6).toString()).toBe('before');
    expect(file.subarray(-5).toString()).toBe('after');
    expect(Buffer.from(ram.read(0, 6)).toString()).toBe('before');
  });

  it('file shows one guest what another wrote', () => {
    const path = join(folder, 'both');

    const a = allocateRam({ size: SIZE, backend: `file:${path}`, native });
    const b = allocateRam({ size: SIZE, backend: `file:${path}`, native });
    a.writeU32(0x1000, 77);

    expect(b.readU32(0x1000)).toBe(77);
  });

  it('file-private starts with the file and never changes it', () => {
    const path = join(folder, 'private');
    writeFileSync(path, Buffer.alloc(5000, 0x11));

    const ram = allocateRam({ size: SIZE, backend: `file-private:${path}`, native });
    expect(ram.readU32(4996)).toBe(0x11111111);
    expect(ram.readU32(5000)).toBe(0);
    expect(ram.readU32(SIZE - 4)).toBe(0);
    ram.fill(0, SIZE, 0xff);

    expect(readFileSync(path).equals(Buffer.alloc(5000, 0x11))).toBe(true);
  });

  it('file refuses what cannot hold RAM', () => {
    expect(() => allocateRam({ size: SIZE, backend: `file:${folder}`, native })).toThrow(coded('TSV_E_FILE'));
    expect(() => allocateRam({ size: SIZE, backend: 'file:/dev/null', native })).toThrow(coded('TSV_E_FILE'));
    expect(() => allocateRam({ size: SIZE, backend: 'file:/no/such/folder/x', native })).toThrow(
      coded('TSV_E_FILE'),
    );
    expect(() => allocateRam({ size: SIZE, backend: `file-private:${folder}/none`, native })).toThrow(
      coded('TSV_E_FILE'),
    );
  });

  it('file on a full disk is an error that leaves nothing behind', () => {
    const path = join(folder, 'existing');
    writeFileSync(path, 'x'.repeat(100));
    const full: NativeMemory = { ...native, fallocate: () => -28 };

    expect(() => allocateRam({ size: SIZE, backend: `file:${folder}/new`, native: full })).toThrow(
      coded('TSV_E_FILE'),
    );
    expect(() => allocateRam({ size: SIZE, backend: `file:${path}`, native: full })).toThrow(
      coded('TSV_E_FILE'),
    );

    expect(statSync(join(folder, 'new'), { throwIfNoEntry: false })).toBeUndefined();
    expect(statSync(path).size).toBe(100);
    truncateSync(path, 0);
  });

  it.each(['', 'disk', 'file', 'file:', 'memfd:1', 'hugepages:3M', 'anonymous:'])(
    'refuses the name %j',
    (text) => {
      expect(() => parseBackend(text)).toThrow(coded('TSV_E_CONFIG'));
    },
  );

  it('takes paths with colons and huge page sizes', () => {
    expect(parseBackend('file:/a:b')).toEqual({ kind: 'file', path: '/a:b', share: true });
    expect(backendAlignment(parseBackend('hugepages:1G'))).toBe(GIB);
  });
});
