/** A console on a pseudo-terminal, for screen, minicom and the like. */
import { closeSync, constants as O, openSync } from 'node:fs';
import { ReadStream } from 'node:tty';
import { TsvError } from '../../errors.ts';
import { errnoName, loadNative, type Native } from '../../kvm/native.ts';
import { holdBack } from './hold-back.ts';
import type { Target, TargetEvents } from './target.ts';

// <asm-generic/ioctls.h>
const TIOCSPTLCK = 0x40045431;
const TIOCGPTN = 0x80045430;
const TCGETS2 = 0x802c542a;
const TCSETS2 = 0x402c542b;
/** sizeof(struct termios2), and the offsets of its flag words (<asm-generic/termbits.h>). */
const TERMIOS2_SIZE = 44;
const C_IFLAG = 0;
const C_OFLAG = 4;
const C_CFLAG = 8;
const C_LFLAG = 12;
// The flags cfmakeraw(3) clears and sets.
const IFLAG_COOKED = 0o1 | 0o2 | 0o10 | 0o40 | 0o100 | 0o200 | 0o400 | 0o2000;
const OPOST = 0o1;
const CSIZE_PARENB = 0o60 | 0o400;
const CS8 = 0o60;
const LFLAG_COOKED = 0o10 | 0o100 | 0o2 | 0o1 | 0o100000;

/** Output that nobody reads is dropped from here on, bytes (besides the 64 KiB or less the host kernel keeps). */
const BACKLOG = 64 * 1024;

/**
 * Makes a pseudo-terminal and connects the console to its master.
 * @param label what the console is, such as "serial console"
 * @throws TSV_E_ADDON_MISSING, TSV_E_HOST_IO
 */
export function openPty(label: string, events: TargetEvents): Target {
  const native = loadNative();
  const masterFd = openTty('/dev/ptmx');
  let slaveFd: number;
  let path: string;
  try {
    path = unlock(native, masterFd);
    // Held open: otherwise the master would report an error whenever no program has the pty open.
    slaveFd = openTty(path);
    makeRaw(native, slaveFd);
  } catch (error) {
    closeSync(masterFd);
    throw error;
  }
  const master = new ReadStream(masterFd);
  holdBack(master, events);
  master.on('error', (error: NodeJS.ErrnoException) => events.onError(error));
  return {
    notice: `${label} on ${path} (screen ${path})`,
    busy: false,
    write(bytes) {
      // There is no telling a slow reader from none at all, and the guest must not wait for ever for the latter.
      if (master.writableLength < BACKLOG) master.write(bytes);
    },
    flush: async () => {},
    hurry() {},
    close() {
      master.destroy();
      closeSync(slaveFd);
    },
  };
}

function unlock(native: Native, fd: number): string {
  const word = new Uint8Array(4);
  check(native.ioctl(fd, TIOCSPTLCK, word), 'TIOCSPTLCK');
  check(native.ioctl(fd, TIOCGPTN, word), 'TIOCGPTN');
  return `/dev/pts/${new DataView(word.buffer).getUint32(0, true)}`;
}

/** cfmakeraw(3): no echo (it would type the guest's output at the guest), no line editing, no translation. */
function makeRaw(native: Native, fd: number): void {
  const termios = new Uint8Array(TERMIOS2_SIZE);
  check(native.ioctl(fd, TCGETS2, termios), 'TCGETS2');
  const view = new DataView(termios.buffer);
  const change = (at: number, clear: number, set = 0) =>
    view.setUint32(at, (view.getUint32(at, true) & ~clear) | set, true);
  change(C_IFLAG, IFLAG_COOKED);
  change(C_OFLAG, OPOST);
  change(C_CFLAG, CSIZE_PARENB, CS8);
  change(C_LFLAG, LFLAG_COOKED);
  check(native.ioctl(fd, TCSETS2, termios), 'TCSETS2');
}

function openTty(path: string): number {
  try {
    return openSync(path, O.O_RDWR | O.O_NOCTTY);
  } catch (error) {
    throw failed(`opening ${path}`, (error as NodeJS.ErrnoException).code ?? '');
  }
}

function check(result: number, request: string): void {
  if (result < 0) throw failed(request, errnoName(result));
}

function failed(what: string, errno: string): TsvError {
  return new TsvError('TSV_E_HOST_IO', `No pseudo-terminal could be made: ${what} failed with ${errno}.`, {
    hint: 'Check that /dev/pts is mounted and its limit (/proc/sys/kernel/pty/max) is not reached, or use socket:PATH.',
  });
}
