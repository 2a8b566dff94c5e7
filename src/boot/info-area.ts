/** Structures and strings put one after the other into the boot information area of low memory. */
import { TsvError } from '../errors.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { NamedRange } from './layout.ts';
import { alignUp, BOOT_LAYOUT } from './layout.ts';

const ALIGNMENT = 8;

/** A bump allocator over {@link BOOT_LAYOUT}.bootInfo. */
export class InfoArea {
  readonly #memory: GuestMemory;
  #next: number = BOOT_LAYOUT.bootInfo.gpa;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  /** What has been used. */
  get range(): NamedRange {
    const { name, gpa } = BOOT_LAYOUT.bootInfo;
    return { name, gpa, size: this.#next - gpa };
  }

  /**
   * Reserves room, 8-byte aligned.
   * @returns its address
   * @throws TSV_E_CONFIG when the area is full
   */
  reserve(size: number): number {
    const { gpa: start, size: room } = BOOT_LAYOUT.bootInfo;
    const gpa = alignUp(this.#next, ALIGNMENT);
    if (gpa + size > start + room) {
      throw new TsvError('TSV_E_CONFIG', `The boot information does not fit into ${room} bytes.`, {
        hint: 'Use fewer modules or shorter module command lines.',
      });
    }
    this.#next = gpa + size;
    return gpa;
  }

  /** Writes bytes. @returns their address */
  put(bytes: Uint8Array): number {
    const gpa = this.reserve(bytes.length);
    this.#memory.write(gpa, bytes);
    return gpa;
  }

  /** Writes a NUL-terminated string. @returns its address */
  putString(text: string): number {
    return this.put(Buffer.from(`${text}\0`, 'utf8'));
  }
}
