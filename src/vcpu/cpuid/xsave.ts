/** Leaf 0xD: the XSAVE state components that the enabled features make use of (Intel SDM vol. 1 13.2). */
import type { CpuidEntry } from '../state.ts';

/** State components by bit of XCR0, and the features that need them; x87 and SSE come with XSAVE itself. */
const COMPONENT_FEATURES: Readonly<Record<number, string>> = {
  2: 'avx',
  3: 'mpx',
  4: 'mpx',
  5: 'avx512f',
  6: 'avx512f',
  7: 'avx512f',
  9: 'pku',
  17: 'amx_tile',
  18: 'amx_tile',
};
/** Legacy area and XSAVE header, bytes. */
const XSAVE_BASE_SIZE = 512 + 64;

/**
 * Leaf 0xD for a set of features, from the engine's own leaf 0xD (its offsets and sizes are the processor's).
 * Empty without `xsave`.
 */
export function xsaveLeaf(features: ReadonlySet<string>, supported: readonly CpuidEntry[]): CpuidEntry[] {
  const own = supported.filter((entry) => entry.function === 0xd);
  const main = own.find((entry) => entry.index === 0);
  if (!features.has('xsave') || main === undefined) return [];

  const offered = (BigInt(main.edx) << 32n) | BigInt(main.eax);
  let xcr0 = offered & 3n;
  let size = XSAVE_BASE_SIZE;
  const components: CpuidEntry[] = [];
  for (const [bit, feature] of Object.entries(COMPONENT_FEATURES)) {
    const index = Number(bit);
    const entry = own.find((candidate) => candidate.index === index);
    const mask = 1n << BigInt(index);
    if (!features.has(feature) || entry === undefined || (offered & mask) === 0n) continue;
    xcr0 |= mask;
    size = Math.max(size, entry.ebx + entry.eax);
    components.push({ ...entry, flags: 1 });
  }

  const extensions = ['xsaveopt', 'xsavec', 'xgetbv1', 'xsaves', 'xfd'];
  const eax = extensions.reduce((bits, name, bit) => (features.has(name) ? bits | (1 << bit) : bits), 0);
  const supervisor = features.has('xsaves') ? own.find((entry) => entry.index === 1) : undefined;
  const xss = (BigInt(supervisor?.edx ?? 0) << 32n) | BigInt(supervisor?.ecx ?? 0);
  const supervisorComponents = own.filter(
    ({ index }) => index >= 2 && !(index in COMPONENT_FEATURES) && ((xss >> BigInt(index)) & 1n) === 1n,
  );
  return [
    {
      function: 0xd,
      index: 0,
      flags: 1,
      eax: Number(xcr0 & 0xffff_ffffn),
      // The size for the current XCR0, which is x87 only after reset; KVM keeps it up to date.
      ebx: XSAVE_BASE_SIZE,
      ecx: size,
      edx: Number(xcr0 >> 32n),
    },
    {
      function: 0xd,
      index: 1,
      flags: 1,
      eax,
      ebx: eax === 0 ? 0 : XSAVE_BASE_SIZE,
      ecx: supervisor?.ecx ?? 0,
      edx: supervisor?.edx ?? 0,
    },
    ...components,
    ...supervisorComponents.map((entry) => ({ ...entry, flags: 1 })),
  ];
}
