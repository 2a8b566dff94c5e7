/**
 * System control port B, port 0x61 (PC/AT technical reference): gate and output of PIT counter 2 and the refresh
 * toggle. Everything a loop polls here depends on time, so no access is latched.
 */
import type { Clock } from '../clock.ts';
import type { Device, DeviceContext, DeviceState } from '../device.ts';
import { SavedState } from '../saved-state.ts';

/** What port 0x61 needs of the PIT. */
export interface SpeakerCounter {
  /** Gate of counter 2. */
  gate2: boolean;
  /** Output of counter 2. */
  readonly out2: boolean;
}

const GATE_2 = 0x01;
const SPEAKER_DATA = 0x02;
/** Disables of the parity and channel checks; stored, nothing ever checks. */
const CHECK_DISABLES = 0x0c;
const REFRESH_TOGGLE = 0x10;
const OUT_2 = 0x20;
/** Memory refresh came every 15.085 us: 18 ticks of the PIT's clock; bit 4 changes with each. */
const REFRESH_NS = 15085;

/** Port 0x61. */
export class Port61 implements Device {
  readonly name = 'port61';
  readonly maxAccess = 1 as const;
  readonly #counter: SpeakerCounter;
  #clock: Clock | undefined;
  /** Bits 1-3 as written; bit 0 is the counter's gate. */
  #stored = 0;

  /** @param counter the PIT; its state is its own */
  constructor(counter: SpeakerCounter) {
    this.#counter = counter;
  }

  attach(context: DeviceContext): void {
    this.#clock = context.clock;
  }

  read(): number {
    const refresh = Math.floor((this.#clock?.now() ?? 0) / REFRESH_NS) % 2;
    return (
      this.#stored |
      (this.#counter.gate2 ? GATE_2 : 0) |
      (refresh ? REFRESH_TOGGLE : 0) |
      (this.#counter.out2 ? OUT_2 : 0)
    );
  }

  write(_offset: number, _size: number, value: number): void {
    this.#stored = value & (SPEAKER_DATA | CHECK_DISABLES);
    this.#counter.gate2 = (value & GATE_2) !== 0;
  }

  reset(): void {
    this.#stored = 0;
  }

  save(): DeviceState {
    return { stored: this.#stored };
  }

  /** @throws TSV_E_STATE */
  restore(state: DeviceState): void {
    this.#stored =
      new SavedState(this.name, state).int('stored', SPEAKER_DATA | CHECK_DISABLES) &
      (SPEAKER_DATA | CHECK_DISABLES);
  }
}
