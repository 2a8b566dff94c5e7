import { describe, expect, test } from 'vitest';
import { parseDecodeTable, writeDecodeTable } from '../../../src/tcg/interp/decode-table.ts';
import { generateInterpreter } from '../../../src/tcg/interp/generate.ts';
import { INSTRUCTIONS } from '../../../src/tcg/table/index.ts';

describe('the generated interpreter', () => {
  const first = generateInterpreter(INSTRUCTIONS);

  test('is the same every time, so that a build is', () => {
    const second = generateInterpreter(INSTRUCTIONS);
    expect(Buffer.compare(first.run, second.run)).toBe(0);
    expect(Buffer.compare(first.outOfLine, second.outOfLine)).toBe(0);
    expect(writeDecodeTable(second)).toBe(writeDecodeTable(first));
  });

  test('is valid WebAssembly', () => {
    expect(WebAssembly.validate(first.run)).toBe(true);
    expect(WebAssembly.validate(first.outOfLine)).toBe(true);
  });

  test("keeps what the decoder knows through the build's file", () => {
    const { instructions, fused } = parseDecodeTable(writeDecodeTable(first));
    expect(fused).toEqual(first.fused);
    expect(instructions.map(({ name }) => name)).toEqual(INSTRUCTIONS.map(({ name }) => name));
    instructions.forEach(({ encodings, ...properties }, i) => {
      const { meaning: _, encodings: wanted, ...others } = INSTRUCTIONS[i];
      expect(properties).toEqual(others);
      encodings.forEach(({ instruction, ...encoding }, k) => {
        const { instruction: _, ...original } = wanted[k];
        expect(encoding).toEqual(original);
        expect(instruction).toBe(instructions[i]);
      });
    });
  });

  test('gives every operand form of every encoding a handler', () => {
    for (const { encodings } of INSTRUCTIONS) {
      for (const { text, handlers } of encodings)
        expect(
          handlers.some((id) => id > 0),
          text,
        ).toBe(true);
    }
  });
});
