/**
 * What the host must have for which test. A test file that needs something says so in its first line,
 * `// needs: kvm`; where the host lacks it the file is left out and named in the summary, never silently.
 */
import { closeSync, existsSync, openSync, readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';

/** Things a test can need. */
export type Capability = 'kvm';

const ROOT = join(import.meta.dirname, '../..');

/** Why the host lacks a capability; undefined when it has it. */
export function lacking(capability: Capability): string | undefined {
  switch (capability) {
    case 'kvm': {
      const addon = process.env.TSVISOR_ADDON ?? join(ROOT, 'build/Release/tsvisor.node');
      if (!existsSync(addon)) return 'the native addon is not built';
      try {
        closeSync(openSync('/dev/kvm', 'r+'));
        return undefined;
      } catch (error) {
        return `/dev/kvm cannot be opened (${(error as NodeJS.ErrnoException).code})`;
      }
    }
  }
}

/** Test files that need a capability, relative to the project. */
export function filesNeeding(capability: Capability): string[] {
  return testFiles((text) => text.startsWith(`// needs: ${capability}`));
}

/** Test files of which parts are for the engines that the host has (engines.ts). */
export function filesOnEveryEngine(): string[] {
  return testFiles((text) => text.includes("/support/engines.ts'"));
}

function testFiles(wanted: (text: string) => boolean): string[] {
  return readdirSync(join(ROOT, 'test'), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.test.ts'))
    .map((name) => join(ROOT, 'test', name))
    .filter((path) => wanted(readFileSync(path, 'utf8')))
    .map((path) => relative(ROOT, path));
}
