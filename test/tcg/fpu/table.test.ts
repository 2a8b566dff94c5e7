import { describe, expect, it } from 'vitest';
import { AreaX87State } from '../../../src/tcg/fpu/state.ts';
import { operandBytes, x87Encoding } from '../../../src/tcg/fpu/table.ts';
import { X87, X87_RESULT } from '../../../src/tcg/fpu/x87.ts';

const ENCODINGS = Array.from({ length: 8 * 256 }, (_, i) => [0xd8 + (i >> 8), i & 0xff] as const);

function freshUnit(): { state: AreaX87State; x87: X87 } {
  const state = new AreaX87State(new ArrayBuffer(0x1000), 0);
  state.fcw = 0x37f;
  state.ftw = 0x7f;
  return { state, x87: new X87(state) };
}

describe('the table of encodings', () => {
  it('has exactly what can be executed', () => {
    for (const [opcode, modrm] of ENCODINGS) {
      const { x87 } = freshUnit();
      const defined = x87.execute(opcode, modrm) !== X87_RESULT.UNDEFINED;
      expect([opcode, modrm, x87Encoding(opcode, modrm) !== undefined]).toEqual([opcode, modrm, defined]);
    }
  });

  it('tells how many bytes are written, and that readers write none', () => {
    for (const [opcode, modrm] of ENCODINGS) {
      for (const size16 of [false, true]) {
        const encoding = x87Encoding(opcode, modrm);
        if (encoding === undefined) continue;
        const written = writtenBytes(opcode, modrm, size16);
        const expected = encoding.access === 'write' ? operandBytes(encoding, size16) : 0;
        expect([encoding.mnemonic, size16, written]).toEqual([encoding.mnemonic, size16, expected]);
      }
    }
  });

  it('tells what waits for pending exceptions', () => {
    for (const [opcode, modrm] of ENCODINGS) {
      const { state, x87 } = freshUnit();
      const encoding = x87Encoding(opcode, modrm);
      if (encoding === undefined) continue;
      state.fcw = 0x37e;
      state.fsw = 0x8081;
      expect([encoding.mnemonic, x87.execute(opcode, modrm) === X87_RESULT.PENDING]).toEqual([
        encoding.mnemonic,
        encoding.waits,
      ]);
    }
  });
});

/** Number of operand bytes that are not what they were, from two different fillings. */
function writtenBytes(opcode: number, modrm: number, size16: boolean): number {
  let end = 0;
  for (const filling of [0x5a, 0xa5]) {
    const unit = freshUnit().x87;
    const bytes = new Uint8Array(unit.operand.buffer);
    bytes.fill(filling);
    unit.size16 = size16;
    unit.execute(opcode, modrm);
    for (let i = 0; i < bytes.length; i++) if (bytes[i] !== filling) end = Math.max(end, i + 1);
  }
  return end;
}
