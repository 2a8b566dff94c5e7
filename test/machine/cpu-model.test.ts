/** What a guest's own CPUID instruction tells it, for every CPU model. */
import { pino } from 'pino';
import { describe, expect, it } from 'vitest';
import type { CpuidEntry } from '../../src/index.ts';
import { probeKvm } from '../../src/index.ts';
import type { VmConfig } from '../../src/machine/config.ts';
import type { Vm } from '../../src/machine/vm.ts';
import {
  buildCpuid,
  CPU_FEATURES,
  CPU_MODELS,
  featureNames,
  parseCpuModel,
  topologyOf,
} from '../../src/vcpu/cpuid/index.ts';
import type { EngineName } from '../../src/vcpu/engine.ts';
import { ENGINES } from '../support/engines.ts';
import { guestsOn, RecordingDevice } from '../support/guests.ts';

/** Where vCPU n stores what it read: 0x200000 + n * 0x1000. */
const RESULTS = 0x200000;
/** Where it stores the id its local APIC has. */
const APIC_ID = 0xff0;

type Query = readonly [leaf: number, index: number];

/** Every vCPU executes CPUID for each query and stores EAX to EDX. RDI holds its index. */
function guest(queries: readonly Query[], end = 'hlt'): string {
  const reads = queries.map(
    ([leaf, index]) => `
      mov eax, ${leaf}; mov ecx, ${index}; cpuid
      mov [rdi], eax; mov [rdi+4], ebx; mov [rdi+8], ecx; mov [rdi+12], edx; add rdi, 16`,
  );
  return `shl rdi, 12; add rdi, ${RESULTS}; mov rbp, rdi; ${reads.join('')}\n${end}`;
}

function results(vm: Vm, vcpu: number, queries: readonly Query[]): CpuidEntry[] {
  return queries.map(([leaf, index], i) => {
    const at = (register: number) => vm.memory.readU32(RESULTS + vcpu * 0x1000 + i * 16 + register * 4);
    return { function: leaf, index, flags: 0, eax: at(0), ebx: at(1), ecx: at(2), edx: at(3) };
  });
}

const FEATURE_LEAVES: Query[] = [
  ...new Map(
    [...CPU_FEATURES.values()].map(({ leaf, index }) => [`${leaf}.${index}`, [leaf, index] as const]),
  ).values(),
];

const text = ({ ebx, ecx, edx }: CpuidEntry, order: 'vendor' | 'hypervisor') =>
  Buffer.from(Uint32Array.from(order === 'vendor' ? [ebx, edx, ecx] : [ebx, ecx, edx]).buffer).toString(
    'latin1',
  );

/** Bits that follow CR4, and what a software KVM does not take from the table. */
function uncertain(accel: EngineName): Set<string> {
  const changing = ['osxsave', 'ospke'];
  if (accel !== 'kvm') return new Set(changing);
  const { software, forced } = probeKvm();
  // Leaf 7 EDX of a software KVM follows the host, not the table.
  return new Set([...changing, ...forced, ...(software ? ['arch_capabilities'] : [])]);
}

describe.each(ENGINES)('on %s', (accel) => {
  const { longModeVm } = guestsOn(accel);

  async function seenBy(queries: readonly Query[], config: Partial<VmConfig> = {}): Promise<CpuidEntry[]> {
    await using vm = await longModeVm(guest(queries), config);
    vm.start();
    const { reason } = await vm.exited;
    expect(reason).toBe('halt');
    return results(vm, 0, queries);
  }

  describe.each(CPU_MODELS)('the CPU model %s', (cpu) => {
    it('boots a guest in 64-bit mode and shows it the features of its table', async () => {
      await using vm = await longModeVm(guest(FEATURE_LEAVES), { cpu });
      const { entries } = buildCpuid(parseCpuModel(cpu), vm.engine.supportedCpuid(), {
        apicId: 0,
        topology: topologyOf(1),
        hide: vm.engine.lackingFeatures(),
      });
      vm.start();
      const { reason } = await vm.exited;

      const seen = featureNames(results(vm, 0, FEATURE_LEAVES));
      const loose = uncertain(accel);
      const certain = (names: string[]) => names.filter((name) => !loose.has(name));
      expect(reason).toBe('halt');
      expect(certain(seen)).toEqual(certain(featureNames(entries)));
      expect(seen).toEqual(expect.arrayContaining(['fpu', 'sse2', 'lm', 'nx', 'syscall', 'hypervisor']));
    });

    it('names vendor and hypervisor', async () => {
      const [vendor, hypervisor] = await seenBy(
        [
          [0, 0],
          [0x4000_0000, 0],
        ],
        { cpu },
      );

      expect(text(vendor, 'vendor')).toMatch(/^(GenuineIntel|AuthenticAMD|HygonGenuine)$/);
      expect(text(hypervisor, 'hypervisor')).toBe('KVMKVMKVM\0\0\0');
    });
  });

  describe('features of a model', () => {
    const kvmLeaf: Query[] = [[0x4000_0001, 0]];

    it('are taken away with -feature, and given with +feature', async () => {
      const [before] = await seenBy(kvmLeaf, { cpu: 'host' });
      const [without] = await seenBy(kvmLeaf, { cpu: 'host,-kvm_nopiodelay' });
      const [given] = await seenBy(kvmLeaf, { cpu: 'x86-64-v1,+kvm_nopiodelay' });

      expect(featureNames([before])).toContain('kvm_nopiodelay');
      expect(featureNames([without])).not.toContain('kvm_nopiodelay');
      expect(featureNames([given])).toContain('kvm_nopiodelay');
    });

    it('that the engine cannot run are not offered', async () => {
      await using vm = await longModeVm(guest(FEATURE_LEAVES), { cpu: 'host' });
      const lacking = vm.engine.lackingFeatures();
      const loose = uncertain(accel);
      vm.start();
      await vm.exited;

      const seen = featureNames(results(vm, 0, FEATURE_LEAVES));

      expect(seen.filter((name) => lacking.includes(name) && !loose.has(name))).toEqual([]);
    });

    it('that the engine does not have are refused', async () => {
      await expect(longModeVm('hlt', { cpu: 'x86-64-v1,+amx_tile' })).rejects.toMatchObject({
        code: 'TSV_E_CPU_MODEL',
        message: expect.stringContaining('amx_tile'),
      });
    });

    it('that a named model should have are told of', async () => {
      const warnings: string[] = [];
      const log = pino({ level: 'warn' }, { write: (line: string) => warnings.push(JSON.parse(line).msg) });
      await using vm = await longModeVm('hlt', { cpu: 'x86-64-v3', log });

      const [warning, ...more] = warnings;
      const available = new Set(featureNames(vm.engine.supportedCpuid()));
      const hasAvx = available.has('avx') && !vm.engine.lackingFeatures().includes('avx');
      if (hasAvx) expect(warning ?? '').not.toContain('avx,');
      else expect(warning).toMatch(/^The CPU model x86-64-v3 is without .*avx, avx2, .* lacks\.$/);
      expect(more).toEqual([]);
    });

    it('another vendor is seen when asked for', async () => {
      const [intel] = await seenBy([[0, 0]], { cpu: 'x86-64-v1', vendor: 'intel' });
      const [amd] = await seenBy([[0, 0]], { cpu: 'x86-64-v1', vendor: 'amd' });

      expect([text(intel, 'vendor'), text(amd, 'vendor')]).toEqual(['GenuineIntel', 'AuthenticAMD']);
    });
  });

  describe('topology', () => {
    const queries: Query[] = [
      [1, 0],
      [0xb, 0],
      [0xb, 1],
    ];
    /** The local APIC's own id: in x2APIC mode where CPUID has it (MSR 0x802), else from the register at offset 0x20. */
    const REPORT_ID = `
      mov eax, 1; cpuid; bt ecx, 21; jnc 1f
      mov ecx, 0x1b; rdmsr; or eax, 0xc00; wrmsr
      mov ecx, 0x802; rdmsr; jmp 2f
      1: mov eax, 0xfee00020; mov eax, [rax]; shr eax, 24
      2: mov [rbp + ${APIC_ID}], eax
      out 0x55, al
      3: hlt; jmp 3b`;

    it.each([
      [{ sockets: 2, cores: 1, threads: 2 }, [0, 1, 2, 3]],
      [{ sockets: 1, cores: 4, threads: 1 }, [0, 1, 2, 3]],
      // Three cores take two bits of the APIC id: the second socket begins at 4.
      [{ sockets: 2, cores: 3, threads: 1 }, [0, 1, 2, 4, 5, 6]],
    ])('%j gives each vCPU its APIC id and the levels', async (topology, ids) => {
      const { sockets, cores, threads } = topology;
      const cpus = sockets * cores * threads;
      await using vm = await longModeVm(guest(queries, REPORT_ID), {
        cpus,
        topology,
        cpu: 'x86-64-v2',
        irqchip: 'kernel',
        startAll: true,
      });
      const reports = new RecordingDevice();
      vm.addDevice(reports, { pio: [{ base: 0x55, size: 1 }] });

      vm.start();
      await expect.poll(() => reports.accesses.length, { timeout: 20_000 }).toBe(cpus);

      const seen = ids.map((_, index) => results(vm, index, queries));
      expect(seen.map(([leaf1]) => leaf1.ebx >>> 24)).toEqual(ids);
      expect(seen.map(([, smt]) => smt.edx)).toEqual(ids);
      expect(seen.map(([, , core]) => core.edx)).toEqual(ids);
      expect(ids.map((_, index) => vm.memory.readU32(RESULTS + index * 0x1000 + APIC_ID))).toEqual(ids);
      expect(seen[0][1].ebx & 0xffff).toBe(threads);
      expect(seen[0][2].ebx & 0xffff).toBe(cores * threads);
      // ECX: the level's type, 1 for threads, 2 for cores.
      expect(seen[0].slice(1).map(({ ecx }) => (ecx >>> 8) & 0xff)).toEqual([1, 2]);
    });
  });
});
