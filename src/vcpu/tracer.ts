/** Collects trace lines in a vCPU's thread and sends them in batches: one message for each line would drown the owner. */
import { SPACE } from '../devices/bus-table.ts';
import type { TraceTopic } from './protocol.ts';

const BATCH = 256;

/** A vCPU's trace. */
export class Tracer {
  readonly #prefix: string;
  readonly #topics: ReadonlySet<TraceTopic>;
  readonly #send: (lines: string[]) => void;
  #lines: string[] = [];

  constructor(vcpu: number, topics: readonly TraceTopic[], send: (lines: string[]) => void) {
    this.#prefix = `vcpu${vcpu}`;
    this.#topics = new Set(topics);
    this.#send = send;
  }

  has(topic: TraceTopic): boolean {
    return this.#topics.has(topic);
  }

  /** Adds a line. */
  add(line: string): void {
    this.#lines.push(`${this.#prefix} ${line}`);
    if (this.#lines.length >= BATCH) this.flush();
  }

  /** Adds a bus access; fits {@link BusTrace}. */
  access = (
    space: number,
    address: number,
    size: number,
    isWrite: boolean,
    value: number,
    handled: boolean,
  ): void => {
    const topic = space === SPACE.pio ? 'io' : 'mmio';
    if (!this.#topics.has(topic)) return;
    const direction = isWrite ? 'write' : 'read';
    const nobody = handled ? '' : ' (unclaimed)';
    this.add(
      `${topic} ${direction} 0x${address.toString(16)}/${size} 0x${(value >>> 0).toString(16)}${nobody}`,
    );
  };

  /** Sends what has been collected. */
  flush(): void {
    if (this.#lines.length === 0) return;
    this.#send(this.#lines);
    this.#lines = [];
  }
}
