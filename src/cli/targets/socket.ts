/** A console on a listening Unix socket, one client at a time. */
import { lstatSync, unlinkSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { TsvError } from '../../errors.ts';
import { holdBack } from './hold-back.ts';
import type { Target, TargetEvents } from './target.ts';

/** sizeof(sun_path) without its terminating zero (unix(7)). */
const MAX_SOCKET_PATH = 107;
/** Output kept for the next client, bytes; older output is dropped. */
const BACKLOG = 64 * 1024;
/** Output a client may be behind before the guest waits, bytes. */
const HIGH_WATER = 256 * 1024;

/**
 * Listens at `path`. A socket file that a dead process left behind is replaced; the file is removed at the end.
 * @param label what the console is, such as "serial console"
 * @throws TSV_E_USAGE path too long, in use, or not a socket; TSV_E_FILE when it cannot be created
 */
export async function openSocket(path: string, label: string, events: TargetEvents): Promise<Target> {
  if (Buffer.byteLength(path) > MAX_SOCKET_PATH) {
    throw new TsvError('TSV_E_USAGE', `The socket path ${path} is longer than ${MAX_SOCKET_PATH} bytes.`, {
      hint: 'Unix sockets have short names; use a path in /run or /tmp.',
    });
  }
  const port = new SocketPort(events);
  const server = createServer((client) => port.accept(client));
  try {
    await listen(server, path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw listenError(path, error);
    await removeStale(path);
    await listen(server, path).catch((again) => {
      throw listenError(path, again);
    });
  }
  // Node removes the file when the server closes; this is for the ends that close nothing.
  const remove = () => {
    try {
      unlinkSync(path);
    } catch {}
  };
  process.on('exit', remove);
  return {
    notice: `${label} on ${path} (socat -,raw,echo=0 UNIX-CONNECT:${path})`,
    get busy() {
      return port.busy;
    },
    write: (bytes) => port.write(bytes),
    flush: () => port.flush(),
    hurry: () => port.hurry(),
    close() {
      process.off('exit', remove);
      port.close();
      server.close();
    },
  };
}

/** The client there is, or the output that waits for one. */
class SocketPort {
  readonly #events: TargetEvents;
  #client: Socket | undefined;
  #waiting: Uint8Array[] = [];
  #waitingBytes = 0;
  #room: (() => void)[] = [];
  #flushed: (() => void)[] = [];
  #patient = true;

  constructor(events: TargetEvents) {
    this.#events = events;
  }

  get busy(): boolean {
    return (this.#client?.writableLength ?? 0) > 0;
  }

  accept(client: Socket): void {
    if (this.#client !== undefined) {
      client.on('error', () => {});
      client.end('tsvisor: another client is connected\r\n');
      return;
    }
    this.#client = client;
    holdBack(client, this.#events);
    client.on('drain', () => this.#release());
    // A client that has gone is no failure: the next may come.
    client.on('error', () => {});
    client.on('close', () => {
      this.#client = undefined;
      this.#release();
      this.#events.onConnect?.(false);
    });
    for (const bytes of this.#waiting.splice(0)) client.write(bytes);
    this.#waitingBytes = 0;
    this.#events.onConnect?.(true);
  }

  write(bytes: Uint8Array): void | Promise<void> {
    if (this.#client?.writable) {
      this.#client.write(bytes);
      if (this.#client.writableLength < HIGH_WATER || !this.#patient) return;
      return new Promise((resolve) => this.#room.push(resolve));
    }
    this.#waiting.push(bytes);
    this.#waitingBytes += bytes.length;
    while (this.#waitingBytes > BACKLOG && this.#waiting.length > 1) {
      this.#waitingBytes -= this.#waiting.shift()!.length;
    }
  }

  /** 'drain' comes when everything has been written, so both kinds of waiting end with it. */
  flush(): Promise<void> {
    if (!this.busy) return Promise.resolve();
    return new Promise((resolve) => this.#flushed.push(resolve));
  }

  hurry(): void {
    this.#patient = false;
    this.#release();
  }

  close(): void {
    this.#client?.destroy();
    this.#release();
  }

  #release(): void {
    for (const resolve of this.#room.splice(0)) resolve();
    if (!this.busy) for (const resolve of this.#flushed.splice(0)) resolve();
  }
}

function listen(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, () => {
      server.off('error', reject);
      resolve();
    });
  });
}

async function removeStale(path: string): Promise<void> {
  if (!lstatSync(path, { throwIfNoEntry: false })?.isSocket()) {
    throw new TsvError('TSV_E_USAGE', `${path} exists and is not a socket.`, {
      hint: 'Choose another path.',
    });
  }
  const alive = await new Promise<boolean>((resolve) => {
    const probe = connect(path);
    probe.on('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.on('error', (error: NodeJS.ErrnoException) => resolve(error.code !== 'ECONNREFUSED'));
  });
  if (alive) {
    throw new TsvError('TSV_E_USAGE', `Another process listens on the socket ${path}.`, {
      hint: 'End it, or choose another path.',
    });
  }
  unlinkSync(path);
}

function listenError(path: string, error: unknown): TsvError {
  const { code } = error as NodeJS.ErrnoException;
  return new TsvError('TSV_E_FILE', `The socket ${path} cannot be created: ${code}.`, {
    hint: 'Choose a path in a directory that exists and that this user may write to.',
    cause: error,
  });
}
