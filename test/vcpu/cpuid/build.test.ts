import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { TsvError } from '../../../src/errors.ts';
import {
  apicIdOf,
  buildCpuid,
  CPU_FEATURES,
  CPU_MODELS,
  type CpuidOptions,
  featureNames,
  MODEL_FEATURES,
  parseCpuModel,
  topologyOf,
} from '../../../src/vcpu/cpuid/index.ts';
import type { CpuidEntry } from '../../../src/vcpu/state.ts';
import { EVERYTHING, SPARSE_AMD } from './tables.ts';

const UP: CpuidOptions = { apicId: 0, topology: topologyOf(1) };

function build(text: string, supported = EVERYTHING, options: Partial<CpuidOptions> = {}) {
  return buildCpuid(parseCpuModel(text), supported, { ...UP, ...options });
}
function leaf(entries: readonly CpuidEntry[], fn: number, index = 0): CpuidEntry | undefined {
  return entries.find((entry) => entry.function === fn && entry.index === index);
}
function failure(action: () => unknown): TsvError {
  try {
    action();
  } catch (error) {
    if (error instanceof TsvError) return error;
  }
  throw new Error('a TsvError was expected');
}

describe('models', () => {
  test.each(['x86-64-v1', 'x86-64-v2', 'x86-64-v3'] as const)(
    '%s has its features and nothing above',
    (model) => {
      const { entries, unavailable } = build(model, EVERYTHING, { hypervisor: 'none' });

      const names = featureNames(entries).filter((name) => !['x2apic', 'tsc_deadline_timer'].includes(name));
      expect(unavailable).toEqual([]);
      expect(new Set(names)).toEqual(new Set([...MODEL_FEATURES[model], 'arat', 'tsc_adjust', 'topoext']));
    },
  );

  test('x86-64-v1 has what a stock Linux kernel requires', () => {
    const names = featureNames(build('x86-64-v1', SPARSE_AMD).entries);

    const required = 'fpu msr pae cx8 apic pge fxsr cmov sse sse2 lm nx syscall tsc pat'.split(' ');
    expect(required.filter((name) => !names.includes(name))).toEqual([]);
  });

  test('host passes on what is supported, unnamed bits included, but for the bits that follow CR4', () => {
    const { entries } = build('host');

    expect(leaf(entries, 7)?.ecx).toBe((0xffffffff & ~(1 << 4)) >>> 0);
    expect(leaf(entries, 1)?.eax).toBe(0x000806f8);
    expect(leaf(entries, 0xa)?.eax).toBe(0x08300805);
    expect(featureNames(entries)).not.toContain('osxsave');
  });

  test('a host feature that is removed is gone from passed-through leaves too', () => {
    expect(leaf(build('host', SPARSE_AMD).entries, 0x80000021)?.eax).toBe(0x204);
    expect(leaf(build('host,-lfence-rdtsc', SPARSE_AMD).entries, 0x80000021)?.eax).toBe(0x200);
  });

  test('reports what a model wants and the engine lacks', () => {
    const { unavailable } = build('x86-64-v2', SPARSE_AMD);

    expect(unavailable).toEqual(['popcnt', 'pni', 'ssse3', 'sse4_1', 'sse4_2']);
  });

  test('hides what the engine cannot run, with all that depends on it', () => {
    const { entries, unavailable } = build('x86-64-v3', EVERYTHING, { hide: ['xsave', 'cx16'] });

    expect(unavailable).toEqual(expect.arrayContaining(['xsave', 'avx', 'avx2', 'f16c', 'fma', 'cx16']));
    expect(leaf(entries, 0xd)).toBeUndefined();
  });

  test('offers what the caller provides beyond the table', () => {
    const table = EVERYTHING.map((e) => (e.function === 1 ? { ...e, ecx: e.ecx & ~(1 << 24) } : e));

    expect(featureNames(build('x86-64-v1', table).entries)).not.toContain('tsc_deadline_timer');
    expect(featureNames(build('x86-64-v1', table, { provide: ['tsc-deadline'] }).entries)).toContain(
      'tsc_deadline_timer',
    );
  });
});

describe('explicit features', () => {
  test('an added feature brings what it needs', () => {
    const names = featureNames(build('x86-64-v1,+avx2').entries);

    expect(names).toEqual(expect.arrayContaining(['avx2', 'avx', 'xsave', 'sse4_2', 'pni']));
  });

  test('a removed feature takes away what needs it', () => {
    const names = featureNames(build('x86-64-v3,-xsave').entries);

    expect(names.filter((name) => ['xsave', 'avx', 'avx2', 'fma'].includes(name))).toEqual([]);
  });

  test('an added feature that is not there is an error', () => {
    const error = failure(() => build('x86-64-v1,+aes', SPARSE_AMD));

    expect(error.code).toBe('TSV_E_CPU_MODEL');
    expect(error.message).toMatch(/'aes'.*not offered/);
  });

  test('so is one whose requirement is not there, or hidden, or removed', () => {
    expect(failure(() => build('x86-64-v1,+sse4_2', SPARSE_AMD)).message).toMatch(/needs|not offered/);
    expect(failure(() => build('x86-64-v1,+avx', EVERYTHING, { hide: ['xsave'] })).message).toMatch(
      /needs 'xsave'/,
    );
    expect(failure(() => build('host,+avx,-xsave')).message).toMatch(/needs 'xsave', which is removed/);
  });
});

describe('vendor', () => {
  test('is the host\u2019s unless chosen', () => {
    const own = leaf(build('x86-64-v1', SPARSE_AMD).entries, 0)!;
    const chosen = leaf(build('x86-64-v1', SPARSE_AMD, { vendor: 'intel' }).entries, 0)!;

    expect([own.ebx, own.edx, own.ecx]).toEqual([0x68747541, 0x69746e65, 0x444d4163]);
    expect([chosen.ebx, chosen.edx, chosen.ecx]).toEqual([0x756e6547, 0x49656e69, 0x6c65746e]);
  });

  test('AMD repeats the basic features in the extended leaf, Intel does not', () => {
    const amd = build('x86-64-v1', SPARSE_AMD).entries;
    const intel = build('x86-64-v1').entries;

    expect(leaf(amd, 0x80000001)!.edx & 1).toBe(1);
    expect(leaf(intel, 0x80000001)!.edx).toBe((1 << 11) | (1 << 20) | (1 << 29));
  });
});

describe('topology', () => {
  const topology = { sockets: 2, cores: 3, threads: 2 };

  test('APIC ids give threads and cores whole bits', () => {
    const ids = Array.from({ length: 12 }, (_, i) => apicIdOf(i, topology));

    expect(ids).toEqual([0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]);
  });

  test('APIC ids are unique', () => {
    const count = fc.integer({ min: 1, max: 9 });
    fc.assert(
      fc.property(count, count, count, (sockets, cores, threads) => {
        const cpus = sockets * cores * threads;
        const ids = Array.from({ length: cpus }, (_, i) => apicIdOf(i, { sockets, cores, threads }));
        expect(new Set(ids).size).toBe(cpus);
      }),
    );
  });

  test('the leaves tell the same story', () => {
    const apicId = apicIdOf(9, topology);
    const { entries } = build('x86-64-v1', SPARSE_AMD, { apicId, topology });

    expect(leaf(entries, 1)!.ebx >>> 24).toBe(11);
    expect((leaf(entries, 1)!.ebx >>> 16) & 0xff).toBe(8);
    expect(featureNames(entries)).toEqual(expect.arrayContaining(['ht', 'cmp_legacy']));
    for (const fn of [0xb, 0x1f]) {
      expect(leaf(entries, fn, 0)).toMatchObject({ eax: 1, ebx: 2, ecx: 0x100, edx: 11 });
      expect(leaf(entries, fn, 1)).toMatchObject({ eax: 3, ebx: 6, ecx: 0x201, edx: 11 });
      expect(leaf(entries, fn, 2)).toMatchObject({ eax: 0, ebx: 0, ecx: 2, edx: 11 });
    }
    expect(leaf(entries, 0x80000008)!.ecx).toBe(5 | (3 << 12));
    expect(leaf(entries, 0x8000001e)).toMatchObject({ eax: 11, ebx: 1 | (1 << 8), ecx: 1 });
    expect(leaf(entries, 0x8000001d, 0)!.eax >>> 14).toBe(1);
    expect(leaf(entries, 0x8000001d, 3)!.eax >>> 14).toBe(7);
  });

  test('Intel counts cores in leaf 4', () => {
    const { entries } = build('x86-64-v1', EVERYTHING, { topology: topologyOf(4), apicId: 3 });

    expect(leaf(entries, 4, 0)!.eax >>> 26).toBe(3);
    expect(leaf(entries, 0x8000001d)).toBeUndefined();
  });

  test('one that does not multiply to the vCPUs is refused', () => {
    expect(failure(() => topologyOf(4, { sockets: 1, cores: 3, threads: 1 })).code).toBe('TSV_E_CONFIG');
    expect(failure(() => topologyOf(0, { sockets: 0, cores: 3, threads: 1 })).code).toBe('TSV_E_CONFIG');
  });
});

describe('XSAVE', () => {
  test('covers the components of the enabled features', () => {
    const v3 = build('x86-64-v3').entries;
    const host = build('host').entries;
    const noAvx512 = build('host,-avx512f,-pku,-mpx,-amx-tile').entries;

    expect(leaf(v3, 0xd)).toMatchObject({ eax: 7, ecx: 0x340, edx: 0 });
    expect(leaf(v3, 0xd, 1)).toMatchObject({ eax: 0, ecx: 0 });
    expect(leaf(v3, 0xd, 5)).toBeUndefined();
    expect(leaf(host, 0xd)).toMatchObject({ eax: 0x602e7, ecx: 0x2b00 });
    expect(leaf(host, 0xd, 1)).toMatchObject({ eax: 0x1f, ecx: 0x1800 });
    expect(leaf(host, 0xd, 11)).toBeDefined();
    expect(leaf(noAvx512, 0xd)).toMatchObject({ eax: 7, ecx: 0x340 });
  });
});

describe('frequencies and hypervisor', () => {
  /** Linux native_calibrate_tsc: 32-bit arithmetic in kHz. */
  function linuxTscKhz(entries: readonly CpuidEntry[]): number {
    const { eax, ebx, ecx } = leaf(entries, 0x15)!;
    const crystalKhz = Math.floor(ecx / 1000);
    const product = crystalKhz * ebx;
    expect(product).toBeLessThan(2 ** 32);
    return Math.floor(product / eax);
  }

  test('Linux computes the TSC frequency that was asked for', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1_000_000, max: 90_000_000 }),
        fc.constantFrom(1_000_000, 50_000, 25_000),
        (tscKhz, apicKhz) => {
          const { entries } = build('x86-64-v1', EVERYTHING, { tscKhz, apicKhz });
          const crystal = leaf(entries, 0x15)!.ecx / 1000;
          expect(Math.abs(linuxTscKhz(entries) - tscKhz) / tscKhz).toBeLessThan(1e-4);
          expect(Math.abs(crystal - apicKhz) / apicKhz).toBeLessThan(1e-3);
        },
      ),
    );
    expect(linuxTscKhz(build('x86-64-v1', EVERYTHING, { tscKhz: 2_600_000 }).entries)).toBe(2_600_000);
  });

  test('KVM leaves carry signature, features and frequencies', () => {
    const { entries } = build('x86-64-v1', SPARSE_AMD, { tscKhz: 2_595_123 });

    expect(leaf(entries, 0x40000000)).toMatchObject({ eax: 0x40000010, ebx: 0x4b4d564b });
    expect(featureNames(entries)).toEqual(expect.arrayContaining(['kvmclock2', 'hypervisor']));
    expect(leaf(entries, 0x40000010)).toMatchObject({ eax: 2_595_123, ebx: 1_000_000 });
    expect(leaf(entries, 0)!.eax).toBe(0x1f);
  });

  test('hiding kvm-clock leaves the rest', () => {
    const names = featureNames(build('x86-64-v1', SPARSE_AMD, { hide: ['kvmclock', 'kvmclock2'] }).entries);

    expect(names.filter((name) => name.startsWith('kvmclock'))).toEqual([]);
    expect(names).toContain('kvm_pv_eoi');
  });

  test('none hides the hypervisor', () => {
    const { entries } = build('host', EVERYTHING, { hypervisor: 'none' });

    expect(featureNames(entries)).not.toContain('hypervisor');
    expect(entries.filter((e) => e.function >>> 28 === 4)).toEqual([]);
  });
});

describe('any table', () => {
  const word = fc.integer({ min: 0, max: 0xffffffff });
  const tables = fc.array(
    fc.record({
      function: fc.oneof(
        fc.constantFrom(0, 1, 4, 7, 0xb, 0xd, 0x40000000, 0x40000001, 0x80000000, 0x80000001, 0x80000008),
        word,
      ),
      index: fc.integer({ min: 0, max: 20 }),
      flags: fc.constant(0),
      eax: word,
      ebx: word,
      ecx: word,
      edx: word,
    }),
    { maxLength: 40 },
  );

  test('gives a well-formed result whose features are all supported', () => {
    fc.assert(
      fc.property(fc.constantFrom(...CPU_MODELS), tables, (model, supported) => {
        const { entries } = build(model, supported);
        const synthetic = ['ht', 'cmp_legacy'];
        const offered = new Set(featureNames(supported));
        expect(featureNames(entries).filter((n) => !offered.has(n) && !synthetic.includes(n))).toEqual([]);
        const keys = entries.map((e) => e.function * 64 + e.index);
        expect(new Set(keys).size).toBe(keys.length);
        for (const e of entries) {
          for (const value of [e.function, e.index, e.eax, e.ebx, e.ecx, e.edx]) {
            expect(Number.isInteger(value) && value >= 0 && value <= 0xffffffff).toBe(true);
          }
        }
        const basic = entries.filter((e) => e.function < 0x40000000).map((e) => e.function);
        expect(leaf(entries, 0)!.eax).toBe(Math.max(...basic));
      }),
      { numRuns: 200 },
    );
  });
});

test('every feature has a bit of its own', () => {
  const bits = [...CPU_FEATURES.values()].map((f) => `${f.leaf}.${f.index}.${f.register}.${f.bit}`);

  expect(new Set(bits).size).toBe(bits.length);
  expect([...CPU_FEATURES.values()].every((f) => f.bit >= 0 && f.bit < 32)).toBe(true);
});
