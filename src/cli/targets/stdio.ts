/** A console on standard input and output: interactive on a terminal, plain bytes otherwise. */
import { ReadStream } from 'node:tty';
import { EscapeKeys } from '../escape-keys.ts';
import { FdWriter } from '../fd-writer.ts';
import { enterRawMode, restoreTerminal } from '../terminal.ts';
import { holdBack } from './hold-back.ts';
import type { Target, TargetEvents } from './target.ts';

/** Size of a terminal, characters. */
export interface TerminalSize {
  readonly columns: number;
  readonly rows: number;
}

/** The size of the terminal that a console on standard output is shown on; undefined when it is none. */
export function stdioSize(outputFd: 1 | 2): TerminalSize | undefined {
  const { isTTY, columns, rows } = outputStream(outputFd);
  // A terminal that knows nothing of its size (a serial line) has 0 for both.
  return isTTY && columns > 0 && rows > 0 ? { columns, rows } : undefined;
}

function outputStream(outputFd: 1 | 2): NodeJS.WriteStream {
  return outputFd === 1 ? process.stdout : process.stderr;
}

/**
 * Connects a console with this process's standard streams. On a terminal every key goes to the guest, but for those
 * of escape-keys.ts; from a pipe or file all bytes do, and its end is no end of the guest.
 * @param outputFd 1 or 2
 */
export function openStdio(outputFd: 1 | 2, events: TargetEvents): Target {
  const writer = new FdWriter(outputFd, events.onError);
  const { stdin } = process;
  const interactive = stdin instanceof ReadStream && stdin.isTTY;
  // Input that cannot be read (a terminal that hung up) is input that has ended.
  const onError = (): void => {};
  const output = outputStream(outputFd);
  const onResize = (): void => {
    const size = stdioSize(outputFd);
    if (size !== undefined) events.onResize?.(size);
  };
  if (interactive) enterRawMode(stdin);
  const stopInput = interactive ? readKeys(stdin, events) : holdBack(stdin, events);
  stdin.on('error', onError);
  output.on('resize', onResize);
  return {
    ...(interactive && { notice: 'Ctrl-A x ends the machine, Ctrl-A h lists the keys' }),
    get busy() {
      return writer.busy;
    },
    write: (bytes) => writer.write(bytes),
    flush: () => writer.flush(),
    hurry: () => writer.hurry(),
    close() {
      writer.close();
      stopInput();
      output.off('resize', onResize);
      stdin.pause();
      restoreTerminal();
    },
  };
}

/** A terminal is read all the time: a guest that takes nothing must not keep Ctrl-A x from working. */
function readKeys(stdin: ReadStream, events: TargetEvents): () => void {
  const keys = new EscapeKeys();
  const onData = (bytes: Buffer): void => {
    for (const action of keys.feed(bytes)) {
      if (action.type === 'input') void events.onInput(action.bytes);
      else events.onCommand(action.command);
    }
  };
  stdin.on('data', onData);
  return () => stdin.off('data', onData);
}
