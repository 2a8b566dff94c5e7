/**
 * The x86 branch filter ("BCJ") of XZ and LZMA, decoding direction. The encoder turned the relative targets of CALL
 * (E8) and JMP (E9) into absolute ones, because repeated targets then compress better.
 */

/**
 * By how many and which of the last three bytes were opcodes too, whether this one is taken for an instruction:
 * indexed by the three bits of `mask`.
 */
const MASK_ALLOWED = [true, true, true, false, true, false, false, false] as const;
/** Which operand byte decides in an allowed case, counted in bits. */
const MASK_BIT_NUMBER = [0, 1, 2, 2, 3, 3, 3, 3] as const;
/** Opcode and 32-bit operand. */
const INSTRUCTION_SIZE = 5;

/** Undoes the filter in place; positions count from the start of the data. */
export function undoX86Bcj(data: Uint8Array): void {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const last = data.length - INSTRUCTION_SIZE;
  let mask = 0;
  let previous = -1;
  for (let at = 0; at <= last; at++) {
    if ((data[at] & 0xfe) !== 0xe8) continue;
    const distance = at - previous;
    previous = at;
    // Bits of `mask` say which of the three bytes before were opcodes that were passed over.
    if (distance > 3) {
      mask = 0;
    } else {
      mask = (mask << (distance - 1)) & 7;
      if (mask !== 0) {
        const byte = data[at + 4 - MASK_BIT_NUMBER[mask]];
        if (!MASK_ALLOWED[mask] || isSignByte(byte)) {
          mask = (mask << 1) | 1;
          continue;
        }
      }
    }
    if (!isSignByte(data[at + 4])) {
      mask = (mask << 1) | 1;
      continue;
    }
    let source = view.getUint32(at + 1, true);
    let target: number;
    for (;;) {
      target = (source - (at + INSTRUCTION_SIZE)) >>> 0;
      if (mask === 0) break;
      const shift = MASK_BIT_NUMBER[mask] * 8;
      if (!isSignByte((target >>> (24 - shift)) & 0xff)) break;
      source = (target ^ ((1 << (32 - shift)) - 1)) >>> 0;
    }
    // The operand is a 25-bit number, sign-extended.
    target &= 0x01ffffff;
    if ((target & 0x01000000) !== 0) target |= 0xff000000;
    view.setUint32(at + 1, target >>> 0, true);
    at += INSTRUCTION_SIZE - 1;
    previous = at;
    mask = 0;
  }
}

/** Operands whose top byte is 00 or FF are the near ones the filter works on. */
function isSignByte(byte: number): boolean {
  return byte === 0 || byte === 0xff;
}
