import { describe, expect, it } from 'vitest';
import { Progress } from '../../src/cli/progress.ts';

/** A stream that keeps what is written. */
function screen(isTTY: boolean) {
  const written: string[] = [];
  const write = (text: string | Uint8Array) => written.push(String(text)) > 0;
  return { written, stream: { isTTY, columns: 20, write } as unknown as NodeJS.WriteStream };
}

describe('progress', () => {
  it('prints a line for each step where there is no terminal', () => {
    const { written, stream } = screen(false);
    const progress = new Progress(stream);

    progress.update('fetching', '1 %');
    progress.update('fetching', '2 %');
    progress.update('unpacking');
    progress.clear();

    expect(written).toEqual(['fetching\n', 'unpacking\n']);
  });

  it('updates one line on a terminal, cut to its width, and takes it away', () => {
    const { written, stream } = screen(true);
    const progress = new Progress(stream);

    progress.update('fetching a long name', '1 %');
    progress.clear();

    expect(written).toEqual(['\rfetching a long nam\x1b[K', '\r\x1b[K']);
  });

  it('does not redraw for every update', () => {
    const { written, stream } = screen(true);
    const progress = new Progress(stream);

    for (let i = 0; i < 1000; i++) progress.update('fetching', `${i}`);
    progress.clear();

    expect(written.length).toBeLessThan(10);
  });
});
