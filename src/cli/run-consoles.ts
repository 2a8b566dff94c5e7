/** The `--console` option: TARGET[,name=NAME], and joining the ports of a virtio console with their targets. */
import { VirtioConsole } from '../devices/virtio/console/console.ts';
import { TsvError } from '../errors.ts';
import { parseCommaList } from './comma-list.ts';
import type { TerminalSize } from './targets/stdio.ts';
import { parseTarget, type Target, type TargetEvents, type TargetSpec } from './targets/target.ts';

/** A port as the command line has it. */
export interface ConsoleSpec {
  readonly target: TargetSpec;
  /** Of a port for programs; one without is a console. */
  readonly name?: string;
}

/** For `--help` and error messages. */
export const CONSOLE_SYNTAX = 'TARGET[,name=NAME] with a TARGET as for --serial';

/**
 * Reads a `--console` value. A comma in the target's path is written twice, as for `--disk`.
 * @throws TSV_E_USAGE
 */
export function parseConsole(text: string): ConsoleSpec {
  const { first, values } = parseCommaList(text, { values: ['name'], flags: [] }, (part) => {
    throw usage(`"${part}" is nothing that can be said of a console.`);
  });
  const name = values.get('name');
  // It becomes the name of a file in /dev/virtio-ports.
  if (name !== undefined && !/^[\w.:+@-]{1,64}$/.test(name))
    throw usage(`"${name}" cannot be a port's name.`);
  return { target: parseTarget(first, 'console'), ...(name !== undefined && { name }) };
}

function usage(message: string): TsvError {
  return new TsvError('TSV_E_USAGE', message, {
    hint: `Write --console ${CONSOLE_SYNTAX}; names are letters, digits and ._:+@-, such as org.example.agent.`,
  });
}

/** Opens a target for a port. */
export type OpenPort = (
  spec: TargetSpec,
  label: string,
  events: Pick<TargetEvents, 'onInput' | 'onResize' | 'onConnect'>,
) => Promise<Target>;

/** A virtio console whose ports lead to targets. */
export class RunConsoles {
  /** For the machine. */
  readonly device: VirtioConsole;
  readonly #ports: readonly Port[];

  /** @param size of the terminal there is */
  constructor(specs: readonly ConsoleSpec[], size: TerminalSize | undefined) {
    this.#ports = specs.map((spec, index) => new Port(spec, (bytes) => this.device.receive(bytes, index)));
    this.device = new VirtioConsole({
      ...size,
      ports: this.#ports.map((port) => ({
        name: port.spec.name,
        isConsole: port.spec.name === undefined,
        // A console's output is for whoever comes; a program's waits for the one it is for.
        isConnected: port.spec.name === undefined || port.spec.target.kind !== 'socket',
        onOutput: (bytes) => port.target?.write(bytes),
        onInputSpace: () => port.feed(),
      })),
    });
  }

  /** Opens the targets. */
  async connect(open: OpenPort): Promise<void> {
    let consoles = 0;
    for (const [index, port] of this.#ports.entries()) {
      const { target, name } = port.spec;
      const label = name === undefined ? `console hvc${consoles++}` : `port ${name}`;
      port.target = await open(target, label, {
        onInput: (bytes) => port.receive(bytes),
        onResize: ({ columns, rows }) => this.device.resize(columns, rows),
        ...(name !== undefined && { onConnect: (isOpen) => this.device.setConnected(isOpen, index) }),
      });
    }
  }
}

/** Input that may wait for the guest before its source is held back, bytes: a source that is not read cannot hang up. */
const BACKLOG = 64 * 1024;

/** A port's target, and the input that the guest has not taken yet. */
class Port {
  readonly spec: ConsoleSpec;
  target: Target | undefined;
  readonly #send: (bytes: Uint8Array) => number;
  #input: Uint8Array[] = [];
  #waiting = 0;
  #taken: (() => void)[] = [];

  /** @param send gives input to the guest; returns how much of it was taken */
  constructor(spec: ConsoleSpec, send: (bytes: Uint8Array) => number) {
    this.spec = spec;
    this.#send = send;
  }

  /** @returns a promise when so much waits for the guest that no more is welcome */
  receive(bytes: Uint8Array): void | Promise<void> {
    this.#input.push(bytes);
    this.#waiting += bytes.length;
    this.feed();
    if (this.#waiting > BACKLOG) return new Promise((resolve) => this.#taken.push(resolve));
  }

  /** Gives the guest what it takes. */
  feed(): void {
    for (;;) {
      const [bytes] = this.#input;
      if (bytes === undefined) break;
      const count = this.#send(bytes);
      this.#waiting -= count;
      if (count < bytes.length) {
        this.#input[0] = bytes.subarray(count);
        break;
      }
      this.#input.shift();
    }
    if (this.#waiting <= BACKLOG) for (const resolve of this.#taken.splice(0)) resolve();
  }
}
