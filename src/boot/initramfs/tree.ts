/** The file tree of an initramfs: entries by path, with the directories they need. */
import { TsvError } from '../../errors.ts';
import type { CpioEntry } from './cpio.ts';

/** Collects entries. Paths may be written absolute; parents are made as needed. */
export class FileTree {
  readonly #entries = new Map<string, CpioEntry>();
  /** Directories nobody asked for by name; a later request may still give them a mode. */
  readonly #implied = new Set<string>();

  /**
   * Adds an entry.
   * @throws TSV_E_INITRAMFS when the path is taken by something else, or leads through something that is no directory
   */
  add(entry: CpioEntry): void {
    const path = normalise(entry.path);
    if (path === '') {
      if (entry.type === 'directory') return; // the root is always there
      throw invalid('The root of the initramfs is a directory.', 'Give the file a path such as /init.');
    }
    const parent = path.slice(0, Math.max(0, path.lastIndexOf('/')));
    if (parent !== '') this.#parent(parent);
    const there = this.#entries.get(path);
    if (there !== undefined && !(there.type === 'directory' && entry.type === 'directory')) {
      throw invalid(`"/${path}" is in the initramfs twice.`, 'Give every file a path of its own.');
    }
    if (there === undefined || this.#implied.delete(path)) this.#entries.set(path, { ...entry, path });
  }

  has(path: string): boolean {
    return this.#entries.has(normalise(path));
  }

  /** All entries, sorted by path component, so that directories come before what is in them. */
  entries(): CpioEntry[] {
    const key = (entry: CpioEntry) => entry.path.replaceAll('/', '\0');
    return [...this.#entries.values()].sort((a, b) => (key(a) < key(b) ? -1 : 1));
  }

  #parent(path: string): void {
    const there = this.#entries.get(path);
    if (there?.type === 'directory') return;
    if (there !== undefined) {
      throw invalid(`"/${path}" is no directory in the initramfs.`, 'Put the file elsewhere.');
    }
    const above = path.slice(0, Math.max(0, path.lastIndexOf('/')));
    if (above !== '') this.#parent(above);
    this.#entries.set(path, { type: 'directory', path, mode: 0o755 });
    this.#implied.add(path);
  }
}

/** Without leading, doubled and trailing slashes. */
function normalise(path: string): string {
  return path.replace(/^\/+|\/+$/g, '').replace(/\/{2,}/g, '/');
}

function invalid(message: string, hint: string): TsvError {
  return new TsvError('TSV_E_INITRAMFS', message, { hint });
}
