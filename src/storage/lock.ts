/**
 * One owner per image: a lock on the open file (flock(2)), so that it ends with the process that holds it, however that
 * ends. It keeps out other tsvisors, in this process too. Node has no call for it; flock(1) locks a file description
 * that it inherits, which is the very one that this process has open.
 */
import { spawn } from 'node:child_process';
import { TsvError } from '../errors.ts';

/** `exclusive` for who writes, `shared` for who reads. */
export type LockMode = 'exclusive' | 'shared';

/** Exit status of flock(1) for "somebody else has it", chosen so that no other failure looks like it. */
const CONFLICT = 75;

/**
 * Locks an open file, without waiting.
 * @throws TSV_E_DISK_LOCKED when it is locked already, or cannot be
 */
export async function lockFile(fd: number, path: string, mode: LockMode): Promise<void> {
  const args = [`--${mode}`, '--nonblock', '--conflict-exit-code', String(CONFLICT), '3'];
  const { status, stderr } = await runFlock(args, fd, path);
  if (status === 0) return;
  if (status === CONFLICT) {
    throw new TsvError('TSV_E_DISK_LOCKED', `"${path}" is in use by another machine or tool.`, {
      hint:
        mode === 'exclusive'
          ? 'Wait until that has ended; machines can share an image when all of them run from overlays.'
          : 'Wait until that has ended: an image cannot be read while somebody writes to it.',
    });
  }
  throw new TsvError('TSV_E_DISK_LOCKED', `"${path}" cannot be locked (${stderr.trim() || status}).`, {
    hint: 'Move it to a file system that has locks, or turn locking off and make sure that nobody else uses it.',
  });
}

function runFlock(args: string[], fd: number, path: string): Promise<{ status: number; stderr: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn('flock', args, { stdio: ['ignore', 'ignore', 'pipe', fd] });
    let stderr = '';
    child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      if (stderr.length < 4096) stderr += text;
    });
    child.once('error', (cause) => {
      reject(
        new TsvError('TSV_E_DISK_LOCKED', `"${path}" cannot be locked: this host has no flock.`, {
          hint: 'Install flock (util-linux), or turn locking off and make sure that nobody else uses the image.',
          cause,
        }),
      );
    });
    child.once('close', (code) => resolve({ status: code ?? 1, stderr }));
  });
}
