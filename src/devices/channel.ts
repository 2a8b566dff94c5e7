/**
 * The channel between one vCPU thread and the thread that owns the devices: a mailbox for accesses that wait for an
 * answer, a ring for posted writes, and the doorbell that all vCPUs of a machine share.
 *
 * Order: the owner drains a vCPU's ring before it answers that vCPU's mailbox, so a device sees each vCPU's accesses
 * in program order. A full ring makes the vCPU wait: a guest that floods a device is slowed, not buffered.
 */

/** Mailbox states. */
const IDLE = 0;
const REQUEST = 1;
const DONE = 2;
const ABORTED = 3;

const STATE = 0;
const REGION = 1;
const OFFSET_LO = 2;
const OFFSET_HI = 3;
const SIZE = 4;
const IS_WRITE = 5;
const VALUE = 6;
const HEAD = 8;
const TAIL = 9;
const RING = 16;
const ENTRY_WORDS = 4;
const RING_ENTRIES = 1024;
/** So many writes wake even an owner that collects. */
const COLLECTED = RING_ENTRIES / 4;
const WORDS = RING + RING_ENTRIES * ENTRY_WORDS;

const BELL = 0;
const OWNER = 1;
/** The owner's eventfd, 0 when it waits on the word. */
const EVENT = 2;
/** What the owner does, and who must wake it: nobody, ... */
const AWAKE = 0;
/** ... everybody, ... */
const ASLEEP = 1;
/** ... or only who waits for an answer, or has filled much of a ring. */
const COLLECTING = 2;

/** Regions have 16-bit names in the ring. */
export const MAX_REGION_ID = 0xffff;

/** An access a device must carry out. */
export interface Access {
  region: number;
  offset: number;
  size: 1 | 2 | 4;
  isWrite: boolean;
  value: number;
}

/** Thrown into a vCPU's run loop when the machine stops while it waits for a device. */
export class ChannelAborted extends Error {}

/**
 * How threads wake each other. With Atomics alone a wake-up takes V8's lock and list of waiters and, on an event loop,
 * a task and a promise; straight through the kernel it takes half as long (see bench/handover.mjs).
 */
export interface Wakeups {
  /** Sleeps while the word is `value`; may return early. */
  futexWait(words: Int32Array, index: number, value: number): number;
  futexWake(words: Int32Array, index: number): number;
  watchEvent(callback: () => void): { fd: number; close(): void } | number;
  signalEvent(fd: number): number;
}

/** Wakes the owner of the devices. */
export class Doorbell {
  readonly shared: SharedArrayBuffer;
  readonly #words: Int32Array;
  readonly #wakeups: Wakeups | undefined;
  /** Owner: the eventfd. */
  #event: { fd: number; close(): void } | undefined;
  #rung = () => {};

  /** @param wakeups the same on all threads; Atomics when absent */
  constructor(shared = new SharedArrayBuffer(12), wakeups?: Wakeups) {
    this.shared = shared;
    this.#words = new Int32Array(shared);
    this.#wakeups = wakeups;
  }

  /**
   * Called by a vCPU thread after it has put something into its channel.
   * @param urgent false when an owner that collects posted writes may find it by itself
   */
  ring(urgent = true): void {
    const words = this.#words;
    Atomics.add(words, BELL, 1);
    const owner = Atomics.load(words, OWNER);
    if (owner === AWAKE || (owner === COLLECTING && !urgent)) return;
    if (Atomics.exchange(words, OWNER, AWAKE) === AWAKE) return;
    const event = words[EVENT];
    if (event !== 0) this.#wakeups!.signalEvent(event);
    else Atomics.notify(words, BELL);
  }

  /** The count of rings so far; pass it to {@link wait} after looking at every channel. */
  count(): number {
    return Atomics.load(this.#words, BELL);
  }

  /**
   * Resolves when the bell has rung since `count`; undefined when it already has.
   * @param collect resolve only when it has rung urgently, or after so many milliseconds
   */
  wait(count: number, collect?: number): Promise<unknown> | undefined {
    if (this.#hasEvent()) return this.#waitForEvent(count, collect);
    Atomics.store(this.#words, OWNER, collect === undefined ? ASLEEP : COLLECTING);
    const result = Atomics.waitAsync(this.#words, BELL, count, collect);
    return result.async ? result.value : undefined;
  }

  /** False without wake-ups, and on a host that is out of file descriptors. */
  #hasEvent(): boolean {
    if (this.#event !== undefined) return true;
    if (this.#wakeups === undefined) return false;
    const event = this.#wakeups.watchEvent(() => this.#rung());
    if (typeof event === 'number') return false;
    this.#event = event;
    this.#words[EVENT] = event.fd;
    return true;
  }

  #waitForEvent(count: number, collect?: number): Promise<unknown> | undefined {
    Atomics.store(this.#words, OWNER, collect === undefined ? ASLEEP : COLLECTING);
    if (this.count() !== count) return undefined;
    return new Promise<void>((resolve) => {
      this.#rung = resolve;
      if (collect !== undefined) setTimeout(resolve, collect);
    });
  }

  /** Owner: releases the eventfd. No vCPU may ring any more. */
  close(): void {
    this.#event?.close();
    this.#event = undefined;
    this.#words[EVENT] = 0;
    this.#rung();
  }
}

/** One vCPU's mailbox and ring. The same class serves both sides; each method says whose it is. */
export class Channel {
  readonly shared: SharedArrayBuffer;
  readonly #words: Int32Array;
  readonly #wakeups: Wakeups | undefined;

  /** @param wakeups the same on both sides; Atomics when absent */
  constructor(shared = new SharedArrayBuffer(WORDS * 4), wakeups?: Wakeups) {
    this.shared = shared;
    this.#words = new Int32Array(shared);
    this.#wakeups = wakeups;
  }

  /**
   * vCPU: hands an access over and waits for it.
   * @returns the value read, unsigned
   * @throws ChannelAborted when the machine stops meanwhile
   */
  call(
    bell: Doorbell,
    region: number,
    offset: number,
    size: number,
    isWrite: boolean,
    value: number,
  ): number {
    const words = this.#words;
    words[REGION] = region;
    words[OFFSET_LO] = offset % 2 ** 32;
    words[OFFSET_HI] = Math.floor(offset / 2 ** 32);
    words[SIZE] = size;
    words[IS_WRITE] = isWrite ? 1 : 0;
    words[VALUE] = value;
    if (Atomics.compareExchange(words, STATE, IDLE, REQUEST) === ABORTED) throw new ChannelAborted();
    bell.ring();
    let state = REQUEST;
    while (state === REQUEST) {
      if (this.#wakeups === undefined) Atomics.wait(words, STATE, REQUEST);
      else this.#wakeups.futexWait(words, STATE, REQUEST);
      state = Atomics.load(words, STATE);
    }
    if (Atomics.compareExchange(words, STATE, DONE, IDLE) !== DONE) throw new ChannelAborted();
    return words[VALUE] >>> 0;
  }

  /** vCPU: hands a write over and goes on; waits only while the ring is full. @throws ChannelAborted */
  post(bell: Doorbell, region: number, offset: number, size: number, value: number): void {
    const words = this.#words;
    const head = words[HEAD];
    let tail = Atomics.load(words, TAIL);
    while (((head - tail) | 0) >= RING_ENTRIES) {
      if (Atomics.load(words, STATE) === ABORTED) throw new ChannelAborted();
      bell.ring();
      Atomics.wait(words, TAIL, tail, 100);
      tail = Atomics.load(words, TAIL);
    }
    const at = RING + (head & (RING_ENTRIES - 1)) * ENTRY_WORDS;
    words[at] = region | (size << 16);
    words[at + 1] = offset % 2 ** 32;
    words[at + 2] = value;
    words[at + 3] = Math.floor(offset / 2 ** 32);
    Atomics.store(words, HEAD, (head + 1) | 0);
    bell.ring(((head - tail) | 0) >= COLLECTED);
  }

  /** Owner: how far the ring has been filled; counts up and wraps at 32 bits. */
  get head(): number {
    return Atomics.load(this.#words, HEAD);
  }

  /** Owner: whether everything has been taken that was in the ring when {@link head} had this value. */
  taken(head: number): boolean {
    return ((head - this.#words[TAIL]) | 0) <= 0;
  }

  /** Owner: the oldest posted write, removed from the ring, which must not be empty: see {@link taken}. */
  takePosted(): Access {
    const words = this.#words;
    const tail = words[TAIL];
    const at = RING + (tail & (RING_ENTRIES - 1)) * ENTRY_WORDS;
    const access: Access = {
      region: words[at] & MAX_REGION_ID,
      offset: (words[at + 1] >>> 0) + words[at + 3] * 2 ** 32,
      size: (words[at] >>> 16) as 1 | 2 | 4,
      isWrite: true,
      value: words[at + 2] >>> 0,
    };
    Atomics.store(words, TAIL, (tail + 1) | 0);
    // A producer that found the ring full waits for room; waking it when half is free saves wake-ups.
    const left = (Atomics.load(words, HEAD) - tail) | 0;
    if (left === RING_ENTRIES / 2) Atomics.notify(words, TAIL);
    return access;
  }

  /** Owner: the access waiting in the mailbox, if any. It stays there until {@link answer}. */
  request(): Access | undefined {
    const words = this.#words;
    if (Atomics.load(words, STATE) !== REQUEST) return undefined;
    return {
      region: words[REGION],
      offset: (words[OFFSET_LO] >>> 0) + words[OFFSET_HI] * 2 ** 32,
      size: words[SIZE] as 1 | 2 | 4,
      isWrite: words[IS_WRITE] === 1,
      value: words[VALUE] >>> 0,
    };
  }

  /** Owner: completes the access in the mailbox. */
  answer(value: number): void {
    const words = this.#words;
    words[VALUE] = value;
    Atomics.compareExchange(words, STATE, REQUEST, DONE);
    this.#wake();
  }

  /** Owner: whatever the vCPU waits for now or later throws ChannelAborted there. */
  abort(): void {
    Atomics.store(this.#words, STATE, ABORTED);
    this.#wake();
    Atomics.notify(this.#words, TAIL);
  }

  #wake(): void {
    if (this.#wakeups === undefined) Atomics.notify(this.#words, STATE);
    else this.#wakeups.futexWake(this.#words, STATE);
  }
}
