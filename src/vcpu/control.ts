/**
 * The control block of a vCPU in shared memory: what its thread is asked to do, who it is, and what it has counted.
 * Readable from any thread while the vCPU runs.
 *
 *            run()                pause()              stop()
 *   created ------> running <---------------> paused ---------> stopped
 *                      \------------------ stop() -----------------^
 */

/** What the thread shall do; the run loop looks before each entry into the guest. */
export const COMMAND = { run: 0, pause: 1, stop: 2 } as const;

const COMMAND_WORD = 0;
const TID_WORD = 1;
const WORDS = 4;
/** Exit reasons below this are counted by their number; the rest and what we do beyond them have names. */
const REASONS = 64;

/** Counters beyond the exit reasons. */
export const COUNTER = {
  /** Bytes of port I/O and MMIO that went to a device and were waited for are not counted apart: see the exits. */
  entries: REASONS,
  interrupted: REASONS + 1,
  assisted: REASONS + 2,
  unclaimed: REASONS + 3,
} as const;
const COUNTERS = REASONS + 8;

/** A vCPU's control block. */
export class VcpuControl {
  readonly shared: SharedArrayBuffer;
  readonly #words: Int32Array;
  /** Counts, by exit reason and {@link COUNTER}. Written by the vCPU's thread only. */
  readonly counters: Float64Array;

  constructor(shared = new SharedArrayBuffer(WORDS * 4 + COUNTERS * 8)) {
    this.shared = shared;
    this.#words = new Int32Array(shared, 0, WORDS);
    this.counters = new Float64Array(shared, WORDS * 4, COUNTERS);
  }

  get command(): number {
    return Atomics.load(this.#words, COMMAND_WORD);
  }

  set command(command: number) {
    Atomics.store(this.#words, COMMAND_WORD, command);
  }

  /** The thread's id on the host, without the addon only in this process; 0 until it has started. */
  get tid(): number {
    return Atomics.load(this.#words, TID_WORD);
  }

  set tid(tid: number) {
    Atomics.store(this.#words, TID_WORD, tid);
  }
}
