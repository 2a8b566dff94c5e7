/** Where the guest's serial console goes on the host. */
import { closeSync, constants as O, openSync } from 'node:fs';
import { TsvError } from '../errors.ts';
import { FdWriter } from './fd-writer.ts';
import { openPty } from './serial-pty.ts';
import { openSocket } from './serial-socket.ts';
import { openStdio } from './serial-stdio.ts';

/** A parsed `--serial`. */
export type SerialSpec =
  | { readonly kind: 'stdio' | 'pty' | 'none' }
  | { readonly kind: 'file' | 'socket'; readonly path: string };

/** What a target tells the program. */
export interface SerialEvents {
  /** Bytes for the guest. */
  onInput(bytes: Uint8Array): void;
  /** The user asked for something with an escape key. */
  onCommand(command: import('./escape-keys.ts').EscapeCommand): void;
  /** Output can no longer be delivered. EPIPE: the reader has gone. */
  onError(error: NodeJS.ErrnoException): void;
}

/** An open target. */
export interface SerialTarget {
  /** A line for the user, when there is something to know, such as the name of the pty. */
  readonly notice?: string;
  /** Guest output; the promise says when more is welcome. */
  write(bytes: Uint8Array): void | Promise<void>;
  /** Resolves when all output has been delivered. */
  flush(): Promise<void>;
  /** True while output waits for its reader. */
  readonly busy: boolean;
  /** The run is being ended: from now on the guest's output waits for no reader. */
  hurry(): void;
  close(): void;
}

/**
 * Reads a `--serial` value.
 * @throws TSV_E_USAGE
 */
export function parseSerial(text: string): SerialSpec {
  const colon = text.indexOf(':');
  const kind = colon < 0 ? text : text.slice(0, colon);
  const path = colon < 0 ? undefined : text.slice(colon + 1);
  if ((kind === 'stdio' || kind === 'pty' || kind === 'none') && path === undefined) return { kind };
  if ((kind === 'file' || kind === 'socket') && path) return { kind, path };
  throw new TsvError('TSV_E_USAGE', `"${text}" is not a serial target.`, {
    hint: 'Use stdio, file:PATH, pty, socket:PATH or none.',
  });
}

/**
 * Opens a target.
 * @param outputFd where `stdio` output goes: 1, or 2 when stdout is for JSON
 * @throws TSV_E_FILE, TSV_E_USAGE, TSV_E_HOST_IO, TSV_E_ADDON_MISSING
 */
export async function openSerial(
  spec: SerialSpec,
  outputFd: 1 | 2,
  events: SerialEvents,
): Promise<SerialTarget> {
  switch (spec.kind) {
    case 'stdio':
      return openStdio(outputFd, events);
    case 'pty':
      return openPty(events);
    case 'socket':
      return openSocket(spec.path, events);
    case 'file':
      return openFile(spec.path, events);
    case 'none':
      return { busy: false, write() {}, flush: async () => {}, hurry() {}, close() {} };
  }
}

function openFile(path: string, events: SerialEvents): SerialTarget {
  const fd = openOutput(path, 'serial output');
  const writer = new FdWriter(fd, events.onError);
  return {
    get busy() {
      return writer.busy;
    },
    write: (bytes) => writer.write(bytes),
    flush: () => writer.flush(),
    hurry: () => writer.hurry(),
    close() {
      writer.close();
      closeSync(fd);
    },
  };
}

/**
 * Creates or empties a file for output.
 * @param what what it is for, as messages call it
 * @throws TSV_E_FILE
 */
export function openOutput(path: string, what: string): number {
  try {
    // Without O_NONBLOCK a FIFO that nobody reads would hold up the program here.
    return openSync(path, O.O_WRONLY | O.O_CREAT | O.O_TRUNC | O.O_NONBLOCK, 0o666);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new TsvError('TSV_E_FILE', `The ${what} cannot go to ${path}: ${code}.`, {
      hint: OUTPUT_HINTS[code ?? ''] ?? 'Choose another file.',
      cause: error,
    });
  }
}

const OUTPUT_HINTS: Readonly<Record<string, string>> = {
  ENOENT: 'The directory does not exist; create it first.',
  ENOTDIR: 'A part of the path is not a directory.',
  EISDIR: 'It is a directory; name a file in it.',
  EACCES: 'This user may not write there; choose another place.',
  EROFS: 'The file system is read-only; choose another place.',
  ENXIO: 'It is a FIFO without a reader; start the reader first.',
};
