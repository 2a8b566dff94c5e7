/**
 * The keys of the interactive console that are not for the guest: Ctrl-A and a letter, as in QEMU's `-nographic`.
 * A pure state machine: bytes typed go in, what to do comes out.
 */

/** Ctrl-A. */
export const ESCAPE_BYTE = 0x01;

/** What a key after Ctrl-A asks for. */
export type EscapeCommand = 'quit' | 'break' | 'power' | 'stats' | 'help';

/** Bytes for the guest, or a command for tsvisor. */
export type EscapeAction =
  | { readonly type: 'input'; readonly bytes: Uint8Array }
  | { readonly type: 'command'; readonly command: EscapeCommand };

const COMMANDS: Readonly<Record<string, EscapeCommand>> = {
  x: 'quit',
  b: 'break',
  p: 'power',
  s: 'stats',
  h: 'help',
  '?': 'help',
};

/** The keys, for `Ctrl-A h` and `--help`. */
export const ESCAPE_HELP = `Ctrl-A x  end the virtual machine and tsvisor
Ctrl-A a  send Ctrl-A to the guest (so does Ctrl-A Ctrl-A)
Ctrl-A b  send a break (Linux: the next key is a SysRq command)
Ctrl-A p  press the power button
Ctrl-A s  show statistics
Ctrl-A h  show these keys`;

/** Separates Ctrl-A commands from what is typed at the guest. Another key after Ctrl-A is dropped. */
export class EscapeKeys {
  #escaped = false;

  /**
   * Takes typed bytes, in pieces of any size.
   * @returns what to do, in order
   */
  feed(bytes: Uint8Array): EscapeAction[] {
    const actions: EscapeAction[] = [];
    let input: number[] = [];
    for (const byte of bytes) {
      if (!this.#escaped) {
        if (byte === ESCAPE_BYTE) this.#escaped = true;
        else input.push(byte);
        continue;
      }
      this.#escaped = false;
      const key = String.fromCharCode(byte).toLowerCase();
      if (byte === ESCAPE_BYTE || key === 'a') {
        input.push(ESCAPE_BYTE);
      } else if (Object.hasOwn(COMMANDS, key)) {
        if (input.length > 0) actions.push({ type: 'input', bytes: Uint8Array.from(input) });
        input = [];
        actions.push({ type: 'command', command: COMMANDS[key] });
      }
    }
    if (input.length > 0) actions.push({ type: 'input', bytes: Uint8Array.from(input) });
    return actions;
  }
}
