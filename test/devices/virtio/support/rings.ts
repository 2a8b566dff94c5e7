/** The driver's side of both ring formats, in guest memory. */
import type { GuestMemory } from '../../../../src/memory/guest-memory.ts';

/** Hands out guest memory, ascending. */
export class Heap {
  #next: number;
  constructor(start = 0x10000) {
    this.#next = start;
  }
  take(size: number, alignment = 16): number {
    const at = Math.ceil(this.#next / alignment) * alignment;
    this.#next = at + Math.max(size, 1);
    return at;
  }
}

/** A buffer of a request. */
export interface Buffer {
  gpa: number;
  length: number;
  isWritable: boolean;
}

/** How a request is put into the ring: all direct, all indirect, or (split only) some direct and the rest indirect. */
export type Form = 'direct' | 'indirect' | 'mixed';

/** A request that came back. */
export interface Completion {
  token: number;
  written: number;
}

/** What a ring is made with. */
export interface RingOptions {
  memory: GuestMemory;
  heap: Heap;
  size: number;
  eventIdx?: boolean;
}

/** One side of the conversation. */
export interface RingDriver {
  readonly size: number;
  readonly desc: number;
  readonly driver: number;
  readonly device: number;
  /** @returns a token, or undefined when the ring has no room */
  add(buffers: readonly Buffer[], form?: Form): number | undefined;
  /** Whether the device wants to be notified of what was added since the last call. */
  kick(): boolean;
  /** What has come back since. */
  collect(): Completion[];
  /** Asks for interrupts again, once all has been collected; with `after`, only when so many more have come back. */
  enable(after?: number): void;
  /** Asks for none. */
  disable(): void;
  /** Goes on in a copy of the memory. */
  rebase(memory: GuestMemory): void;
}

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;

export function writeDescriptor(
  memory: GuestMemory,
  at: number,
  gpa: number,
  length: number,
  word12: number,
  word14: number,
): void {
  memory.writeU64(at, BigInt(gpa));
  memory.writeU32(at + 8, length);
  memory.writeU16(at + 12, word12);
  memory.writeU16(at + 14, word14);
}

const flagsOf = (buffer: Buffer) => (buffer.isWritable ? WRITE : 0);

/** vring_need_event. */
const needEvent = (event: number, next: number, old: number) =>
  ((next - event - 1) & 0xffff) < ((next - old) & 0xffff);

export class SplitDriver implements RingDriver {
  readonly size: number;
  readonly desc: number;
  readonly driver: number;
  readonly device: number;
  #memory: GuestMemory;
  readonly #heap: Heap;
  readonly #eventIdx: boolean;
  readonly #free: number[] = [];
  readonly #taken = new Map<number, number[]>();
  avail = 0;
  #lastUsed = 0;
  #kicked = 0;

  constructor({ memory, heap, size, eventIdx = false }: RingOptions) {
    this.#memory = memory;
    this.#heap = heap;
    this.size = size;
    this.#eventIdx = eventIdx;
    this.desc = heap.take(16 * size, 16);
    this.driver = heap.take(6 + 2 * size, 2);
    this.device = heap.take(6 + 8 * size, 4);
    for (let i = 0; i < size; i++) this.#free.push(i);
  }

  add(buffers: readonly Buffer[], form: Form = 'direct'): number | undefined {
    const direct = form === 'direct' ? buffers : form === 'mixed' ? buffers.slice(0, 1) : [];
    const rest = buffers.slice(direct.length);
    const needed = direct.length + (rest.length > 0 ? 1 : 0);
    if (needed === 0 || needed > this.#free.length) return undefined;
    const slots = this.#free.splice(0, needed);
    const put = (i: number, gpa: number, length: number, flags: number) => {
      const next = i + 1 < needed ? NEXT : 0;
      writeDescriptor(
        this.#memory,
        this.desc + slots[i] * 16,
        gpa,
        length,
        flags | next,
        slots[i + 1] ?? 0xbeef,
      );
    };
    direct.forEach((buffer, i) => {
      put(i, buffer.gpa, buffer.length, flagsOf(buffer));
    });
    if (rest.length > 0) {
      const table = this.#heap.take(rest.length * 16);
      rest.forEach((buffer, i) => {
        const next = i + 1 < rest.length ? NEXT : 0;
        writeDescriptor(
          this.#memory,
          table + i * 16,
          buffer.gpa,
          buffer.length,
          flagsOf(buffer) | next,
          i + 1,
        );
      });
      put(direct.length, table, rest.length * 16, INDIRECT);
    }
    this.#taken.set(slots[0], slots);
    this.offer(slots[0]);
    return slots[0];
  }

  /** Makes a head available, whatever it is. */
  offer(head: number): void {
    this.#memory.writeU16(this.driver + 4 + (this.avail % this.size) * 2, head);
    this.avail = (this.avail + 1) & 0xffff;
    this.#memory.writeU16(this.driver + 2, this.avail);
  }

  rebase(memory: GuestMemory): void {
    this.#memory = memory;
  }

  kick(): boolean {
    const old = this.#kicked;
    this.#kicked = this.avail;
    if (!this.#eventIdx) return (this.#memory.readU16(this.device) & 1) === 0;
    return needEvent(this.#memory.readU16(this.device + 4 + 8 * this.size), this.avail, old);
  }

  collect(): Completion[] {
    const done: Completion[] = [];
    while (this.#lastUsed !== this.#memory.readU16(this.device + 2)) {
      const at = this.device + 4 + (this.#lastUsed % this.size) * 8;
      const token = this.#memory.readU32(at);
      const slots = this.#taken.get(token);
      if (slots === undefined) throw new Error(`the device used chain ${token}, which it was not given`);
      this.#taken.delete(token);
      this.#free.push(...slots);
      done.push({ token, written: this.#memory.readU32(at + 4) });
      this.#lastUsed = (this.#lastUsed + 1) & 0xffff;
    }
    return done;
  }

  enable(after = 0): void {
    this.#memory.writeU16(this.driver, 0);
    if (this.#eventIdx) {
      this.#memory.writeU16(this.driver + 4 + 2 * this.size, (this.#lastUsed + after) & 0xffff);
    }
  }

  disable(): void {
    if (this.#eventIdx) this.#memory.writeU16(this.driver + 4 + 2 * this.size, (this.#lastUsed - 1) & 0xffff);
    else this.#memory.writeU16(this.driver, 1);
  }
}

const AVAIL = 1 << 7;
const USED = 1 << 15;

export class PackedDriver implements RingDriver {
  readonly size: number;
  readonly desc: number;
  readonly driver: number;
  readonly device: number;
  #memory: GuestMemory;
  readonly #heap: Heap;
  readonly #eventIdx: boolean;
  readonly #slots = new Map<number, number>();
  #freeIds: number[] = [];
  #room: number;
  next = 0;
  wrap = true;
  #lastUsed = 0;
  #usedWrap = true;
  #added = 0;

  constructor({ memory, heap, size, eventIdx = false }: RingOptions) {
    this.#memory = memory;
    this.#heap = heap;
    this.size = size;
    this.#eventIdx = eventIdx;
    this.#room = size;
    this.desc = heap.take(16 * size, 16);
    this.driver = heap.take(4, 4);
    this.device = heap.take(4, 4);
    for (let i = 0; i < size; i++) this.#freeIds.push(i);
  }

  add(buffers: readonly Buffer[], form: Form = 'direct'): number | undefined {
    let entries = buffers.map((buffer) => ({ ...buffer, flags: flagsOf(buffer) }));
    if (form !== 'direct' && entries.length > 0) {
      const table = this.#heap.take(buffers.length * 16);
      entries.forEach(({ gpa, length, flags }, i) => {
        writeDescriptor(this.#memory, table + i * 16, gpa, length, 0, flags);
      });
      entries = [{ gpa: table, length: buffers.length * 16, isWritable: false, flags: INDIRECT }];
    }
    if (entries.length === 0 || entries.length > this.#room) return undefined;
    const id = this.#freeIds.shift()!;
    this.#room -= entries.length;
    this.#slots.set(id, entries.length);
    const first = { at: 0, flags: 0 };
    entries.forEach(({ gpa, length, flags }, i) => {
      const at = this.desc + this.next * 16;
      const all = flags | (i + 1 < entries.length ? NEXT : 0) | (this.wrap ? AVAIL : USED);
      if (i === 0) Object.assign(first, { at, flags: all });
      // The first descriptor's flags come last: they make the chain available.
      const before = this.#memory.readU16(at + 14);
      writeDescriptor(this.#memory, at, gpa, length, id, i === 0 ? before : all);
      this.next++;
      if (this.next === this.size) {
        this.next = 0;
        this.wrap = !this.wrap;
      }
    });
    this.#memory.writeU16(first.at + 14, first.flags);
    this.#added += entries.length;
    return id;
  }

  rebase(memory: GuestMemory): void {
    this.#memory = memory;
  }

  kick(): boolean {
    const count = this.#added;
    this.#added = 0;
    const flags = this.#memory.readU16(this.device + 2);
    if (flags !== 2) return flags === 0;
    const event = this.#memory.readU16(this.device);
    const lap = ((event & 0x8000) !== 0) === this.wrap ? 0 : this.size;
    const passed = this.next - (event & 0x7fff) + lap;
    return passed > 0 && passed <= count;
  }

  collect(): Completion[] {
    const done: Completion[] = [];
    for (;;) {
      const at = this.desc + this.#lastUsed * 16;
      const flags = this.#memory.readU16(at + 14);
      const isUsed = ((flags & AVAIL) !== 0) === this.#usedWrap && ((flags & USED) !== 0) === this.#usedWrap;
      if (!isUsed) return done;
      const token = this.#memory.readU16(at + 12);
      const slots = this.#slots.get(token);
      if (slots === undefined) throw new Error(`the device used chain ${token}, which it was not given`);
      this.#slots.delete(token);
      this.#freeIds.push(token);
      this.#room += slots;
      done.push({ token, written: flags & WRITE ? this.#memory.readU32(at + 8) : 0 });
      this.#lastUsed += slots;
      if (this.#lastUsed >= this.size) {
        this.#lastUsed -= this.size;
        this.#usedWrap = !this.#usedWrap;
      }
    }
  }

  enable(after = 0): void {
    if (!this.#eventIdx) {
      this.#memory.writeU16(this.driver + 2, 0);
      return;
    }
    let at = this.#lastUsed + after;
    let wrap = this.#usedWrap;
    if (at >= this.size) {
      at -= this.size;
      wrap = !wrap;
    }
    this.#memory.writeU16(this.driver, at | (wrap ? 0x8000 : 0));
    this.#memory.writeU16(this.driver + 2, 2);
  }

  disable(): void {
    this.#memory.writeU16(this.driver + 2, 1);
  }
}
