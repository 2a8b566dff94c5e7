// needs: addon
/** Guests that run on every kind of host memory, and on more of it than lies below 4 GiB. */
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { PageTableBuilder } from '../../src/index.ts';
import type { VmConfig } from '../../src/machine/config.ts';
import { Vm } from '../../src/machine/vm.ts';
import { ENGINES } from '../support/engines.ts';
import { guestsOn } from '../support/guests.ts';

const GIB = 2 ** 30;
let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'tsvisor-memory-'));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

/** Reads a byte that the host has put there, adds one, and writes it elsewhere. */
const INCREMENT = 'mov al, [0x1000]; inc al; mov [0x2001], al; hlt';

describe.each(ENGINES)('on %s', (accel) => {
  const { bareVm } = guestsOn(accel);

  async function increments(options: Partial<VmConfig>): Promise<number> {
    await using vm = await bareVm(INCREMENT, options);
    if (!options.memoryBackend?.startsWith('file')) vm.memory.writeU8(0x1000, 0x41);
    vm.start();
    await vm.exited;
    return vm.memory.readU8(0x2001);
  }

  describe('a guest runs on', () => {
    it.each<[string, Partial<VmConfig>]>([
      ['anonymous memory', {}],
      ['anonymous memory provided before the start', { prefault: true }],
      ['memory that KSM may merge', { mergeable: true }],
      ['transparent huge pages', { memoryBackend: 'thp', memory: '4M' }],
      ['a memfd', { memoryBackend: 'memfd' }],
      ['a memfd provided before the start', { memoryBackend: 'memfd', prefault: true }],
    ])('%s', async (_, options) => {
      expect(await increments(options)).toBe(0x42);
    });

    it('a file, which then has what it wrote', async () => {
      const path = join(folder, 'ram');
      writeFileSync(path, Buffer.alloc(0x1001, 0x41));

      expect(await increments({ memoryBackend: `file:${path}` })).toBe(0x42);

      expect(statSync(path).size).toBe(2 << 20);
      expect(readFileSync(path)[0x2001]).toBe(0x42);
    });

    it('a private view of a file, which does not change', async () => {
      const path = join(folder, 'ram');
      writeFileSync(path, Buffer.alloc(0x3000, 0x41));

      expect(await increments({ memoryBackend: `file-private:${path}` })).toBe(0x42);

      expect(readFileSync(path).every((byte) => byte === 0x41)).toBe(true);
    });

    it('huge pages, or is told that the host has none to give', async () => {
      const free = Number(readFileSync('/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages', 'utf8'));
      const options = { memoryBackend: 'hugepages', memory: '2M' };

      if (free > 0) expect(await increments(options)).toBe(0x42);
      else
        await expect(increments(options)).rejects.toMatchObject({
          code: 'TSV_E_HOST_MEMORY',
          hint: expect.stringMatching(/nr_hugepages/),
        });
    });
  });

  describe('more RAM than the host has', () => {
    it.each(['anonymous', 'memfd', 'thp'])('is refused for %s', async (memoryBackend) => {
      await expect(
        Vm.create({ accel, memory: '3T', memoryBackend, boot: { flat: Uint8Array.of(0xf4) } }),
      ).rejects.toMatchObject({
        code: 'TSV_E_MEMORY_SIZE',
        message: expect.stringContaining('the host has'),
      });
    });
  });
});

describe.runIf(ENGINES.includes('kvm'))('5 GiB of RAM on kvm', () => {
  const { longModeVm } = guestsOn('kvm');

  it('is there on both sides of the hole below 4 GiB', async () => {
    // A sparse file takes no more of the host than the pages the guest touches.
    await using vm = await longModeVm(
      `mov eax, 0x200000; mov cr3, rax
       mov rbx, 0x100000000; mov rax, [rbx]; inc rax; mov [rbx + 8], rax
       mov rbx, 0x17ffffff8; mov [rbx], rax
       mov ebx, 0xbffffff8; mov [rbx], rax
       hlt`,
      { memory: '5G', memoryBackend: `file:${join(folder, 'ram')}` },
    );
    const tables = new PageTableBuilder(vm.memory, { start: 0x200000, end: 0x210000 });
    tables.identityMap(0, 6 * GIB);
    vm.memory.writeU64(4 * GIB, 0x1122_3344_5566_7788n);

    vm.start();
    const exit = await vm.exited;

    expect(exit.reason).toBe('halt');
    expect(vm.memory.size).toBe(5 * GIB);
    expect(vm.memory.readU64(4 * GIB + 8)).toBe(0x1122_3344_5566_7789n);
    expect(vm.memory.readU64(6 * GIB - 8)).toBe(0x1122_3344_5566_7789n);
    expect(vm.memory.readU64(3 * GIB - 8)).toBe(0x1122_3344_5566_7789n);
    expect(() => vm.memory.readU8(3 * GIB)).toThrow(expect.objectContaining({ code: 'TSV_E_GUEST_ADDRESS' }));
  });

  it('is told to the guest by CMOS', async () => {
    await using vm = await Vm.create({
      accel: 'kvm',
      memory: '5G',
      memoryBackend: `file:${join(folder, 'ram')}`,
      boot: { flat: Uint8Array.of(0xf4) },
    });

    // CMOS 0x5b to 0x5d: RAM above 4 GiB in units of 64 KiB.
    const cmos = vm.devices.find(({ name }) => name === 'cmos');
    const above4G = [0x5b, 0x5c, 0x5d].map((index) => {
      cmos?.write?.(0, 1, index);
      return cmos?.read?.(1, 1) as number;
    });

    expect(above4G[0] + above4G[1] * 2 ** 8 + above4G[2] * 2 ** 16).toBe((2 * GIB) / 65536);
  });
});

describe('more RAM than tcg can have', () => {
  const boot = { flat: Uint8Array.of(0xf4) };

  it('is refused with what it can have', async () => {
    await expect(Vm.create({ accel: 'tcg', memory: '5G', boot })).rejects.toMatchObject({
      code: 'TSV_E_MEMORY_SIZE',
      hint: expect.stringMatching(/at most \d+ MiB/),
    });
  });
});
