/** Where a guest's serial port, virtio console or port leads on the host. */
import { TsvError } from '../../errors.ts';
import type { EscapeCommand } from '../escape-keys.ts';
import { openFile } from './file.ts';
import { openPty } from './pty.ts';
import { openSocket } from './socket.ts';
import { openStdio, type TerminalSize } from './stdio.ts';

/** A target as the command line has it. */
export type TargetSpec =
  | { readonly kind: 'stdio' | 'pty' | 'none' }
  | { readonly kind: 'file' | 'socket'; readonly path: string };

/** What a target tells the program. */
export interface TargetEvents {
  /** Bytes for the guest; a promise says when more are welcome. A terminal's keys do not wait for it. */
  onInput(bytes: Uint8Array): void | Promise<void>;
  /** The user asked for something with an escape key. */
  onCommand(command: EscapeCommand): void;
  /** The terminal has another size now. */
  onResize?(size: TerminalSize): void;
  /** A client of a socket has come, or gone. */
  onConnect?(isConnected: boolean): void;
  /** Output can no longer be delivered. EPIPE: the reader has gone. */
  onError(error: NodeJS.ErrnoException): void;
}

/** An open target. */
export interface Target {
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

/** How targets are written, for `--help` and error messages. */
export const TARGET_SYNTAX = 'stdio, file:PATH, pty, socket:PATH or none';

/**
 * Reads a target.
 * @param what what is to lead there, as messages call it
 * @throws TSV_E_USAGE
 */
export function parseTarget(text: string, what: string): TargetSpec {
  const colon = text.indexOf(':');
  const kind = colon < 0 ? text : text.slice(0, colon);
  const path = colon < 0 ? undefined : text.slice(colon + 1);
  if ((kind === 'stdio' || kind === 'pty' || kind === 'none') && path === undefined) return { kind };
  if ((kind === 'file' || kind === 'socket') && path) return { kind, path };
  throw new TsvError('TSV_E_USAGE', `"${text}" is not a ${what} target.`, { hint: `Use ${TARGET_SYNTAX}.` });
}

/**
 * Opens a target.
 * @param label what leads there, such as "serial console"
 * @param outputFd where `stdio` output goes: 1, or 2 when stdout is for JSON
 * @throws TSV_E_FILE, TSV_E_USAGE, TSV_E_HOST_IO, TSV_E_ADDON_MISSING
 */
export async function openTarget(
  spec: TargetSpec,
  label: string,
  outputFd: 1 | 2,
  events: TargetEvents,
): Promise<Target> {
  switch (spec.kind) {
    case 'stdio':
      return openStdio(outputFd, events);
    case 'pty':
      return openPty(label, events);
    case 'socket':
      return openSocket(spec.path, label, events);
    case 'file':
      return openFile(spec.path, label, events);
    case 'none':
      return { busy: false, write() {}, flush: async () => {}, hurry() {}, close() {} };
  }
}
