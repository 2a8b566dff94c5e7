/** Records what is written to an image, to see what a crash of the host could leave of it. */
import { writeFileSync } from 'node:fs';
import type { ImageFile } from '../../src/storage/file.ts';

type Event = { kind: 'write'; offset: number; bytes: Buffer } | { kind: 'sync' };

/** The writes of an image file and where they were made durable between them. */
export class Recording {
  readonly #start: Buffer;
  readonly #events: Event[] = [];

  /** @param start content of the file before */
  constructor(file: ImageFile, start: Buffer) {
    this.#start = start;
    const write = file.write.bind(file);
    const writeAtOnce = file.writeAtOnce.bind(file);
    const sync = file.sync.bind(file);
    // write() tries writeAtOnce() before anything else.
    let isRecorded = false;
    file.write = (offset, from) => {
      this.#events.push({ kind: 'write', offset, bytes: Buffer.concat(from) });
      isRecorded = true;
      try {
        return write(offset, from);
      } finally {
        isRecorded = false;
      }
    };
    file.writeAtOnce = (offset, from) => {
      const bytes = Buffer.concat(from);
      const isDone = writeAtOnce(offset, from);
      if (isDone && !isRecorded) this.#events.push({ kind: 'write', offset, bytes });
      return isDone;
    };
    file.sync = async () => {
      await sync();
      this.#events.push({ kind: 'sync' });
    };
  }

  get length(): number {
    return this.#events.length;
  }

  /** How many events had happened just after each write to the header. */
  get headerWrites(): number[] {
    return this.#events.flatMap((event, i) => (event.kind === 'write' && event.offset < 104 ? [i + 1] : []));
  }

  /**
   * The file as a crash could leave it: everything before the last sync, and of what follows, whatever `keep` says.
   * @param at events that had happened
   */
  crash(path: string, at: number, keep: (index: number) => boolean): void {
    const events = this.#events.slice(0, at);
    const synced = events.findLastIndex((event) => event.kind === 'sync');
    let content = Buffer.from(this.#start);
    for (const [i, event] of events.entries()) {
      if (event.kind !== 'write' || (i > synced && !keep(i))) continue;
      const end = event.offset + event.bytes.length;
      if (end > content.length) content = Buffer.concat([content, Buffer.alloc(end - content.length)]);
      event.bytes.copy(content, event.offset);
    }
    writeFileSync(path, content);
  }
}
