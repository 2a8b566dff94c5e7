import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AreaX87State } from '../../../src/tcg/fpu/state.ts';
import { operandBytes, x87Encoding } from '../../../src/tcg/fpu/table.ts';
import { X87, X87_RESULT } from '../../../src/tcg/fpu/x87.ts';

const FLDENV = [0xd9, 0x20] as const;
const FNSTENV = [0xd9, 0x30] as const;
const FRSTOR = [0xdd, 0x20] as const;
const FNSAVE = [0xdd, 0x30] as const;
const FLD1 = [0xd9, 0xe8] as const;
const FLDZ = [0xd9, 0xee] as const;
const FDIVP = [0xde, 0xf9] as const;
const FNOP = [0xd9, 0xd0] as const;

function unit(): { state: AreaX87State; x87: X87 } {
  const state = new AreaX87State(new ArrayBuffer(0x1000), 0);
  const x87 = new X87(state);
  x87.execute(0xdb, 0xe3);
  return { state, x87 };
}

function bytes(x87: X87, count: number): string {
  return Buffer.from(x87.operand.buffer as ArrayBuffer, 0, count).toString('hex');
}

describe('the environment image', () => {
  const fill = (state: AreaX87State) => {
    state.fip = 0x1234_5678n;
    state.fdp = 0x9abc_def0n;
    state.fop = 0x5a5;
    state.fcw = 0x27f;
    state.fsw = 0x3800;
  };

  it.each([
    ['32-bit protected', false, true, '7f02ffff0038ffffffffffff785634120000a505f0debc9a0000ffff'],
    ['16-bit protected', true, true, '7f020038ffff78560000f0de0000'],
    ['32-bit real', false, false, '7f02ffff0038ffffffffffff7856ffffa5452301f0deffff00c0ab09'],
    ['16-bit real', true, false, '7f020038ffff7856a545f0de00c0'],
  ])('has the %s format', (_, size16, protectedMode, expected) => {
    const { state, x87 } = unit();
    fill(state);
    Object.assign(x87, { size16, protectedMode });
    const size = operandBytes(x87Encoding(...FNSTENV)!, size16);

    x87.execute(...FNSTENV);

    expect(bytes(x87, size)).toBe(expected);
  });

  it('restores everything in the 32-bit real format', () => {
    const { state, x87 } = unit();
    fill(state);
    x87.protectedMode = false;

    x87.execute(...FNSTENV);
    x87.execute(0xdb, 0xe3);
    x87.execute(...FLDENV);

    expect([state.fip, state.fdp, state.fop, state.fcw, state.fsw]).toEqual([
      0x1234_5678n,
      0x9abc_def0n,
      0x5a5,
      0x27f,
      0x3800,
    ]);
  });

  it('masks exceptions after it is stored, and makes them pending when it is loaded', () => {
    const { state, x87 } = unit();
    state.fcw = 0x37b;
    for (const [opcode, modrm] of [FLD1, FLDZ, FDIVP]) x87.execute(opcode, modrm);
    expect(x87.execute(...FNOP)).toBe(X87_RESULT.PENDING);

    x87.execute(...FNSTENV);
    expect(x87.execute(...FNOP)).toBe(X87_RESULT.DONE);

    x87.execute(...FLDENV);
    expect(x87.execute(...FNOP)).toBe(X87_RESULT.PENDING);
  });
});

describe('FNSAVE and FRSTOR', () => {
  it('bring back any registers in any format', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 128, maxLength: 128 }),
        fc.integer({ min: 0, max: 7 }),
        fc.integer({ min: 0, max: 255 }),
        fc.boolean(),
        fc.boolean(),
        (content, top, ftw, size16, protectedMode) => {
          const { state, x87 } = unit();
          for (let i = 0; i < 8; i++) {
            x87.operand.setBigUint64(0, Buffer.from(content).readBigUInt64LE(i * 16), true);
            x87.operand.setUint16(8, Buffer.from(content).readUInt16LE(i * 16 + 8), true);
            // FLD m80 writes it as it is.
            state.ftw = 0;
            x87.execute(0xdb, 0x2e);
          }
          state.fsw = top << 11;
          state.ftw = ftw;
          Object.assign(x87, { size16, protectedMode });

          x87.execute(...FNSAVE);
          const saved = bytes(x87, 108);
          expect([state.fcw, state.fsw, state.ftw]).toEqual([0x37f, 0, 0]);
          x87.execute(...FRSTOR);

          expect([state.fsw, state.ftw]).toEqual([top << 11, ftw]);
          x87.execute(...FNSAVE);
          expect(bytes(x87, 108)).toBe(saved);
        },
      ),
    );
  });
});
