/** Pushing to and popping from a stack before any of it counts: the stack pointer is set when all has gone well. */
import { ACCESS } from '../emit/access.ts';
import { GuestFault, VECTOR } from './fault.ts';
import { isCanonical, type LinearMemory } from './linear.ts';
import { RIGHTS } from './segments.ts';

const MASK64 = (1n << 64n) - 1n;

/** What counts of a stack segment outside of 64-bit mode. */
export interface StackSegment {
  readonly base: bigint;
  readonly limit: number;
  readonly rights: number;
}

/** How a {@link Stack} is accessed. */
export interface StackOptions {
  /** Error code of #SS: the EXT bit while an event is delivered, a selector for the stack of another level. */
  readonly error?: number;
  /** Accesses have supervisor privilege whatever CPL is: the stack of an inner level. */
  readonly system?: boolean;
}

/** A stack in use. */
export class Stack {
  /** Offset in the stack segment. */
  offset: bigint;
  readonly #memory: LinearMemory;
  readonly #segment: StackSegment | undefined;
  readonly #start: bigint;
  readonly #mask: bigint;
  readonly #error: number;
  readonly #system: boolean;

  /**
   * @param pointer the whole stack pointer register
   * @param segment undefined in 64-bit mode, where the stack has neither base nor limit
   */
  constructor(
    memory: LinearMemory,
    pointer: bigint,
    segment: StackSegment | undefined,
    { error = 0, system = false }: StackOptions = {},
  ) {
    this.#memory = memory;
    this.#segment = segment;
    this.#start = pointer;
    this.#mask = segment === undefined ? MASK64 : segment.rights & RIGHTS.DB ? 0xffff_ffffn : 0xffffn;
    this.#error = error;
    this.#system = system;
    this.offset = pointer & this.#mask;
  }

  /** What the stack pointer register is to hold. */
  get pointer(): bigint {
    return (this.#start & ~this.#mask & MASK64) | this.offset;
  }

  /** @throws GuestFault #SS outside of the limit or of the canonical addresses (SDM vol. 3A 6.15, interrupt 12) */
  #linear(offset: bigint, bytes: number): bigint {
    const last = offset + BigInt(bytes - 1);
    const segment = this.#segment;
    if (segment === undefined) {
      if (!isCanonical(offset) || !isCanonical(last & MASK64)) throw new GuestFault(VECTOR.SS, this.#error);
      return offset;
    }
    const { rights, limit } = segment;
    const down = (rights & (RIGHTS.CODE | RIGHTS.EC)) === RIGHTS.EC;
    const inside = down
      ? offset > BigInt(limit) && last <= (rights & RIGHTS.DB ? 0xffff_ffffn : 0xffffn)
      : last <= BigInt(limit);
    if (!inside || rights & RIGHTS.UNUSABLE) throw new GuestFault(VECTOR.SS, this.#error);
    return (segment.base + offset) & 0xffff_ffffn;
  }

  push(value: bigint, bytes: number): void {
    const offset = (this.offset - BigInt(bytes)) & this.#mask;
    this.#memory.set(this.#linear(offset, bytes), value, bytes, this.#system);
    this.offset = offset;
  }

  pop(bytes: number): bigint {
    const value = this.peek(bytes);
    this.skip(bytes);
    return value;
  }

  /** Reads without moving. */
  peek(bytes: number): bigint {
    return this.#memory.get(this.#linear(this.offset, bytes), bytes, this.#system);
  }

  /** Checks that the bytes at the stack pointer can be written. */
  probe(bytes: number): void {
    this.#memory.probe(this.#linear(this.offset, bytes), bytes, ACCESS.write, this.#system);
  }

  /** Pops several words with one access; in 64-bit mode only. */
  popAll(count: number, bytes: number): bigint[] {
    const image = new Uint8Array(count * bytes);
    this.#memory.read(this.#linear(this.offset, image.length), image, this.#system);
    this.skip(image.length);
    const view = new DataView(image.buffer);
    return Array.from({ length: count }, (_, i) =>
      bytes === 8
        ? view.getBigUint64(i * 8, true)
        : BigInt(bytes === 4 ? view.getUint32(i * 4, true) : view.getUint16(i * 2, true)),
    );
  }

  /** Moves up without reading. */
  skip(bytes: number): void {
    this.offset = (this.offset + BigInt(bytes)) & this.#mask;
  }
}
