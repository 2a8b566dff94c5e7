/** Reading the files a guest is started from, with errors that say which file and why. */
import type { FileHandle } from 'node:fs/promises';
import { open } from 'node:fs/promises';
import { TsvError } from '../errors.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { FileSource } from './boot-types.ts';

/** Node cannot hold more in one buffer read; no kernel comes near. */
const MAX_KERNEL_FILE_SIZE = 2 ** 31 - 1;
const CHUNK_SIZE = 4 << 20;

const REASONS: Readonly<Record<string, readonly [reason: string, hint: string]>> = {
  ENOENT: ['does not exist', 'Check the path.'],
  ENOTDIR: ['does not exist', 'A part of the path is not a directory; check it.'],
  EACCES: [
    'may not be read by this user',
    'Change its permissions, or copy it (kernels in /boot are often readable by root only).',
  ],
  EPERM: ['may not be read by this user', 'Change its permissions or copy it.'],
  ELOOP: ['is a loop of symbolic links', 'Repair the links.'],
};

/** An open file, or bytes, of known size. */
export class SourceFile {
  /** Size in bytes. */
  readonly size: number;
  /** How messages call it: `the kernel /boot/vmlinuz`. */
  readonly what: string;
  readonly #handle: FileHandle | undefined;
  readonly #bytes: Uint8Array | undefined;

  private constructor(what: string, size: number, handle?: FileHandle, bytes?: Uint8Array) {
    this.what = what;
    this.size = size;
    this.#handle = handle;
    this.#bytes = bytes;
  }

  /**
   * Opens a file. Close it with {@link close}.
   * @param role what it is to the guest: `kernel`, `initrd`
   * @throws TSV_E_FILE missing, unreadable, a directory or another special file, or empty
   */
  static async open(source: FileSource, role: string): Promise<SourceFile> {
    if (typeof source !== 'string') {
      if (source.length === 0) throw empty(`The ${role}`);
      return new SourceFile(`the ${role}`, source.length, undefined, source);
    }
    const what = `the ${role} ${source}`;
    let handle: FileHandle | undefined;
    try {
      handle = await open(source, 'r');
      const stat = await handle.stat();
      if (!stat.isFile()) {
        const kind = stat.isDirectory() ? 'a directory' : 'not a regular file';
        throw new TsvError('TSV_E_FILE', `The ${role} ${source} is ${kind}.`, {
          hint: `Give the ${role}'s file.`,
        });
      }
      if (stat.size === 0) throw empty(`The ${role} ${source}`);
      return new SourceFile(what, stat.size, handle);
    } catch (error) {
      await handle?.close();
      throw fileError(error, what);
    }
  }

  /** Everything. @throws TSV_E_FILE also when it is too large to be a kernel */
  async readAll(): Promise<Uint8Array> {
    if (this.#bytes !== undefined) return this.#bytes;
    if (this.size > MAX_KERNEL_FILE_SIZE) {
      throw new TsvError(
        'TSV_E_FILE',
        `${capitalise(this.what)} has ${this.size} bytes, too many for a kernel.`,
        {
          hint: 'Disk images are attached as disks, not booted as kernels.',
        },
      );
    }
    const bytes = Buffer.alloc(this.size);
    await this.#read((at, length) => bytes.subarray(at, at + length));
    return bytes;
  }

  /** Copies everything into guest RAM, which must be there. @throws TSV_E_FILE */
  async readInto(memory: GuestMemory, gpa: number): Promise<void> {
    if (this.#bytes !== undefined) {
      memory.write(gpa, this.#bytes);
      return;
    }
    const chunk = Buffer.alloc(Math.min(CHUNK_SIZE, this.size));
    await this.#read(
      (_, length) => chunk.subarray(0, length),
      (at, length) => memory.write(gpa + at, chunk.subarray(0, length)),
    );
  }

  async close(): Promise<void> {
    await this.#handle?.close();
  }

  async #read(
    target: (at: number, length: number) => Uint8Array,
    done: (at: number, length: number) => void = () => {},
  ): Promise<void> {
    for (let at = 0; at < this.size; ) {
      const wanted = Math.min(CHUNK_SIZE, this.size - at);
      let bytesRead: number;
      try {
        ({ bytesRead } = await this.#handle!.read(target(at, wanted), 0, wanted, at));
      } catch (error) {
        throw fileError(error, this.what);
      }
      if (bytesRead === 0) {
        throw new TsvError('TSV_E_FILE', `${capitalise(this.what)} became shorter while it was read.`, {
          hint: 'Wait until whatever writes it has finished.',
        });
      }
      done(at, bytesRead);
      at += bytesRead;
    }
  }
}

function empty(what: string): TsvError {
  return new TsvError('TSV_E_FILE', `${what} is empty.`, {
    hint: 'Its download or build has probably failed; make it again.',
  });
}

function fileError(error: unknown, what: string): TsvError {
  if (error instanceof TsvError) return error;
  const { code, message } = error as NodeJS.ErrnoException;
  const [reason, hint] = REASONS[code ?? ''] ?? [
    `cannot be read: ${message}`,
    'Check the file and its file system.',
  ];
  return new TsvError('TSV_E_FILE', `${capitalise(what)} ${reason}.`, { hint, cause: error });
}

function capitalise(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
