/** The serial console on standard input and output: interactive on a terminal, plain bytes otherwise. */
import { ReadStream } from 'node:tty';
import { EscapeKeys } from './escape-keys.ts';
import { FdWriter } from './fd-writer.ts';
import type { SerialEvents, SerialTarget } from './serial-target.ts';
import { enterRawMode, restoreTerminal } from './terminal.ts';

/**
 * Connects the console with this process's standard streams. On a terminal every key goes to the guest, but for those
 * of escape-keys.ts; from a pipe or file all bytes do, and its end is no end of the guest.
 * @param outputFd 1 or 2
 */
export function openStdio(outputFd: 1 | 2, events: SerialEvents): SerialTarget {
  const writer = new FdWriter(outputFd, events.onError);
  const { stdin } = process;
  const interactive = stdin instanceof ReadStream && stdin.isTTY;
  const keys = new EscapeKeys();
  const onData = (bytes: Buffer): void => {
    if (!interactive) {
      events.onInput(bytes);
      return;
    }
    for (const action of keys.feed(bytes)) {
      if (action.type === 'input') events.onInput(action.bytes);
      else events.onCommand(action.command);
    }
  };
  // Input that cannot be read (a terminal that hung up) is input that has ended.
  const onError = (): void => {};
  if (interactive) enterRawMode(stdin);
  stdin.on('data', onData).on('error', onError);
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
      stdin.off('data', onData);
      stdin.pause();
      restoreTerminal();
    },
  };
}
