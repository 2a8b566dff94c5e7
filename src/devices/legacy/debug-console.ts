/** Port 0xE9, the debug console of Bochs and QEMU: bytes written are output, reading gives 0xE9 if there is one. */
import type { Device, DeviceContext, DeviceState, RegisterMode } from '../device.ts';
import { OutputBatch, type OutputSink } from './output-batch.ts';

/** What a guest reads to find out that the console is there. */
export const DEBUG_CONSOLE_PRESENT = 0xe9;

const REGISTERS: readonly RegisterMode[] = [{ offset: 0, size: 1, read: 'latched', write: 'posted' }];

/** Port 0xE9. It has no state. */
export class DebugConsole implements Device {
  readonly name = 'debug-console';
  readonly maxAccess = 1 as const;
  readonly registers = REGISTERS;
  readonly #output: OutputBatch;
  #context: DeviceContext | undefined;

  /** @param output where the bytes go */
  constructor(output: OutputSink) {
    this.#output = new OutputBatch(output, {
      failed: (error) => this.#context?.log('error', `${this.name}: output failed: ${String(error)}`),
    });
  }

  attach(context: DeviceContext): void {
    this.#context = context;
    context.latch(0).store(DEBUG_CONSOLE_PRESENT);
  }

  read(): number {
    return DEBUG_CONSOLE_PRESENT;
  }

  write(_offset: number, _size: number, value: number): void | Promise<void> {
    return this.#output.push(value);
  }

  /** Resolves when the sink has taken everything. */
  flush(): Promise<void> {
    return this.#output.flush();
  }

  close(): Promise<void> {
    return this.flush();
  }

  save(): DeviceState {
    return {};
  }

  restore(): void {}
}
