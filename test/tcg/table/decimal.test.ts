/** DAA, AAA and their kin against the host's processor: every AL, in 32-bit code. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { FLAG } from '../../../src/tcg/emit/rflags.ts';
import { Random, randomState } from '../generate-cases.ts';
import { Subject } from '../oracle.ts';

const { CF, PF, AF, ZF, SF } = FLAG;
const CASE_BYTES = 8;

/** In the order of decimal-oracle.c, with the flags that are defined afterwards. */
const OPERATIONS = [
  { name: 'DAA', code: [0x27], defined: CF | PF | AF | ZF | SF },
  { name: 'DAS', code: [0x2f], defined: CF | PF | AF | ZF | SF },
  { name: 'AAA', code: [0x37], defined: CF | AF },
  { name: 'AAS', code: [0x3f], defined: CF | AF },
  { name: 'AAM', code: [0xd4, 10], defined: PF | ZF | SF },
  { name: 'AAM 255', code: [0xd4, 255], defined: PF | ZF | SF },
  { name: 'AAD', code: [0xd5, 10], defined: PF | ZF | SF },
  { name: 'AAD 255', code: [0xd5, 255], defined: PF | ZF | SF },
];

const directory = mkdtempSync(join(tmpdir(), 'tsvisor-decimal-'));
afterAll(() => rmSync(directory, { recursive: true }));

function compile(): string {
  const program = join(directory, 'oracle');
  const source = join(import.meta.dirname, 'decimal-oracle.c');
  const options = ['-O1', '-no-pie', '-o', program, source];
  execFileSync(process.env.CC ?? 'cc', options, { stdio: ['ignore', 'ignore', 'pipe'] });
  return program;
}

test('decimal adjustments do what the processor does', { timeout: 60_000 }, () => {
  const cases = OPERATIONS.flatMap((_, operation) =>
    Array.from({ length: 256 }, (_, al) =>
      [0, CF, AF, CF | AF].map((flags) => {
        // The operations differ in what they make of AH.
        const ah = [0, 0xff, 1, 0x80][(al + flags) & 3];
        return Uint16Array.of(operation, (ah << 8) | al, flags | 2, 0);
      }),
    ).flat(),
  );
  const input = Buffer.concat(cases.map((c) => Buffer.from(c.buffer)));
  const output = execFileSync(compile(), { input, maxBuffer: 1 << 26 });
  const subject = new Subject();
  const before = randomState(new Random(1));
  const failures: string[] = [];
  cases.forEach(([operation, ax, flags], i) => {
    const { name, code, defined } = OPERATIONS[operation];
    before.gpr[0] = BigInt(ax);
    before.flags = flags;
    const got = subject.run({ code: Uint8Array.from(code), before, width: 32 });
    const wanted = {
      ax: output.readUInt16LE(i * CASE_BYTES + 2),
      flags: output.readUInt16LE(i * CASE_BYTES + 4),
    };
    const result =
      'fault' in got ? { ax: -1, flags: 0 } : { ax: Number(got.state.gpr[0]), flags: got.state.flags };
    if (result.ax !== wanted.ax || (result.flags ^ wanted.flags) & defined)
      failures.push(`${name} of ${ax.toString(16)}, flags ${flags}: ${JSON.stringify({ wanted, result })}`);
  });
  expect(failures.slice(0, 10)).toEqual([]);
});
