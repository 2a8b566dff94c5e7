/**
 * Reading a device's saved state back.
 *
 * A snapshot is a file, and a file may be old, cut short or forged. A device reads every value through this before
 * it changes anything, so a state that is refused leaves the device as it was.
 */
import { TsvError } from '../errors.ts';
import type { DeviceState } from './device.ts';

/** Typed, checked access to a {@link DeviceState}; everything throws TSV_E_STATE. */
export class SavedState {
  readonly #owner: string;
  readonly #state: DeviceState;

  /**
   * @param owner the device's name, for messages
   * @throws TSV_E_STATE when `state` is not an object
   */
  constructor(owner: string, state: unknown) {
    this.#owner = owner;
    if (typeof state !== 'object' || state === null || Array.isArray(state)) {
      throw this.#bad('is not an object');
    }
    this.#state = state as DeviceState;
  }

  /** An integer in [min, max]. */
  int(key: string, max: number, min = 0): number {
    const value = this.#state[key];
    if (!isInteger(value, min, max)) throw this.#bad(`has no ${key} between ${min} and ${max}`);
    return value;
  }

  /** An unsigned byte. */
  u8(key: string): number {
    return this.int(key, 0xff);
  }

  /** A number, whole or not, in [-limit, limit]. */
  finite(key: string, limit = Number.MAX_VALUE): number {
    const value = this.#state[key];
    if (typeof value !== 'number' || !(Math.abs(value) <= limit)) {
      throw this.#bad(`has no number ${key} up to ${limit}`);
    }
    return value;
  }

  bool(key: string): boolean {
    const value = this.#state[key];
    if (typeof value !== 'boolean') throw this.#bad(`has no boolean ${key}`);
    return value;
  }

  /** An array of at most `maxLength` integers in [0, max]; exactly `maxLength` when `exact`. */
  ints(key: string, max: number, maxLength: number, exact = false): number[] {
    const value = this.#state[key];
    if (
      !Array.isArray(value) ||
      value.length > maxLength ||
      (exact && value.length !== maxLength) ||
      !value.every((item) => isInteger(item, 0, max))
    ) {
      throw this.#bad(`has no list ${key} of ${exact ? '' : 'up to '}${maxLength} numbers up to ${max}`);
    }
    return [...value];
  }

  /** Exactly `length` bytes; not a copy. */
  bytes(key: string, length: number): Uint8Array {
    const value = this.#state[key];
    if (value instanceof Uint8Array && value.length === length) return value;
    throw this.#bad(`has no ${length} bytes ${key}`);
  }

  /** An array of exactly `length` objects. */
  list(key: string, length: number): SavedState[] {
    const value = this.#state[key];
    if (!Array.isArray(value) || value.length !== length) {
      throw this.#bad(`has no list ${key} of ${length} entries`);
    }
    return value.map((item) => new SavedState(this.#owner, item));
  }

  /** A nested object, as a reader of its own. */
  object(key: string): SavedState {
    return new SavedState(this.#owner, this.#state[key]);
  }

  /** A nested object as it is, for another device's `restore`. */
  state(key: string): DeviceState {
    return this.object(key).#state;
  }

  /** One of the given strings. */
  oneOf<T extends string>(key: string, values: readonly T[]): T {
    const value = values.find((item) => item === this.#state[key]);
    if (value === undefined) throw this.#bad(`has no ${key} among ${values.join(', ')}`);
    return value;
  }

  /** True when the state has a value of that name. */
  has(key: string): boolean {
    return this.#state[key] !== undefined && this.#state[key] !== null;
  }

  #bad(what: string): TsvError {
    return new TsvError('TSV_E_STATE', `The saved state of ${this.#owner} ${what}.`, {
      hint: 'Take the snapshot again with this version and this machine configuration.',
    });
  }
}

function isInteger(value: unknown, min: number, max: number): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= min && value <= max;
}
