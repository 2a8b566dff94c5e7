/** The kernel command line: a NUL-terminated string in guest memory. */
import { TsvError } from '../errors.ts';
import { BOOT_LAYOUT } from './layout.ts';

/** COMMAND_LINE_SIZE of x86 Linux less the NUL: the limit of a vmlinux, which has no header to say so. */
export const LINUX_CMDLINE_SIZE = 2047;
/** What the place for the command line holds without the NUL. */
export const MAX_CMDLINE_SIZE = BOOT_LAYOUT.cmdline.size - 1;

/**
 * Encodes a command line (UTF-8) with its NUL.
 * @param limit longest command line the kernel takes, bytes without the NUL
 * @throws TSV_E_CMDLINE_TOO_LONG
 * @throws TSV_E_USAGE when it contains a NUL
 */
export function encodeCmdline(cmdline: string, limit: number): Uint8Array {
  if (cmdline.includes('\0')) {
    throw new TsvError('TSV_E_USAGE', 'The kernel command line contains a NUL character.', {
      hint: 'Remove it; the kernel would not see what follows.',
    });
  }
  const text = Buffer.from(cmdline, 'utf8');
  const longest = Math.min(limit, MAX_CMDLINE_SIZE);
  if (text.length > longest) {
    throw new TsvError(
      'TSV_E_CMDLINE_TOO_LONG',
      `The kernel command line has ${text.length} bytes; the kernel takes at most ${longest}.`,
      { hint: 'Shorten it; options of user space may go into the initramfs instead.' },
    );
  }
  return Buffer.concat([text, Uint8Array.of(0)]);
}
