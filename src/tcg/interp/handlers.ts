/** Enumerates the interpreter's handlers: one for each distinct form of an instruction. */
import type { AddressKind, Form } from '../emit/meaning.ts';
import {
  type Encoding,
  handlerSlot,
  type Instruction,
  SIZES,
  sizesOf,
  slotsOf,
} from '../table/instruction.ts';

/** A handler: a meaning with the form of its operands. */
export interface Handler {
  readonly key: string;
  readonly instruction: Instruction;
  readonly form: Form;
}

const ADDRESS_KINDS: readonly AddressKind[] = ['base', 'flat', 'any'];
const MEMORY_LETTERS = new Set(['E', 'M', 'W', 'Q', 'O']);

/** All handlers of the table; each encoding's `handlers` get indices into the list plus `first`. */
export function enumerateHandlers(instructions: readonly Instruction[]): Handler[] {
  const handlers: Handler[] = [];
  const known = new Map<string, number>();
  for (const instruction of instructions) {
    for (const encoding of instruction.encodings) {
      encoding.handlers.fill(-1);
      for (const size of sizesOf(encoding)) {
        for (const memory of [false, true]) {
          if (!allows(encoding, memory)) continue;
          addForms(instruction, encoding, size, memory, handlers, known);
        }
      }
    }
  }
  return handlers;
}

function allows(encoding: Encoding, memory: boolean): boolean {
  const inMemory = encoding.operands.filter(({ letter }) => MEMORY_LETTERS.has(letter));
  if (memory) return inMemory.length > 0 && encoding.mod !== 'register';
  return encoding.mod !== 'memory' && !inMemory.some(({ letter }) => letter === 'M' || letter === 'O');
}

function addForms(
  instruction: Instruction,
  encoding: Encoding,
  size: number,
  memory: boolean,
  handlers: Handler[],
  known: Map<string, number>,
): void {
  const slots = slotsOf(encoding, size, memory);
  const absolute = encoding.operands.some(({ letter }) => letter === 'O');
  const kinds: readonly AddressKind[] =
    !memory || absolute ? ['any'] : instruction.hot ? ADDRESS_KINDS : ['any'];
  const locks = instruction.lock && memory && slots[0].place === 'memory' ? [false, true] : [false];
  const aligned = !encoding.unaligned;
  for (const address of kinds) {
    for (const lock of locks) {
      // A branch's record holds its target, whatever the size of its displacement was.
      const text = slots.map(({ place, bytes, vector }) =>
        place === 'relative' ? place : `${place}${bytes}${vector ? 'v' : ''}`,
      );
      const vectors = slots.some(({ vector }) => vector);
      const key = [
        instruction.name,
        size,
        text.join(','),
        memory ? address : '',
        lock ? 'lock' : '',
        vectors && memory && !aligned ? 'u' : '',
      ].join(' ');
      let id = known.get(key);
      if (id === undefined) {
        id = handlers.push({ key, instruction, form: { slots, size, address, lock, aligned } }) - 1;
        known.set(key, id);
      }
      const sizeIndex = SIZES.indexOf(size as 1);
      for (let kind = ADDRESS_KINDS.indexOf(address); kind >= 0; kind--) {
        // A more special kind of address falls back to the next general one.
        const slot = handlerSlot(sizeIndex, memory ? 1 : 0, kind, lock ? 1 : 0);
        if (encoding.handlers[slot] < 0 || kind === ADDRESS_KINDS.indexOf(address))
          encoding.handlers[slot] = id;
      }
    }
  }
}
