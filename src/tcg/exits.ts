/**
 * Port and MMIO accesses of one instruction. The first one that has no result yet becomes an exit; when it is done the
 * instruction is executed again and takes its results from here in the same order.
 */

/** What an exit asks for. */
export interface DeviceAccess {
  readonly kind: 'mmio' | 'port';
  readonly address: number;
  readonly write: boolean;
  readonly data: Uint8Array;
}

/** Registers that can be read and written without leaving run(). */
export interface PromptDevices {
  /** @returns unsigned value, or -1 when it takes an exit */
  read(kind: DeviceAccess['kind'], address: number, bytes: number): number;
  /** @returns false when it takes an exit */
  write(kind: DeviceAccess['kind'], address: number, bytes: number, value: number): boolean;
}

/** Largest MMIO access of an exit (struct kvm_run, mmio.data). */
const MAX_DATA = 8;

/** Accesses of the current instruction. */
export class ExitLog {
  readonly #done: DeviceAccess[] = [];
  #cursor = 0;
  /** The access that waits for its completion. */
  pending: DeviceAccess | undefined;

  /** undefined where every access is an exit. */
  prompt: PromptDevices | undefined;

  /** Executes the instruction from its start. */
  rewind(): void {
    this.#cursor = 0;
  }

  /** The instruction completed, or gave up. */
  clear(): void {
    this.#done.length = 0;
    this.#cursor = 0;
    this.pending = undefined;
  }

  /** The pending access was carried out; its data is what was read. */
  complete(): void {
    if (this.pending === undefined) return;
    this.#done.push(this.pending);
    this.pending = undefined;
  }

  /** Reads MMIO; `single`: see {@link access}. @returns false: leave with an exit */
  read(gpa: number, into: Uint8Array, single = false): boolean {
    for (let done = 0; done < into.length; done += MAX_DATA) {
      const piece = into.subarray(done, done + MAX_DATA);
      if (!this.access('mmio', gpa + done, false, piece, single)) return false;
    }
    return true;
  }

  /** Writes MMIO. */
  write(gpa: number, from: Uint8Array, single = false): boolean {
    for (let done = 0; done < from.length; done += MAX_DATA) {
      const piece = from.subarray(done, done + MAX_DATA);
      if (!this.access('mmio', gpa + done, true, piece, single)) return false;
    }
    return true;
  }

  /**
   * One access; `data` is what to write, or receives what was read.
   * @param single true when the instruction has no other access that could end it, so that it is not executed again
   */
  access(
    kind: DeviceAccess['kind'],
    address: number,
    write: boolean,
    data: Uint8Array,
    single = false,
  ): boolean {
    if (single && this.prompt !== undefined && this.#isPrompt(this.prompt, kind, address, write, data))
      return true;
    const done = this.#done[this.#cursor];
    const isSame =
      done?.kind === kind &&
      done.address === address &&
      done.write === write &&
      done.data.length === data.length;
    if (isSame) {
      this.#cursor++;
      if (!write) data.set(done.data);
      return true;
    }
    // Another vCPU has changed page tables meanwhile: the instruction is about something else now.
    this.#done.length = this.#cursor;
    this.pending = { kind, address, write, data: data.slice() };
    return false;
  }

  /** Carries an access out where the device lets it, unless results of exits are due. */
  #isPrompt(
    prompt: PromptDevices,
    kind: DeviceAccess['kind'],
    address: number,
    write: boolean,
    data: Uint8Array,
  ): boolean {
    const { length } = data;
    if (this.#done.length > 0 || (length !== 1 && length !== 2 && length !== 4)) return false;
    let value = 0;
    if (write) {
      for (let i = length - 1; i >= 0; i--) value = value * 256 + data[i];
      return prompt.write(kind, address, length, value);
    }
    value = prompt.read(kind, address, length);
    for (let i = 0; i < length && value >= 0; i++) data[i] = value >>> (i * 8);
    return value >= 0;
  }
}
