/** The whole instruction table. */
import { aes } from './aes.ts';
import { arithmetic } from './arithmetic.ts';
import { bits } from './bits.ts';
import { control } from './control.ts';
import type { Instruction } from './instruction.ts';
import { kernel } from './kernel.ts';
import { mmx } from './mmx.ts';
import { moves } from './moves.ts';
import { packed } from './packed.ts';
import { sha } from './sha.ts';
import { strings } from './strings.ts';
import { system } from './system.ts';
import { vectorConvert } from './vector-convert.ts';
import { vectorFloat } from './vector-float.ts';
import { vectorInteger } from './vector-integer.ts';
import { vectorMoves } from './vector-moves.ts';

/** All instructions, in the order in which encodings are tried. */
export const INSTRUCTIONS: readonly Instruction[] = [
  moves,
  arithmetic,
  control,
  bits,
  strings,
  system,
  kernel,
  vectorFloat,
  vectorConvert,
  vectorMoves,
  vectorInteger,
  packed,
  mmx,
  aes,
  sha,
].flatMap((table) => table.instructions);
