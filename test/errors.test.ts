/** Error codes: each is thrown somewhere, each error has a hint, and the statuses are those of the documentation. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ERROR_CODES, TsvError, toTsvError } from '../src/errors.ts';

const ROOT = join(import.meta.dirname, '..');
const sources = readdirSync(join(ROOT, 'src'), { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.ts') && name !== 'errors.ts')
  .map((name) => ({ name, text: readFileSync(join(ROOT, 'src', name), 'utf8') }));

/** The arguments of every call, up to its closing parenthesis. */
function calls(text: string, callee: string): string[] {
  const found: string[] = [];
  for (let at = text.indexOf(callee); at >= 0; at = text.indexOf(callee, at + 1)) {
    let depth = 0;
    let end = at + callee.length - 1;
    do {
      if (text[end] === '(') depth++;
      if (text[end] === ')') depth--;
      end++;
    } while (depth > 0 && end < text.length);
    found.push(text.slice(at, end));
  }
  return found;
}

describe('every error code', () => {
  it.each(Object.keys(ERROR_CODES))('%s is used', (code) => {
    expect(sources.some(({ text }) => new RegExp(`'${code}'`).test(text))).toBe(true);
  });

  it('has one of the exit statuses that the README documents', () => {
    const readme = readFileSync(join(ROOT, 'README.md'), 'utf8');
    for (const status of new Set(Object.values(ERROR_CODES))) {
      expect(readme).toMatch(new RegExp(`^\\| ${status} \\|`, 'm'));
      // The exit device makes odd ones.
      expect(status % 2).toBe(0);
    }
  });
});

describe('every error that is thrown', () => {
  it('says what to do', () => {
    const without = sources.flatMap(({ name, text }) =>
      calls(text, 'new TsvError(')
        .filter((call) => !/\bhint\b/.test(call))
        .map((call) => `${name}: ${call}`),
    );

    expect(without).toEqual([]);
  });
});

describe('toTsvError', () => {
  it('leaves a TsvError as it is and wraps anything else with its cause', () => {
    const known = new TsvError('TSV_E_FILE', 'No.', { hint: 'Try.' });
    const cause = new RangeError('out');

    expect(toTsvError(known, 'TSV_E_INTERNAL', 'other')).toBe(known);
    expect(toTsvError(cause, 'TSV_E_DEVICE', 'It failed.', 'Do this.')).toMatchObject({
      code: 'TSV_E_DEVICE',
      message: 'It failed.',
      hint: 'Do this.',
      cause,
      exitStatus: 4,
    });
  });
});
