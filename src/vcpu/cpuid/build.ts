/** Builds the CPUID table of one vCPU from a model and what the engine supports. */
import { TsvError } from '../../errors.ts';
import type { CpuidEntry } from '../state.ts';
import {
  CPU_FEATURES,
  type CpuFeature,
  type CpuidRegister,
  featureNamed,
  hasFeature,
  requirementsOf,
} from './features.ts';
import { hypervisorLeaves, tscLeaves } from './hypervisor.ts';
import { type CpuModelSpec, MODEL_FEATURES, PLATFORM_FEATURES } from './model.ts';
import {
  amdCoreCount,
  amdTopologyLeaf,
  type CpuTopology,
  cacheLeaf,
  extendedTopologyLeaf,
  leaf1Ebx,
} from './topology.ts';
import { xsaveLeaf } from './xsave.ts';

/** What {@link buildCpuid} needs to know besides the model. */
export interface CpuidOptions {
  /** APIC id of this vCPU; {@link apicIdOf} computes it. */
  readonly apicId: number;
  /** Sockets, cores and threads of the machine; {@link topologyOf} checks them. */
  readonly topology: CpuTopology;
  /** Vendor string the guest sees; default the one of the supported table. */
  readonly vendor?: 'intel' | 'amd';
  /** Features the engine reports but cannot run, by name (from the capability probe). */
  readonly hide?: Iterable<string>;
  /** Features the engine has although its table does not say so, e.g. `tsc_deadline_timer`. */
  readonly provide?: Iterable<string>;
  /** TSC frequency in kHz to report in leaves 0x15, 0x16 and 0x40000010. */
  readonly tscKhz?: number;
  /** Frequency of the local APIC timer's clock in kHz; default 1,000,000, which KVM uses. */
  readonly apicKhz?: number;
  /** Family, model and stepping (leaf 1 EAX) of the named models; default generic ones of the vendor. */
  readonly signature?: number;
  /** `none` hides that this is a virtual machine; default `kvm`: the engine's paravirtual leaves. */
  readonly hypervisor?: 'kvm' | 'none';
}

/** A CPUID table and what the model asked for in vain. */
export interface BuiltCpuid {
  /** Sorted by function and index, ready for KVM_SET_CPUID2. */
  readonly entries: CpuidEntry[];
  /** Features that define the model but that the engine cannot offer, or that lost one they need. */
  readonly unavailable: string[];
}

/** Bits that follow CR4 at run time; the engine maintains them. */
const DYNAMIC_FEATURES = ['osxsave', 'ospke'];

const VENDOR_STRINGS = { intel: 'GenuineIntel', amd: 'AuthenticAMD' } as const;

/**
 * Family, model and stepping of the named models (leaf 1 EAX): generic 64-bit processors that guests have no quirks
 * for, so that a snapshot moves between hosts.
 */
const SIGNATURE_INTEL = 0x0000_0f61;
const SIGNATURE_AMD = 0x0006_0fb1;

/**
 * The CPUID table of one vCPU. Pure: the kvm engine passes KVM_GET_SUPPORTED_CPUID, the tcg engine its own table.
 * @throws TSV_E_CPU_MODEL when a feature that the spec adds explicitly is not available
 */
export function buildCpuid(
  spec: CpuModelSpec,
  supported: readonly CpuidEntry[],
  options: CpuidOptions,
): BuiltCpuid {
  const { features, unavailable } = chooseFeatures(spec, supported, options);
  const host = spec.model === 'host';
  const { apicId, topology } = options;
  if (topology.cores * topology.threads > 1) {
    features.add('ht');
  }
  const find = (leaf: number, index = 0) => supported.find((e) => e.function === leaf && e.index === index);
  const vendor = options.vendor === undefined ? vendorOf(find(0)) : VENDOR_STRINGS[options.vendor];
  const amd = vendor === VENDOR_STRINGS.amd || vendor === 'HygonGenuine';
  if (amd && topology.cores * topology.threads > 1) features.add('cmp_legacy');
  else features.delete('cmp_legacy');

  const table = new Map<string, CpuidEntry>();
  const put = (entry: CpuidEntry) => table.set(`${entry.function}.${entry.index}`, entry);
  const leaf = (fn: number, registers: Partial<CpuidEntry>, index = 0, flags = 0) =>
    put({ function: fn, index, flags, eax: 0, ebx: 0, ecx: 0, edx: 0, ...registers });

  if (host) for (const entry of supported) if (isPassedThrough(entry)) put({ ...entry });

  const generic = options.signature ?? (amd ? SIGNATURE_AMD : SIGNATURE_INTEL);
  const signature = host ? (find(1)?.eax ?? generic) : generic;
  leaf(1, { eax: signature, ebx: leaf1Ebx(apicId, topology) });
  if (!amd) for (const entry of cacheLeaf(4, topology)) put(entry);
  leaf(7, { eax: Math.min(find(7)?.eax ?? 0, 1) }, 0, 1);
  leaf(7, {}, 1, 1);
  for (const entry of extendedTopologyLeaf(0xb, apicId, topology)) put(entry);
  for (const entry of extendedTopologyLeaf(0x1f, apicId, topology)) put(entry);
  for (const entry of xsaveLeaf(features, supported)) put(entry);
  leaf(0x8000_0001, amd ? { eax: signature, ebx: find(0x8000_0001)?.ebx ?? 0 } : {});
  putBrand(host ? supported : [], spec.model, leaf);
  if (!host) {
    // 32 KiB L1 caches, 1 MiB L2, 16 MiB L3 in AMD's encoding; Intel reads only L2 from here.
    if (amd) leaf(0x8000_0005, { ecx: 0x2008_0140, edx: 0x2008_0140 });
    leaf(0x8000_0006, { ecx: 0x0400_8140, edx: amd ? 0x0080_8140 : 0 });
  }
  leaf(0x8000_0007, {});
  leaf(0x8000_0008, {
    eax: addressBits(find(0x8000_0008)?.eax ?? 0, host, features.has('la57')),
    ecx: amd ? amdCoreCount(topology) : 0,
  });
  if (amd && features.has('topoext')) {
    for (const entry of cacheLeaf(0x8000_001d, topology)) put(entry);
    put(amdTopologyLeaf(apicId, topology));
  }
  if (options.tscKhz !== undefined) {
    for (const entry of tscLeaves(options.tscKhz, options.apicKhz)) put(entry);
  }
  if (options.hypervisor !== 'none') {
    for (const entry of hypervisorLeaves(find(0x4000_0000), options.tscKhz, options.apicKhz)) put(entry);
  }
  putFeatureWords(features, host ? supported : [], amd, table, leaf);

  const functions = [...table.values()].map((entry) => entry.function);
  const highest = (from: number, to: number) =>
    functions.reduce((max, fn) => (fn >= from && fn < to && fn > max ? fn : max), from);
  leaf(0, { eax: highest(0, 0x4000_0000), ...vendorRegisters(vendor) });
  leaf(0x8000_0000, { eax: highest(0x8000_0000, 2 ** 32), ...(amd ? vendorRegisters(vendor) : {}) });

  const entries = [...table.values()].sort((a, b) => a.function - b.function || a.index - b.index);
  return { entries, unavailable };
}

/** Resolves the model, the explicit changes, what the engine has and what features need of each other. */
function chooseFeatures(
  spec: CpuModelSpec,
  supported: readonly CpuidEntry[],
  options: CpuidOptions,
): { features: Set<string>; unavailable: string[] } {
  const hidden = new Set([...(options.hide ?? [])].map((name) => featureNamed(name).name));
  for (const name of DYNAMIC_FEATURES) hidden.add(name);
  const provided = new Set([...(options.provide ?? [])].map((name) => featureNamed(name).name));
  const has = (feature: CpuFeature) =>
    !hidden.has(feature.name) && (provided.has(feature.name) || hasFeature(supported, feature));
  const available = new Set([...CPU_FEATURES.values()].filter(has).map(({ name }) => name));
  const removed = new Set(spec.remove);

  for (const name of spec.add) {
    const missing = closure(name).find((needed) => !available.has(needed) || removed.has(needed));
    if (missing === undefined) continue;
    const why = removed.has(missing)
      ? `is removed by -${missing}`
      : hidden.has(missing)
        ? 'is reported by the host but cannot be run in guest kernel code there'
        : 'is not offered by the host';
    throw new TsvError(
      'TSV_E_CPU_MODEL',
      missing === name
        ? `CPU feature '${name}' ${why}.`
        : `CPU feature '${name}' needs '${missing}', which ${why}.`,
      { hint: `Leave out +${name}; 'tsvisor doctor' lists the features this host offers.` },
    );
  }

  const baseline = spec.model === 'host' ? [...available] : MODEL_FEATURES[spec.model];
  const wanted = new Set([...baseline, ...PLATFORM_FEATURES, ...spec.add.flatMap(closure)]);
  const features = new Set<string>();
  for (const name of wanted) if (available.has(name) && !removed.has(name)) features.add(name);
  if (options.hypervisor === 'none') {
    features.delete('hypervisor');
    for (const name of features) if (CPU_FEATURES.get(name)?.leaf === 0x4000_0001) features.delete(name);
  }
  dropUnusable(features);
  const unavailable = baseline.filter(
    (name) => !features.has(name) && !removed.has(name) && spec.model !== 'host',
  );
  return { features, unavailable };
}

/** A feature and all it needs. */
function closure(name: string): string[] {
  const all = new Set([name]);
  for (const member of all) for (const needed of requirementsOf(member)) all.add(needed);
  return [...all];
}

/** Removes features that miss one they need, until none is left. */
function dropUnusable(features: Set<string>): void {
  let changed = true;
  while (changed) {
    changed = false;
    for (const name of features) {
      if (requirementsOf(name).every((needed) => features.has(needed))) continue;
      features.delete(name);
      changed = true;
    }
  }
}

type PutLeaf = (fn: number, registers: Partial<CpuidEntry>, index?: number, flags?: number) => void;

/** Sets the feature words of the table: named bits as chosen, bits without a name as the host has them. */
function putFeatureWords(
  features: ReadonlySet<string>,
  host: readonly CpuidEntry[],
  amd: boolean,
  table: Map<string, CpuidEntry>,
  leaf: PutLeaf,
): void {
  for (const feature of CPU_FEATURES.values()) {
    const { leaf: fn, index, register, bit } = feature;
    // The word of leaf 0xD belongs to xsaveLeaf.
    if (fn === 0xd) continue;
    const key = `${fn}.${index}`;
    if (!table.has(key) && features.has(feature.name)) leaf(fn, {}, index);
    const entry = table.get(key);
    if (entry === undefined) continue;
    if (features.has(feature.name)) entry[register] |= 1 << bit;
    else entry[register] &= ~(1 << bit);
  }
  for (const { leaf: fn, index, register, mask } of namedWords()) {
    const entry = table.get(`${fn}.${index}`);
    const own = host.find((candidate) => candidate.function === fn && candidate.index === index);
    if (entry === undefined || fn === 0xd) continue;
    if (own !== undefined && fn !== 0x4000_0001) entry[register] |= own[register] & ~mask;
    entry[register] >>>= 0;
  }
  // AMD repeats the leaf 1 bits 0-9, 12-17, 23 and 24 in the extended leaf (APM vol. 3 E.4.2); Intel has them clear.
  const REPEATED = 0x0183_f3ff;
  const leaf1 = table.get('1.0')!;
  const extended = table.get(`${0x8000_0001}.0`)!;
  extended.edx = ((extended.edx & ~REPEATED) | (amd ? leaf1.edx & REPEATED : 0)) >>> 0;
}

/** The words that hold features, with a mask of the bits that have a name. */
function namedWords(): { leaf: number; index: number; register: CpuidRegister; mask: number }[] {
  const words = new Map<string, { leaf: number; index: number; register: CpuidRegister; mask: number }>();
  for (const { leaf, index, register, bit } of CPU_FEATURES.values()) {
    const key = `${leaf}.${index}.${register}`;
    const word = words.get(key) ?? { leaf, index, register, mask: 0 };
    word.mask |= 1 << bit;
    words.set(key, word);
  }
  return [...words.values()];
}

/** Leaves of the host model that are the engine's own, unchanged. */
function isPassedThrough(entry: CpuidEntry): boolean {
  const built = [0, 1, 4, 7, 0xb, 0xd, 0x1f, 0x8000_0000, 0x8000_0001, 0x8000_0007, 0x8000_001d, 0x8000_001e];
  if (built.includes(entry.function) || entry.function >>> 16 === 0x4000) return false;
  return (entry.eax | entry.ebx | entry.ecx | entry.edx) !== 0;
}

/** Leaves 0x80000002 to 0x80000004: the host's name, or the model's. */
function putBrand(host: readonly CpuidEntry[], model: string, leaf: PutLeaf): void {
  const leaves = [0x8000_0002, 0x8000_0003, 0x8000_0004];
  if (host.some((e) => leaves.includes(e.function) && (e.eax | e.ebx | e.ecx | e.edx) !== 0)) return;
  const bytes = new Uint8Array(48);
  bytes.set(new TextEncoder().encode(`${model} virtual CPU`).subarray(0, 47));
  const view = new DataView(bytes.buffer);
  for (const [i, fn] of leaves.entries()) {
    const word = (n: number) => view.getUint32(i * 16 + n * 4, true);
    leaf(fn, { eax: word(0), ebx: word(1), ecx: word(2), edx: word(3) });
  }
}

/** Leaf 0x80000008 EAX: physical and linear address bits. */
function addressBits(supported: number, host: boolean, la57: boolean): number {
  if (host) return supported;
  const DEFAULT_PHYSICAL_BITS = 40;
  return (supported & 0xff || DEFAULT_PHYSICAL_BITS) | ((la57 ? 57 : 48) << 8);
}

function vendorOf(leaf0: CpuidEntry | undefined): string {
  if (leaf0 === undefined) return VENDOR_STRINGS.intel;
  const words = Uint32Array.of(leaf0.ebx, leaf0.edx, leaf0.ecx);
  return String.fromCharCode(...new Uint8Array(words.buffer));
}

function vendorRegisters(vendor: string): { ebx: number; ecx: number; edx: number } {
  const view = new DataView(Uint8Array.from(vendor, (c) => c.charCodeAt(0)).buffer);
  return { ebx: view.getUint32(0, true), edx: view.getUint32(4, true), ecx: view.getUint32(8, true) };
}
