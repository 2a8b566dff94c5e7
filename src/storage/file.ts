/** An image's file on the host: whole reads and writes at offsets, with errors that say which file. */
import { constants, fstatSync, readvSync, type Stats, writevSync } from 'node:fs';
import { type FileHandle, open, readFile } from 'node:fs/promises';
import { TsvError } from '../errors.ts';
import { loadNative, nativeProblem } from '../kvm/native.ts';
import { slice, totalLength } from './buffers.ts';
import { hostFileError, truncatedError } from './errors.ts';
import { lockFile } from './lock.ts';
import { PromptTransfers } from './prompt-transfers.ts';

/** Options of {@link ImageFile.open}. */
export interface ImageFileOptions {
  readonly readOnly: boolean;
  /** Makes the file, which must not be there yet. */
  readonly create?: boolean;
  /** False leaves the file unlocked: the caller knows that nobody else has it. */
  readonly lock?: boolean;
}

/** Buffers that one system call takes (IOV_MAX). */
const MAX_BUFFERS = 1024;
/** Bytes that one call is given; Linux itself stops at 2 GiB less a page. */
const MAX_BYTES = 2 ** 30;
/** fallocate(2) modes. */
const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;

/** An open image file. */
export class ImageFile implements AsyncDisposable {
  readonly path: string;
  readonly readOnly: boolean;
  /** Device and inode: the same for two paths to one file. */
  readonly identity: string;
  readonly #handle: FileHandle;
  readonly #isRegular: boolean;
  readonly #prompt = new PromptTransfers();
  /** Bytes the file has, as far as this process knows. */
  #length: number;
  #syncFailure: TsvError | undefined;
  #closed: Promise<void> | undefined;

  private constructor(path: string, readOnly: boolean, handle: FileHandle, stats: Stats, length: number) {
    this.path = path;
    this.readOnly = readOnly;
    this.identity = `${stats.dev}:${stats.ino}`;
    this.#handle = handle;
    this.#isRegular = stats.isFile();
    this.#length = length;
  }

  /**
   * Opens a regular file or a block device and locks it: shared when read-only, else exclusive.
   * @throws TSV_E_FILE, TSV_E_DISK_LOCKED
   */
  static async open(path: string, options: ImageFileOptions): Promise<ImageFile> {
    const { readOnly, create = false, lock = true } = options;
    const handle = await openHandle(path, readOnly, create);
    try {
      const stats = await handle.stat();
      if (!stats.isFile() && !stats.isBlockDevice()) {
        throw new TsvError('TSV_E_FILE', `"${path}" is neither a file nor a block device.`, {
          hint: 'Give the path of a disk image.',
        });
      }
      if (lock) await lockFile(handle.fd, path, readOnly ? 'shared' : 'exclusive');
      // After locking: until then its owner may have changed it.
      const length = stats.isFile() ? (await handle.stat()).size : await blockDeviceLength(path, stats.rdev);
      return new ImageFile(path, readOnly, handle, stats, length);
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  /** Bytes. */
  get length(): number {
    return this.#length;
  }

  /** Fills the buffers. @throws TSV_E_DISK_IO, also when the file has become too short */
  async read(offset: number, into: readonly Uint8Array[]): Promise<void> {
    if (this.readAtOnce(offset, into)) return;
    await this.#transfer(offset, into, 'reading', async (views, position) => {
      const { bytesRead } = await this.#handle.readv(views, position);
      if (bytesRead === 0) throw truncatedError(this.path, position + 1);
      return bytesRead;
    });
  }

  /** Writes the buffers; the file grows when they go beyond its end. @throws TSV_E_DISK_IO, TSV_E_DISK_FULL */
  async write(offset: number, from: readonly Uint8Array[]): Promise<void> {
    if (this.writeAtOnce(offset, from)) return;
    await this.#transfer(offset, from, 'writing', async (views, position) => {
      const { bytesWritten } = await this.#handle.writev(views, position);
      this.#length = Math.max(this.#length, position + bytesWritten);
      return bytesWritten;
    });
  }

  /** Fills the buffers where that is quick. @returns false when {@link read} has to, or to say what is wrong */
  readAtOnce(offset: number, into: readonly Uint8Array[]): boolean {
    return this.#atOnce(into, () => readvSync(this.#handle.fd, into, offset));
  }

  /** Writes the buffers where that is quick. @returns false when {@link write} has to, or to say what is wrong */
  writeAtOnce(offset: number, from: readonly Uint8Array[]): boolean {
    return this.#atOnce(from, () => {
      const bytes = writevSync(this.#handle.fd, from, offset);
      this.#length = Math.max(this.#length, offset + bytes);
      return bytes;
    });
  }

  /** Reads a new buffer. */
  async readBytes(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = new Uint8Array(length);
    await this.read(offset, [bytes]);
    return bytes;
  }

  /**
   * Makes everything written durable (fdatasync). Once it has failed it fails for ever: the kernel may have thrown away
   * what it could not write, and would say nothing the next time.
   * @throws TSV_E_DISK_IO, TSV_E_DISK_FULL; also when something has cut the file off
   */
  async sync(): Promise<void> {
    if (this.readOnly) return;
    if (this.#syncFailure !== undefined) throw this.#syncFailure;
    // Others may write behind it meanwhile.
    const length = this.#length;
    try {
      await this.#handle.datasync();
      // What the kernel knows of an open file: not worth the way through the thread pool.
      if (this.#isRegular && fstatSync(this.#handle.fd).size < length)
        throw truncatedError(this.path, length);
    } catch (cause) {
      this.#syncFailure = hostFileError(this.path, 'flushing', cause);
      throw this.#syncFailure;
    }
  }

  /** Sets the length. */
  async truncate(length: number): Promise<void> {
    try {
      await this.#handle.truncate(length);
      this.#length = length;
    } catch (cause) {
      throw hostFileError(this.path, 'resizing', cause);
    }
  }

  /** Frees the range's space; it then reads as zeros. @returns false where the host cannot */
  punchHole(offset: number, length: number): boolean {
    if (nativeProblem() !== undefined || length === 0) return false;
    const mode = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE;
    return loadNative().fallocate(this.#handle.fd, mode, offset, length) === 0;
  }

  /** Bytes of the host's disk the file takes. */
  async allocatedBytes(): Promise<number> {
    return (await this.#handle.stat()).blocks * 512;
  }

  /** Closes the file, and with it ends the lock. Nothing is flushed. */
  close(): Promise<void> {
    this.#closed ??= this.#handle.close();
    return this.#closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #atOnce(buffers: readonly Uint8Array[], call: () => number): boolean {
    const total = totalLength(buffers);
    if (buffers.length > MAX_BUFFERS || !this.#prompt.accepts(total)) return false;
    try {
      return this.#prompt.run(call) === total;
    } catch {
      return false;
    }
  }

  async #transfer(
    offset: number,
    buffers: readonly Uint8Array[],
    doing: string,
    call: (views: Uint8Array[], position: number) => Promise<number>,
  ): Promise<void> {
    const total = totalLength(buffers);
    let done = 0;
    try {
      while (done < total) {
        const views = slice(buffers, done, Math.min(total - done, MAX_BYTES));
        done += await call(views.length > MAX_BUFFERS ? views.slice(0, MAX_BUFFERS) : views, offset + done);
      }
    } catch (cause) {
      throw hostFileError(this.path, doing, cause);
    }
  }
}

/** True when ranges can be freed in this process. */
export function canPunchHoles(): boolean {
  return nativeProblem() === undefined;
}

async function openHandle(path: string, readOnly: boolean, create: boolean): Promise<FileHandle> {
  // Without O_NONBLOCK, opening a FIFO would wait for somebody at its other end.
  const access = (readOnly ? constants.O_RDONLY : constants.O_RDWR) | constants.O_NONBLOCK;
  const flags = create ? access | constants.O_CREAT | constants.O_EXCL : access;
  try {
    return await open(path, flags, 0o644);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    throw new TsvError('TSV_E_FILE', `"${path}" cannot be ${create ? 'made' : 'opened'} (${code}).`, {
      hint: openHint(code, readOnly || create),
      cause,
    });
  }
}

function openHint(code: string | undefined, isUnwritten: boolean): string {
  if (code === 'EEXIST') return 'Remove it first, or choose another name: images are never overwritten.';
  if (code === 'EISDIR') return 'Give the path of a disk image, not of a folder.';
  if (!isUnwritten && (code === 'EACCES' || code === 'EPERM' || code === 'EROFS')) {
    return 'If it may only be read, open it read-only (readonly) or put an overlay over it (overlay).';
  }
  return 'Check the path and its permissions.';
}

/** Linux numbers block devices like this in st_rdev (makedev(3)); stat(2) itself does not say their size. */
async function blockDeviceLength(path: string, rdev: number): Promise<number> {
  const high = Math.floor(rdev / 2 ** 32);
  const low = rdev >>> 0;
  const major = ((low >>> 8) & 0xfff) | (high & 0xfffff000);
  const minor = (low & 0xff) | ((low >>> 12) & 0xfff00);
  try {
    return Number(await readFile(`/sys/dev/block/${major}:${minor}/size`, 'latin1')) * 512;
  } catch (cause) {
    throw new TsvError('TSV_E_FILE', `The size of the block device "${path}" cannot be found out.`, {
      hint: 'Mount /sys, or use an image file.',
      cause,
    });
  }
}
