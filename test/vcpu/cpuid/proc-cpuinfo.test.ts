/** The feature table against what Linux reads from this machine's CPUID. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { CPU_FEATURES, featureNames, findFeature } from '../../../src/vcpu/cpuid/index.ts';
import type { CpuidEntry } from '../../../src/vcpu/state.ts';

/** Linux sets these itself, whatever CPUID says. */
const SYNTHETIC = new Set([
  'constant_tsc',
  'nonstop_tsc',
  'xsaves',
  'arat',
  'ibrs',
  'ibpb',
  'cx8',
  'cmp_legacy',
]);

/** CPUID of this machine's processor, the leaves that hold features. */
function hostCpuid(): CpuidEntry[] {
  const leaves = [...new Set([...CPU_FEATURES.values()].map((f) => `{${f.leaf}u,${f.index}u}`))].join(',');
  const source = `#include <cpuid.h>
#include <stdio.h>
int main(void) {
  unsigned l[][2] = {${leaves}}, a, b, c, d;
  for (unsigned i = 0; i < sizeof l / sizeof *l; i++) {
    if (!__get_cpuid_count(l[i][0], l[i][1], &a, &b, &c, &d)) continue;
    printf("%u %u %u %u %u %u\\n", l[i][0], l[i][1], a, b, c, d);
  }
}`;
  const directory = mkdtempSync(join(tmpdir(), 'tsvisor-cpuid-'));
  try {
    writeFileSync(join(directory, 'a.c'), source);
    const compiler = process.env.CC ?? 'cc';
    const built = spawnSync(compiler, ['-o', join(directory, 'a'), join(directory, 'a.c')], {
      encoding: 'utf8',
    });
    if (built.status !== 0) {
      throw new Error(
        `This test needs a C compiler; '${compiler}' did not work: ${built.error ?? built.stderr}`,
      );
    }
    const output = spawnSync(join(directory, 'a'), { encoding: 'utf8' }).stdout.trim();
    return output.split('\n').map((line) => {
      const [fn, index, eax, ebx, ecx, edx] = line.split(' ').map(Number);
      return { function: fn, index, flags: 0, eax, ebx, ecx, edx };
    });
  } finally {
    rmSync(directory, { recursive: true });
  }
}

test('every flag Linux shows and the table knows is set in CPUID', () => {
  const text = readFileSync('/proc/cpuinfo', 'utf8');
  const flags = (/^flags\s*:\s*(.*)$/m.exec(text)?.[1] ?? '').split(' ');
  const known = flags.filter((flag) => !SYNTHETIC.has(flag) && findFeature(flag)?.name === flag);

  const ours = new Set(featureNames(hostCpuid()));

  expect(known.length).toBeGreaterThan(30);
  expect(known.filter((flag) => !ours.has(flag))).toEqual([]);
});
