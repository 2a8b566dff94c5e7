import { spawnSync } from 'node:child_process';
import { closeSync, constants, openSync, readFileSync, readSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FdWriter } from '../../src/cli/fd-writer.ts';
import { scratch } from './support/cli.ts';

/** A FIFO with both ends in this process. */
function fifo(): { path: string; reader: number; writer: number } {
  const path = join(scratch(), 'fifo');
  spawnSync('mkfifo', [path]);
  const reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  return { path, reader, writer: openSync(path, constants.O_WRONLY) };
}

function drain(fd: number): Buffer {
  const pieces: Buffer[] = [];
  for (;;) {
    const piece = Buffer.alloc(65536);
    try {
      const length = readSync(fd, piece);
      if (length === 0) break;
      pieces.push(piece.subarray(0, length));
    } catch {
      break;
    }
  }
  return Buffer.concat(pieces);
}

describe('FdWriter', () => {
  it('writes everything in order', async () => {
    const bytes = fc.array(fc.uint8Array({ maxLength: 5000 }), { maxLength: 40 });
    await fc.assert(
      fc.asyncProperty(bytes, async (pieces) => {
        const path = join(scratch(), 'file');
        const fd = openSync(path, 'w');
        const writer = new FdWriter(fd, (error) => {
          throw error;
        });

        for (const piece of pieces) await writer.write(piece);
        await writer.flush();
        closeSync(fd);

        expect(readFileSync(path).equals(Buffer.concat(pieces))).toBe(true);
      }),
      { numRuns: 30 },
    );
  });

  it('asks to wait while the reader is behind, and lets go when it catches up', async () => {
    const { reader, writer: fd } = fifo();
    const writer = new FdWriter(fd, () => {});
    const sent = 1 << 20;

    const wait = writer.write(new Uint8Array(sent));
    expect(wait).toBeInstanceOf(Promise);
    let received = 0;
    const reading = setInterval(() => {
      received += drain(reader).length;
    }, 1);
    await wait;
    await writer.flush();
    clearInterval(reading);
    received += drain(reader).length;

    expect(received).toBe(sent);
    writer.close();
    closeSync(fd);
    closeSync(reader);
  });

  it('waits for nobody once it has to hurry', async () => {
    const { reader, writer: fd } = fifo();
    const writer = new FdWriter(fd, () => {});
    const wait = writer.write(new Uint8Array(1 << 20));

    writer.hurry();

    await wait;
    expect(writer.write(new Uint8Array(10))).toBeUndefined();
    expect(writer.busy).toBe(true);
    writer.close();
    await writer.flush();
    closeSync(fd);
    closeSync(reader);
  });

  it('reports a reader that has gone once, and drops what follows', async () => {
    const { reader, writer: fd } = fifo();
    const errors: (string | undefined)[] = [];
    const writer = new FdWriter(fd, (error) => errors.push(error.code));
    closeSync(reader);

    void writer.write(Buffer.from('a'));
    await writer.flush();
    expect(writer.write(new Uint8Array(1 << 20))).toBeUndefined();
    await writer.flush();

    expect(errors).toEqual(['EPIPE']);
    closeSync(fd);
  });

  it('leaves the mode of a descriptor it shares with others alone', async () => {
    const { reader, writer: fd } = fifo();
    const flags = () => /flags:\s+(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1];
    const before = flags();

    const writer = new FdWriter(fd, () => {});
    void writer.write(Buffer.from('x'));
    await writer.flush();

    expect(flags()).toBe(before);
    writer.close();
    closeSync(fd);
    closeSync(reader);
  });
});
