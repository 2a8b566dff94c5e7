/** Keyboard scan codes: set 2 as an AT keyboard sends them, and the 8042's translation of it to set 1. */

/** Prefix of a key's release in set 2. */
export const BREAK_PREFIX = 0xf0;
/** Prefix of the keys the AT keyboard did not have. */
export const EXTENDED_PREFIX = 0xe0;

/** Set 2 make codes. */
export const KEY_LEFT_CTRL = [0x14] as const;
export const KEY_LEFT_ALT = [0x11] as const;
export const KEY_DELETE = [EXTENDED_PREFIX, 0x71] as const;

/** What a key sends when it is released (set 2): the make code with 0xF0 before its last byte. */
export function breakCode(make: readonly number[]): number[] {
  return [...make.slice(0, -1), BREAK_PREFIX, make[make.length - 1]];
}

/** The 8042's translation table for bytes below 0x80 (IBM PS/2 technical reference, keyboard controller). */
const SET2_TO_SET1 = Buffer.from(
  [
    'ff43413f3d3b3c58644442403e0f2959',
    '65382a701d10025a66712c1f1e11035b',
    '672e2d201205045c68392f211413065d',
    '693130232215075e6a7232241608095f',
    '6b332517180b0a606c34352627190c61',
    '6d7328741a0d626e3a361c1b752b6376',
    '55567778797a0e7b7c4f7d4b477e7f6f',
    '5253504c4d480145574e514a37494654',
  ].join(''),
  'hex',
);

/** The two codes above 0x7F that are translated: F7, and Alt+SysRq of the 84-key keyboard. */
const TRANSLATED_HIGH: Readonly<Record<number, number>> = { 131: 0x41, 132: 0x54 };

/** One byte through the 8042's translation, break prefix aside. */
export function translateScancode(byte: number): number {
  return SET2_TO_SET1[byte] ?? TRANSLATED_HIGH[byte] ?? byte;
}
