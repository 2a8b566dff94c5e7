import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { writeDecodeTable } from '../../../src/tcg/interp/decode-table.ts';
import { generateInterpreter } from '../../../src/tcg/interp/generate.ts';
import { FILES } from '../../../src/tcg/interpreter.ts';
import { INSTRUCTIONS } from '../../../src/tcg/table/index.ts';

const built = (name: string) => readFileSync(new URL(`../../../dist/tcg/generated/${name}`, import.meta.url));

test('the build has the interpreter that the sources generate', () => {
  const interpreter = generateInterpreter(INSTRUCTIONS);
  const hint = 'dist/ is older than the sources: npm run build';

  expect(Buffer.compare(built(FILES.run), interpreter.run), hint).toBe(0);
  expect(Buffer.compare(built(FILES.outOfLine), interpreter.outOfLine), hint).toBe(0);
  expect(built(FILES.table).toString() === writeDecodeTable(interpreter), hint).toBe(true);
});
