/**
 * 8042 keyboard controller (IBM PS/2 technical reference; Intel 8042 as PCs program it) with a keyboard and without
 * an auxiliary port.
 *
 * Every command is complete when the write that gave it returns, and the status register is latched: drivers that
 * poll it between bytes neither wait nor cost a hand-over.
 */
import type { Device, DeviceContext, DeviceState, Latch, RegisterMode } from '../device.ts';
import { SavedState } from '../saved-state.ts';
import { A20Gate } from './a20.ts';
import { AtKeyboard } from './at-keyboard.ts';
import {
  BREAK_PREFIX,
  breakCode,
  KEY_DELETE,
  KEY_LEFT_ALT,
  KEY_LEFT_CTRL,
  translateScancode,
} from './scancodes.ts';

/** Output buffer (read), data for the keyboard or a command (write): port 0x60. */
export const I8042_DATA = 0;
/** Status (read), command (write): port 0x64. */
export const I8042_COMMAND = 4;

const STATUS_OBF = 0x01;
/** Self test passed. */
const STATUS_SYS = 0x04;
/** The last write went to the command port. */
const STATUS_CMD = 0x08;
/** Keyboard not locked. */
const STATUS_KEYLOCK = 0x10;
/** The auxiliary device did not take a byte in time. */
const STATUS_TIMEOUT = 0x40;

const CTR_KBD_INT = 0x01;
const CTR_SYS = 0x04;
const CTR_KBD_DISABLE = 0x10;
const CTR_TRANSLATE = 0x40;

const OUTPUT_RESET = 0x01;
const OUTPUT_A20 = 0x02;
/** The keyboard's interrupt, as the output port shows it. */
const OUTPUT_KBD_INT = 0x10;
/** Clock and data lines to the keyboard, idle. */
const OUTPUT_LINES = 0xc0;

const CMD_READ_RAM = 0x20;
const CMD_WRITE_RAM = 0x60;
const CMD_TEST_PASSWORD = 0xa4;
const CMD_AUX_TEST = 0xa9;
const CMD_SELF_TEST = 0xaa;
const CMD_KBD_TEST = 0xab;
const CMD_KBD_DISABLE = 0xad;
const CMD_KBD_ENABLE = 0xae;
const CMD_READ_INPUT_PORT = 0xc0;
const CMD_READ_OUTPUT_PORT = 0xd0;
const CMD_WRITE_OUTPUT_PORT = 0xd1;
const CMD_WRITE_KBD_BUFFER = 0xd2;
const CMD_AUX_LOOP = 0xd3;
const CMD_AUX_SEND = 0xd4;
const CMD_A20_OFF = 0xdd;
const CMD_A20_ON = 0xdf;
const CMD_READ_TEST_INPUTS = 0xe0;
const CMD_PULSE = 0xf0;

const RAM_SIZE = 32;
const RAM_MASK = RAM_SIZE - 1;
/** Replies the guest has not read; further ones are dropped. */
const REPLIES_MAX = 16;
/** Marks a reply that comes with STATUS_TIMEOUT. */
const TIMED_OUT = 0x100;

const REGISTERS: readonly RegisterMode[] = [{ offset: I8042_COMMAND, size: 1, read: 'latched' }];

/** Power-on command byte: translation on, keyboard interrupt on, self test passed, as a BIOS leaves it. */
const POWER_ON_CTR = CTR_TRANSLATE | CTR_SYS | CTR_KBD_INT;

/** The keyboard controller; IRQ 0 of the context is the keyboard's interrupt. */
export class I8042 implements Device {
  readonly name = 'i8042';
  readonly maxAccess = 1 as const;
  readonly registers = REGISTERS;
  readonly #a20: A20Gate;
  readonly #keyboard = new AtKeyboard();
  #context: DeviceContext | undefined;
  #status: Latch | undefined;
  #irqLevel = false;

  /** Controller RAM; byte 0 is the command byte. */
  #ram = initialRam();
  #lastWasCommand = false;
  /** The command whose data byte is awaited, 0 for none. */
  #awaiting = 0;
  /** The controller's own replies, first in the output buffer. */
  #replies: number[] = [];
  /** The byte from the keyboard in the output buffer, already translated; -1 when there is none. */
  #output = -1;
  /** A break prefix was swallowed by the translation. */
  #breakPending = false;

  /** @param a20 the gate shared with port 0x92 */
  constructor(a20: A20Gate = new A20Gate()) {
    this.#a20 = a20;
  }

  attach(context: DeviceContext): void {
    this.#context = context;
    this.#status = context.latch(I8042_COMMAND);
    this.#update(true);
  }

  /** LED bits the guest set: 0 scroll lock, 1 num lock, 2 caps lock. */
  get leds(): number {
    return this.#keyboard.leds;
  }

  /** Keys pressed and released, as the bytes of scan code set 2 that the keyboard sends. */
  sendScancodes(bytes: readonly number[]): void {
    this.#keyboard.press(bytes);
    this.#update();
  }

  /** Ctrl+Alt+Del, pressed and released: asks Linux for an orderly reboot. */
  pressCtrlAltDel(): void {
    const keys = [KEY_LEFT_CTRL, KEY_LEFT_ALT, KEY_DELETE];
    this.sendScancodes([...keys.flat(), ...keys.reverse().flatMap(breakCode)]);
  }

  read(offset: number): number {
    if (offset === I8042_COMMAND) return this.#statusByte;
    if (offset !== I8042_DATA) return 0xff;
    const value = this.#takeOutput();
    // The line falls with every byte read, so that each byte is an edge of its own.
    this.#setIrq(false);
    this.#update();
    return value;
  }

  write(offset: number, _size: number, value: number): void {
    const byte = value & 0xff;
    if (offset === I8042_COMMAND) {
      this.#lastWasCommand = true;
      this.#awaiting = 0;
      this.#command(byte);
    } else if (offset === I8042_DATA) {
      this.#lastWasCommand = false;
      this.#data(byte);
    }
    this.#update();
  }

  /** What the data port holds; read when empty it shows the last byte again on hardware, here 0. */
  #takeOutput(): number {
    if (this.#replies.length > 0) return this.#replies.shift()! & 0xff;
    const value = Math.max(this.#output, 0);
    this.#output = -1;
    return value;
  }

  #command(command: number): void {
    if (command >= CMD_PULSE) {
      // Pulses the output port lines whose bits are 0; only line 0, the processor's reset, matters.
      if ((command & OUTPUT_RESET) === 0) this.#resetMachine();
      return;
    }
    if (command >= CMD_READ_RAM && command < CMD_READ_RAM + RAM_SIZE) {
      this.#reply(this.#ram[command & RAM_MASK]);
      return;
    }
    if (command >= CMD_WRITE_RAM && command < CMD_WRITE_RAM + RAM_SIZE) {
      this.#awaiting = command;
      return;
    }
    switch (command) {
      case CMD_TEST_PASSWORD:
        this.#reply(0xf1); // not installed
        return;
      case CMD_AUX_TEST:
        this.#reply(0x01); // clock line stuck low: no device
        return;
      case CMD_SELF_TEST:
        this.#ram[0] |= CTR_SYS;
        this.#replies = [];
        this.#output = -1;
        this.#reply(0x55);
        return;
      case CMD_KBD_TEST:
        this.#reply(0x00);
        return;
      case CMD_KBD_DISABLE:
        this.#ram[0] |= CTR_KBD_DISABLE;
        return;
      case CMD_KBD_ENABLE:
        this.#ram[0] &= ~CTR_KBD_DISABLE;
        return;
      case CMD_READ_INPUT_PORT:
        this.#reply(0x80); // keyboard not locked
        return;
      case CMD_READ_OUTPUT_PORT:
        this.#reply(this.#outputPort);
        return;
      case CMD_WRITE_OUTPUT_PORT:
      case CMD_WRITE_KBD_BUFFER:
      case CMD_AUX_LOOP:
      case CMD_AUX_SEND:
        this.#awaiting = command;
        return;
      case CMD_A20_OFF:
      case CMD_A20_ON:
        this.#a20.enabled = command === CMD_A20_ON;
        return;
      case CMD_READ_TEST_INPUTS:
        this.#reply(0x00);
        return;
      // 0xA7 and 0xA8 switch an auxiliary port off and on; without one the command byte does not change.
    }
  }

  #data(byte: number): void {
    const command = this.#awaiting;
    this.#awaiting = 0;
    switch (command) {
      case 0:
        // A byte for the keyboard opens the line to it.
        this.#ram[0] &= ~CTR_KBD_DISABLE;
        this.#keyboard.command(byte);
        return;
      case CMD_WRITE_OUTPUT_PORT:
        this.#a20.enabled = (byte & OUTPUT_A20) !== 0;
        if ((byte & OUTPUT_RESET) === 0) this.#resetMachine();
        return;
      case CMD_WRITE_KBD_BUFFER:
        this.#reply(byte);
        return;
      case CMD_AUX_LOOP:
        // Comes back without the auxiliary flag: how a driver sees that there is no such port.
        this.#reply(byte);
        return;
      case CMD_AUX_SEND:
        this.#reply(0xfe | TIMED_OUT);
        return;
      default:
        this.#ram[command & RAM_MASK] = byte;
    }
  }

  #reply(value: number): void {
    if (this.#replies.length < REPLIES_MAX) this.#replies.push(value);
  }

  #resetMachine(): void {
    this.#context?.stop({ kind: 'reset', by: 'keyboard controller' });
  }

  get #full(): boolean {
    return this.#replies.length > 0 || this.#output >= 0;
  }

  get #statusByte(): number {
    return (
      STATUS_KEYLOCK |
      (this.#full ? STATUS_OBF : 0) |
      (this.#ram[0] & CTR_SYS ? STATUS_SYS : 0) |
      (this.#lastWasCommand ? STATUS_CMD : 0) |
      ((this.#replies[0] ?? 0) & TIMED_OUT ? STATUS_TIMEOUT : 0)
    );
  }

  get #outputPort(): number {
    return (
      OUTPUT_LINES |
      OUTPUT_RESET |
      (this.#a20.enabled ? OUTPUT_A20 : 0) |
      (this.#irqLevel ? OUTPUT_KBD_INT : 0)
    );
  }

  /** Takes the keyboard's next byte into an empty output buffer, through the translation if that is on. */
  #loadFromKeyboard(): void {
    while (!this.#full && (this.#ram[0] & CTR_KBD_DISABLE) === 0 && this.#keyboard.ready) {
      const byte = this.#keyboard.take();
      if ((this.#ram[0] & CTR_TRANSLATE) === 0) {
        this.#breakPending = false;
        this.#output = byte;
      } else if (byte === BREAK_PREFIX) {
        this.#breakPending = true;
      } else {
        const translated = translateScancode(byte);
        this.#output = this.#breakPending ? translated | 0x80 : translated;
        this.#breakPending = false;
      }
    }
  }

  #update(force = false): void {
    this.#loadFromKeyboard();
    this.#setIrq(this.#full && (this.#ram[0] & CTR_KBD_INT) !== 0, force);
    this.#status?.store(this.#statusByte);
  }

  #setIrq(level: boolean, force = false): void {
    if (this.#context === undefined || (level === this.#irqLevel && !force)) return;
    this.#irqLevel = level;
    if (level) this.#context.irq().raise();
    else this.#context.irq().lower();
  }

  reset(): void {
    this.#ram = initialRam();
    this.#lastWasCommand = false;
    this.#awaiting = 0;
    this.#replies = [];
    this.#output = -1;
    this.#breakPending = false;
    this.#a20.enabled = true;
    this.#keyboard.reset();
    this.#update(true);
  }

  save(): DeviceState {
    return {
      ram: [...this.#ram],
      lastWasCommand: this.#lastWasCommand,
      awaiting: this.#awaiting,
      replies: [...this.#replies],
      output: this.#output,
      breakPending: this.#breakPending,
      a20: this.#a20.enabled,
      keyboard: this.#keyboard.save(),
    };
  }

  /** @throws TSV_E_STATE */
  restore(state: DeviceState): void {
    const saved = new SavedState(this.name, state);
    const ram = saved.ints('ram', 0xff, RAM_SIZE, true);
    const lastWasCommand = saved.bool('lastWasCommand');
    const awaiting = saved.u8('awaiting');
    const replies = saved.ints('replies', TIMED_OUT | 0xff, REPLIES_MAX);
    const output = saved.int('output', 0xff, -1);
    const breakPending = saved.bool('breakPending');
    const a20 = saved.bool('a20');
    this.#keyboard.restore(saved.object('keyboard'));
    this.#ram = ram;
    this.#lastWasCommand = lastWasCommand;
    this.#awaiting = awaiting;
    this.#replies = replies;
    this.#output = output;
    this.#breakPending = breakPending;
    this.#a20.enabled = a20;
    this.#update(true);
  }
}

function initialRam(): number[] {
  const ram = new Array<number>(RAM_SIZE).fill(0);
  ram[0] = POWER_ON_CTR;
  return ram;
}
