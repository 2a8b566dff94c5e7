/**
 * What the host must have for which test. A test file that needs something says so in its first line,
 * `// needs: kvm` or `// needs: addon`; where the host lacks it the file is left out and named in the summary, never silently.
 */
import { closeSync, existsSync, openSync, readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';

/** Things a test can need: the native addon, and a usable /dev/kvm with it. */
export const CAPABILITIES = ['addon', 'kvm'] as const;
export type Capability = (typeof CAPABILITIES)[number];

const ROOT = join(import.meta.dirname, '../..');

/** Why the host lacks a capability; undefined when it has it. */
export function lacking(capability: Capability): string | undefined {
  const addon = process.env.TSVISOR_ADDON ?? join(ROOT, 'build/Release/tsvisor.node');
  if (!existsSync(addon)) return 'the native addon is not built';
  if (capability === 'addon') return undefined;
  try {
    closeSync(openSync('/dev/kvm', 'r+'));
    return undefined;
  } catch (error) {
    return `/dev/kvm cannot be opened (${(error as NodeJS.ErrnoException).code})`;
  }
}

/** For single tests of what only the addon can do; the summary names the files that ask. */
export const hasAddon = lacking('addon') === undefined;

/** Test files that need a capability, relative to the project. */
export function filesNeeding(capability: Capability): string[] {
  return testFiles((text) => text.startsWith(`// needs: ${capability}`));
}

/** Test files of which parts need what not every host has: kvm among the engines (engines.ts), or the addon. */
export function filesInPart(): string[] {
  return testFiles((text) => /\/support\/(engines|capabilities)\.ts'/.test(text));
}

function testFiles(wanted: (text: string) => boolean): string[] {
  return readdirSync(join(ROOT, 'test'), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.test.ts'))
    .map((name) => join(ROOT, 'test', name))
    .filter((path) => wanted(readFileSync(path, 'utf8')))
    .map((path) => relative(ROOT, path));
}
