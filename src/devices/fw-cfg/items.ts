/** What is in a fw_cfg device: items by key, files by name, and the encodings of those with a fixed format. */
import { TsvError } from '../../errors.ts';
import * as key from './keys.ts';

/** Bytes of an item; `load` is called when the guest selects it and must give `size` bytes. */
export type FwCfgContent = Uint8Array | { readonly size: number; load(): Uint8Array };

/** A memory range of `etc/e820`. */
export interface FwCfgE820Entry {
  /** First guest-physical address. */
  readonly gpa: number;
  /** Length in bytes. */
  readonly size: number;
  /** 1 RAM, 2 reserved, 3 ACPI data, 4 ACPI NVS. */
  readonly type: number;
}

/** Names of files with a defined meaning. */
export const E820_FILE = 'etc/e820';
export const BOOT_ORDER_FILE = 'bootorder';

const E820_ENTRY_SIZE = 20;
const DIRECTORY_ENTRY_SIZE = 64;
const MAX_ITEM_SIZE = 0xffffffff;
/** Files that fit between FW_CFG_FILE_FIRST and FW_CFG_WRITE_CHANNEL. */
const MAX_FILES = key.FW_CFG_WRITE_CHANNEL - key.FW_CFG_FILE_FIRST;

/** Content of `etc/e820`: base, length and type of each range, little-endian. */
export function e820File(entries: readonly FwCfgE820Entry[]): Uint8Array {
  const bytes = new Uint8Array(entries.length * E820_ENTRY_SIZE);
  const view = new DataView(bytes.buffer);
  entries.forEach(({ gpa, size, type }, index) => {
    const at = index * E820_ENTRY_SIZE;
    view.setBigUint64(at, BigInt(gpa), true);
    view.setBigUint64(at + 8, BigInt(size), true);
    view.setUint32(at + 16, type, true);
  });
  return bytes;
}

/** Content of `bootorder`: OpenFirmware device paths, one a line, NUL at the end. */
export function bootOrderFile(paths: readonly string[]): Uint8Array {
  return new TextEncoder().encode(`${paths.join('\n')}\0`);
}

/** A little-endian number as the content of an item. */
export function numberItem(value: number | bigint, bytes: 2 | 4 | 8): Uint8Array {
  const content = new Uint8Array(8);
  new DataView(content.buffer).setBigUint64(0, BigInt(value), true);
  return content.slice(0, bytes);
}

/** The items of one device. */
export class FwCfgItems {
  readonly #items = new Map<number, FwCfgContent>();
  readonly #files = new Map<string, number>();

  constructor() {
    this.#items.set(key.FW_CFG_SIGNATURE, new TextEncoder().encode('QEMU'));
    this.#items.set(key.FW_CFG_ID, numberItem(key.FW_CFG_VERSION | key.FW_CFG_VERSION_DMA, 4));
  }

  /**
   * Adds an item.
   * @param at a key below FW_CFG_FILE_FIRST, with FW_CFG_ARCH_LOCAL or without
   * @throws TSV_E_CONFIG when the key is taken or reserved, or the content larger than 4 GiB
   */
  add(at: number, content: FwCfgContent): void {
    const number = at & ~key.FW_CFG_ARCH_LOCAL;
    if (
      !Number.isInteger(at) ||
      number < 0 ||
      number >= key.FW_CFG_FILE_FIRST ||
      at === key.FW_CFG_FILE_DIR
    ) {
      throw bad(`The fw_cfg key ${at} is not one an item can have.`);
    }
    if (this.#items.has(at)) throw bad(`There is already a fw_cfg item with the key ${at}.`);
    this.#put(at, content);
  }

  /**
   * Adds a file.
   * @param name up to 55 characters of ASCII, for example `etc/e820` or `opt/org.example/config`
   * @returns its key
   * @throws TSV_E_CONFIG when the name is taken or not valid, or the content larger than 4 GiB
   */
  addFile(name: string, content: FwCfgContent): number {
    if (!/^[\x21-\x7e]+$/.test(name) || name.length >= key.FW_CFG_MAX_FILE_PATH) {
      throw bad(`The fw_cfg file name '${name}' is not 1 to 55 printable ASCII characters.`);
    }
    if (this.#files.has(name)) throw bad(`There is already a fw_cfg file '${name}'.`);
    if (this.#files.size >= MAX_FILES) throw bad('There are too many fw_cfg files.');
    const at = key.FW_CFG_FILE_FIRST + this.#files.size;
    this.#put(at, content);
    this.#files.set(name, at);
    return at;
  }

  /** Bytes of an item, 0 when there is none with that key. */
  size(at: number): number {
    if (at === key.FW_CFG_FILE_DIR) return 4 + this.#files.size * DIRECTORY_ENTRY_SIZE;
    return contentSize(this.#items.get(at));
  }

  /** The bytes of an item; none when there is no item with that key. */
  load(at: number): Uint8Array {
    if (at === key.FW_CFG_FILE_DIR) return this.#directory();
    const content = this.#items.get(at) ?? new Uint8Array(0);
    if (content instanceof Uint8Array) return content;
    const bytes = content.load();
    if (bytes.length === content.size) return bytes;
    throw new TsvError(
      'TSV_E_DEVICE',
      `A fw_cfg item gave ${bytes.length} bytes instead of ${content.size}.`,
      {
        hint: 'The file behind it has changed since the machine was made; start it again.',
      },
    );
  }

  /** Keys and sizes in turn, by ascending key: what the same configuration has in common. */
  fingerprint(): number[] {
    const keys = [...this.#items.keys()].sort((a, b) => a - b);
    return keys.flatMap((at) => [at, this.size(at)]);
  }

  /** struct FWCfgFiles: a count, then size, key and name of each file, big-endian. */
  #directory(): Uint8Array {
    const bytes = new Uint8Array(this.size(key.FW_CFG_FILE_DIR));
    const view = new DataView(bytes.buffer);
    view.setUint32(0, this.#files.size);
    let at = 4;
    for (const [name, fileKey] of this.#files) {
      view.setUint32(at, this.size(fileKey));
      view.setUint16(at + 4, fileKey);
      new TextEncoder().encodeInto(name, bytes.subarray(at + 8, at + DIRECTORY_ENTRY_SIZE));
      at += DIRECTORY_ENTRY_SIZE;
    }
    return bytes;
  }

  #put(at: number, content: FwCfgContent): void {
    const size = contentSize(content);
    if (!Number.isInteger(size) || size < 0 || size > MAX_ITEM_SIZE) {
      throw bad(`A fw_cfg item of ${size} bytes cannot be described to the guest.`);
    }
    this.#items.set(at, content);
  }
}

function contentSize(content: FwCfgContent | undefined): number {
  if (content === undefined) return 0;
  return content instanceof Uint8Array ? content.length : content.size;
}

function bad(message: string): TsvError {
  return new TsvError('TSV_E_CONFIG', message, {
    hint: 'See the fw_cfg specification for keys, names and sizes.',
  });
}
