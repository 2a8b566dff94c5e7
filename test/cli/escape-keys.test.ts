import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ESCAPE_BYTE, type EscapeAction, EscapeKeys } from '../../src/cli/escape-keys.ts';

/** The actions of some typing, with adjacent input joined: how it is cut into pieces does not matter. */
function typed(...pieces: (string | Uint8Array)[]): (string | { input: string })[] {
  const keys = new EscapeKeys();
  const actions: EscapeAction[] = pieces.flatMap((piece) => keys.feed(Buffer.from(piece as string)));
  const joined: (string | { input: string })[] = [];
  for (const action of actions) {
    const last = joined.at(-1);
    if (action.type === 'command') joined.push(action.command);
    else if (typeof last === 'object') last.input += Buffer.from(action.bytes).toString('latin1');
    else joined.push({ input: Buffer.from(action.bytes).toString('latin1') });
  }
  return joined;
}

describe('the escape keys', () => {
  it('turn Ctrl-A and a letter into a command', () => {
    expect(typed('\x01x')).toEqual(['quit']);
    expect(typed('\x01b')).toEqual(['break']);
    expect(typed('\x01p')).toEqual(['power']);
    expect(typed('\x01s')).toEqual(['stats']);
    expect(typed('\x01h')).toEqual(['help']);
    expect(typed('\x01?')).toEqual(['help']);
  });

  it('do not mind the shift key', () => {
    expect(typed('\x01X')).toEqual(['quit']);
  });

  it('send Ctrl-A for Ctrl-A a and Ctrl-A Ctrl-A', () => {
    expect(typed('\x01a\x01\x01')).toEqual([{ input: '\x01\x01' }]);
  });

  it('work when the two keys arrive apart', () => {
    expect(typed('\x01', 'x')).toEqual(['quit']);
  });

  it('keep the order of input and commands', () => {
    expect(typed('ab\x01bcd\x01s')).toEqual([{ input: 'ab' }, 'break', { input: 'cd' }, 'stats']);
  });

  it('drop an unknown key after Ctrl-A, and only that', () => {
    expect(typed('\x01zab')).toEqual([{ input: 'ab' }]);
    expect(typed('\x01_')).toEqual([]);
  });

  it('pass everything without Ctrl-A unchanged', () => {
    const bytes = fc.uint8Array().map((array) => array.filter((byte) => byte !== ESCAPE_BYTE));
    fc.assert(
      fc.property(fc.array(bytes), (pieces) => {
        const input = Buffer.concat(pieces).toString('latin1');
        expect(typed(...pieces)).toEqual(input === '' ? [] : [{ input }]);
      }),
    );
  });

  it('do the same however the bytes are cut into pieces', () => {
    // Ctrl-A and the command keys must be likely.
    const byte = fc.oneof(fc.constantFrom(...Buffer.from('\x01\x01\x01axbpshz')), fc.nat(255));
    fc.assert(
      fc.property(fc.array(byte), fc.array(fc.nat(7)), (bytes, cuts) => {
        const all = Uint8Array.from(bytes);
        const pieces: Uint8Array[] = [];
        let at = 0;
        for (const cut of cuts) {
          pieces.push(all.subarray(at, at + cut));
          at += cut;
        }
        pieces.push(all.subarray(at));
        expect(typed(...pieces)).toEqual(typed(all));
      }),
    );
  });

  it('get any input to the guest when every Ctrl-A is doubled', () => {
    fc.assert(
      fc.property(fc.uint8Array(), (bytes) => {
        const input = Buffer.from(bytes).toString('latin1');
        const doubled = Buffer.from(input.replaceAll('\x01', '\x01\x01'), 'latin1');
        expect(typed(doubled)).toEqual(input === '' ? [] : [{ input }]);
      }),
    );
  });
});
