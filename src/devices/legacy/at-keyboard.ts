/**
 * A minimal AT keyboard behind the keyboard controller (IBM PS/2 technical reference, keyboard commands): what an
 * operating system asks when it probes, and keys pressed by the host, in scan code set 2.
 */
import type { DeviceState } from '../device.ts';
import type { SavedState } from '../saved-state.ts';

const ACK = 0xfa;
const RESEND = 0xfe;
const SELF_TEST_PASSED = 0xaa;
const ECHO = 0xee;
/** Stands for keys lost when the buffer overflowed (set 2). */
const OVERRUN = 0x00;
/** An MF2 keyboard. */
const IDENTITY = [0xab, 0x83] as const;

const SET_LEDS = 0xed;
const ECHO_REQUEST = 0xee;
const SCANCODE_SET = 0xf0;
const IDENTIFY = 0xf2;
const SET_TYPEMATIC = 0xf3;
const ENABLE = 0xf4;
const DISABLE = 0xf5;
const SET_DEFAULTS = 0xf6;
const RESEND_LAST = 0xfe;
const RESET = 0xff;

/** Commands a parameter byte follows. */
const WITH_PARAMETER: readonly number[] = [SET_LEDS, SCANCODE_SET, SET_TYPEMATIC];

/** Key bytes the keyboard holds; replies do not count. */
const BUFFER_SIZE = 16;
/** A host that resends commands without reading cannot pile up more than this. */
const REPLIES_MAX = 32;

/** The keyboard's side of the serial line to the controller. */
export class AtKeyboard {
  #replies: number[] = [];
  #keys: number[] = [];
  #lastSent = 0;
  /** The command whose parameter is awaited, 0 for none. */
  #awaiting = 0;
  #scanning = true;
  #set = 2;
  #leds = 0;

  /** LED bits the guest set: 0 scroll lock, 1 num lock, 2 caps lock. */
  get leds(): number {
    return this.#leds;
  }

  /** True when a byte waits for the controller. */
  get ready(): boolean {
    return this.#replies.length > 0 || this.#keys.length > 0;
  }

  /** The next byte for the controller; replies go before keys. */
  take(): number {
    this.#lastSent = this.#replies.shift() ?? this.#keys.shift() ?? this.#lastSent;
    return this.#lastSent;
  }

  /** Bytes of key presses, set 2; what does not fit becomes one overrun byte. Dropped while scanning is off. */
  press(bytes: readonly number[]): void {
    if (!this.#scanning) return;
    for (const byte of bytes) {
      if (this.#keys.length < BUFFER_SIZE) this.#keys.push(byte & 0xff);
      else this.#keys[BUFFER_SIZE - 1] = OVERRUN;
    }
  }

  /** A byte from the controller: a command or its parameter. */
  command(byte: number): void {
    const awaiting = this.#awaiting;
    this.#awaiting = 0;
    // A byte above 0xEC is a command even where a parameter is due.
    if (awaiting !== 0 && byte < SET_LEDS) this.#parameter(awaiting, byte);
    else this.#start(byte);
  }

  #start(byte: number): void {
    switch (byte) {
      case ECHO_REQUEST:
        this.#reply(ECHO);
        return;
      case IDENTIFY:
        this.#reply(ACK, ...IDENTITY);
        return;
      case ENABLE:
        this.#keys = [];
        this.#scanning = true;
        this.#reply(ACK);
        return;
      case DISABLE:
      case SET_DEFAULTS:
        this.#defaults();
        this.#scanning = byte === SET_DEFAULTS;
        this.#reply(ACK);
        return;
      case RESEND_LAST:
        this.#reply(this.#lastSent);
        return;
      case RESET:
        this.#defaults();
        this.#replies = [];
        this.#scanning = true;
        this.#reply(ACK, SELF_TEST_PASSED);
        return;
      default:
        // 0xF7-0xFD choose how keys repeat in set 3; they are acknowledged and have no effect in set 2.
        if (WITH_PARAMETER.includes(byte)) this.#awaiting = byte;
        this.#reply(byte >= SET_LEDS && byte !== 0xef && byte !== 0xf1 ? ACK : RESEND);
    }
  }

  #parameter(command: number, value: number): void {
    this.#reply(ACK);
    if (command === SET_LEDS) this.#leds = value & 7;
    if (command !== SCANCODE_SET) return;
    if (value === 0) this.#reply(this.#set);
    else if (value <= 3) this.#set = value;
  }

  #defaults(): void {
    this.#keys = [];
    this.#awaiting = 0;
    this.#set = 2;
    this.#leds = 0;
  }

  #reply(...bytes: number[]): void {
    if (this.#replies.length + bytes.length <= REPLIES_MAX) this.#replies.push(...bytes);
  }

  /** Power-on state. */
  reset(): void {
    this.#defaults();
    this.#replies = [];
    this.#lastSent = 0;
    this.#scanning = true;
  }

  save(): DeviceState {
    return {
      replies: [...this.#replies],
      keys: [...this.#keys],
      lastSent: this.#lastSent,
      awaiting: this.#awaiting,
      scanning: this.#scanning,
      set: this.#set,
      leds: this.#leds,
    };
  }

  /** @throws TSV_E_STATE */
  restore(saved: SavedState): void {
    const replies = saved.ints('replies', 0xff, REPLIES_MAX);
    const keys = saved.ints('keys', 0xff, BUFFER_SIZE);
    const lastSent = saved.u8('lastSent');
    const awaiting = saved.u8('awaiting');
    const scanning = saved.bool('scanning');
    const set = saved.int('set', 3, 1);
    const leds = saved.int('leds', 7);
    this.#replies = replies;
    this.#keys = keys;
    this.#lastSent = lastSent;
    this.#awaiting = WITH_PARAMETER.includes(awaiting) ? awaiting : 0;
    this.#scanning = scanning;
    this.#set = set;
    this.#leds = leds;
  }
}
