/** The public API: every export, and every member of an exported class or interface, says what it is. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

const SRC = join(import.meta.dirname, '../src');

/** An exported name and the file that declares it. */
interface Exported {
  name: string;
  file: string;
}

const exports: Exported[] = [
  ...readFileSync(join(SRC, 'index.ts'), 'utf8').matchAll(
    /^export (?:type )?\{([^}]*)\} from '\.\/([^']+)'/gm,
  ),
].flatMap(([, names, file]) =>
  names
    .split(',')
    .map((name) => name.trim().replace(/^type /, ''))
    .filter((name) => name !== '')
    .map((name) => ({ name, file })),
);

/** Members with the KVM API's field names are documented as a whole, by the struct they mirror. */
const STRUCTS = 'vcpu/state.ts';

const MEMBER = /^ {2}(?:(?:readonly|static|async|override|get|set) )*(\[?[A-Za-z_][\w.]*\]?)(?:[<(?:!;]| =)/;

const isDocumented = (lines: readonly string[], line: number) => lines[line - 1]?.trimEnd().endsWith('*/');

/** The line of a declaration. */
function declaration({ name, file }: Exported): { lines: string[]; line: number } {
  const lines = readFileSync(join(SRC, file), 'utf8').split('\n');
  const start = new RegExp(`^export (?:async )?(?:class|interface|type|const|function) ${name}\\b`);
  return { lines, line: lines.findIndex((text) => start.test(text)) };
}

/** Names of an interface's members, which say there what they are for all classes that implement it. */
function inherited(line: string): readonly string[] {
  const name = /\bimplements (\w+)/.exec(line)?.[1];
  const base = exports.find((exported) => exported.name === name);
  if (base === undefined) return [];
  const { lines, line: start } = declaration(base);
  const members = lines.slice(start + 1, lines.indexOf('}', start)).map((text) => MEMBER.exec(text)?.[1]);
  return members.filter((member) => member !== undefined);
}

/** Public members of a class or interface without a comment. */
function undocumentedMembers(exported: Exported): string[] {
  const { lines, line } = declaration(exported);
  if (exported.file === STRUCTS || !/^export (class|interface) .*\{$/.test(lines[line])) return [];
  const end = lines.indexOf('}', line);
  const above = inherited(lines[line]);
  return lines.slice(line + 1, end).flatMap((text, i) => {
    const name = MEMBER.exec(text)?.[1];
    if (
      name === undefined ||
      name === 'constructor' ||
      above.includes(name) ||
      /^ {2}(private|protected) /.test(text)
    )
      return [];
    return isDocumented(lines, line + 1 + i) ? [] : [`${exported.name}.${name}`];
  });
}

describe('the public API', () => {
  it('is read from its one file', () => {
    expect(exports.length).toBeGreaterThan(30);
    expect(exports.map(({ name }) => name)).toEqual(
      expect.arrayContaining(['Vm', 'TsvError', 'Device', 'VcpuState']),
    );
  });

  it.each(exports)('documents $name', (exported) => {
    const { lines, line } = declaration(exported);

    expect(line).toBeGreaterThanOrEqual(0);
    expect(isDocumented(lines, line)).toBe(true);
    expect(undocumentedMembers(exported)).toEqual([]);
  });
});
