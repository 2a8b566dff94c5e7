/** The instruction table without its meanings, as the decoder needs it, and as text in the build's output. */
import { type Encoding, HANDLER_SLOTS, type InstructionForm } from '../table/instruction.ts';

/** What the predecoder must know. */
export interface DecodeTable {
  /** The instructions, in the order in which encodings are tried; the encodings know their handlers. */
  readonly instructions: readonly InstructionForm[];
  /** Id of the handler that does two instructions, by fusedKey() of their ids. */
  readonly fused: ReadonlyMap<number, number>;
}

/** Handlers as runs of slots: [slot, id, slot, id ...]. */
type EncodingText = Omit<Encoding, 'instruction' | 'handlers'> & { readonly handlers: readonly number[] };
type InstructionText = Omit<InstructionForm, 'encodings'> & { readonly encodings: readonly EncodingText[] };

/** Writes a table as JSON. */
export function writeDecodeTable({ instructions, fused }: DecodeTable): string {
  // Meanings are functions, which JSON leaves out.
  const texts = instructions.map(
    (instruction): InstructionText => ({
      ...instruction,
      encodings: instruction.encodings.map(({ instruction: _, handlers, ...encoding }) => ({
        ...encoding,
        handlers: [...handlers].flatMap((id, slot) => (id < 0 ? [] : [slot, id])),
      })),
    }),
  );
  return JSON.stringify({ instructions: texts, fused: [...fused] });
}

/** Reads what {@link writeDecodeTable} wrote. */
export function parseDecodeTable(json: string): DecodeTable {
  const { instructions, fused } = JSON.parse(json) as {
    instructions: InstructionText[];
    fused: [number, number][];
  };
  return { instructions: instructions.map(instructionOf), fused: new Map(fused) };
}

function instructionOf(text: InstructionText): InstructionForm {
  const encodings: Encoding[] = [];
  const instruction: InstructionForm = { ...text, encodings };
  for (const encoding of text.encodings) {
    const handlers = new Int32Array(HANDLER_SLOTS).fill(-1);
    for (let i = 0; i < encoding.handlers.length; i += 2) {
      handlers[encoding.handlers[i]] = encoding.handlers[i + 1];
    }
    encodings.push({ ...encoding, instruction, handlers });
  }
  return instruction;
}
