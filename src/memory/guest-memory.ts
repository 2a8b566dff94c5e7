/**
 * Guest RAM: shared WebAssembly memories seen by every thread as typed arrays, by KVM as memslots and by the tcg
 * engine as linear memory. Every access is checked; one outside RAM throws TSV_E_GUEST_ADDRESS.
 *
 * Guest-physical addresses (gpa) and sizes are numbers, bytes; 64-bit contents are unsigned bigints.
 */
import { TsvError } from '../errors.ts';

/**
 * A shared `WebAssembly.Memory`. The type is written out because a program that uses this package need not have the
 * DOM's types, which declare the global one.
 */
export interface HostMemory {
  /** The bytes. */
  readonly buffer: SharedArrayBuffer;
}

/** A guest-physical range backed by a slice of one memory. */
export interface RamRegion {
  /** First guest-physical address. */
  readonly gpa: number;
  /** Length in bytes. */
  readonly size: number;
  /** Index into the memories of the {@link GuestMemory}. */
  readonly memory: number;
  /** Offset of the region within that memory, bytes. */
  readonly offset: number;
}

/** What a worker needs to see the same RAM; structured-cloneable. */
export interface SharedGuestMemory {
  readonly memories: readonly HostMemory[];
  readonly regions: readonly RamRegion[];
}

/** Memory that a machine got besides its RAM. */
export interface AttachedMemory {
  /** First guest-physical address. */
  readonly gpa: number;
  /** What the guest sees there. */
  readonly bytes: Uint8Array;
  /** Devices may not write to it. */
  readonly readOnly: boolean;
}

interface View extends RamRegion {
  readonly end: number;
  readonly bytes: Uint8Array;
  readonly data: DataView;
}

/** Guest-physical memory. */
export class GuestMemory {
  /** RAM ranges in ascending order. */
  readonly regions: readonly RamRegion[];
  /** Bytes of RAM in all regions. */
  readonly size: number;
  /** The memories that RAM lies in. */
  readonly memories: readonly HostMemory[];
  /**
   * Told of what the write methods have changed. Who writes through a live view of {@link bytes} says so with
   * {@link wrote}: an engine that executes guest code itself must know when code changes.
   */
  onWrite: ((gpa: number, length: number) => void) | undefined;
  readonly #views: readonly View[];
  readonly #attached: AttachedMemory[] = [];
  #last: View;

  constructor(shared: SharedGuestMemory) {
    this.memories = shared.memories;
    this.regions = [...shared.regions].sort((a, b) => a.gpa - b.gpa);
    this.#views = this.regions.map((region) => {
      const { buffer } = shared.memories[region.memory];
      return {
        ...region,
        end: region.gpa + region.size,
        bytes: new Uint8Array(buffer, region.offset, region.size),
        data: new DataView(buffer, region.offset, region.size),
      };
    });
    this.#last = this.#views[0];
    this.size = this.regions.reduce((sum, region) => sum + region.size, 0);
  }

  /** What to post to a worker; `new GuestMemory(shared)` there sees the same bytes. */
  share(): SharedGuestMemory {
    return { memories: this.memories, regions: this.regions };
  }

  /** True when [gpa, gpa+length) is RAM (it may span adjacent regions). */
  contains(gpa: number, length: number): boolean {
    let at = gpa;
    const end = gpa + length;
    if (!(gpa >= 0) || !(length >= 0) || !Number.isSafeInteger(end)) return false;
    do {
      const view = this.#find(at);
      if (view === undefined) return false;
      at = view.end;
    } while (at < end);
    return true;
  }

  /**
   * A live view of guest RAM; it must lie in one region.
   * @throws TSV_E_GUEST_ADDRESS
   */
  bytes(gpa: number, length: number): Uint8Array {
    const view = this.#view(gpa, length);
    const start = gpa - view.gpa;
    return view.bytes.subarray(start, start + length);
  }

  /**
   * Adds what the engine has mapped besides RAM (EngineVm.mapMemory) for devices: guests give them addresses there when
   * they map files of persistent memory. All else here is about RAM alone.
   */
  attach(memory: AttachedMemory): void {
    this.#attached.push(memory);
  }

  /**
   * Live views for a device that reads, or writes, a range that a guest gave it. Whoever writes says so with {@link wrote}.
   * @returns undefined unless all of it lies in RAM, or in one attached memory that may be used so
   */
  dma(gpa: number, length: number, isWrite: boolean): Uint8Array[] | undefined {
    const view = this.#find(gpa);
    if (view !== undefined && length >= 0 && gpa + length <= view.end) {
      return [view.bytes.subarray(gpa - view.gpa, gpa - view.gpa + length)];
    }
    if (this.contains(gpa, length)) {
      const pieces: Uint8Array[] = [];
      this.#each(gpa, length, (piece) => pieces.push(piece));
      return pieces;
    }
    const attached = this.#attached.find(
      (memory) => gpa >= memory.gpa && length >= 0 && gpa + length <= memory.gpa + memory.bytes.length,
    );
    if (attached === undefined || (isWrite && attached.readOnly)) return undefined;
    return [attached.bytes.subarray(gpa - attached.gpa, gpa - attached.gpa + length)];
  }

  /** Bytes were changed through a live view: see {@link onWrite}. */
  wrote(gpa: number, length: number): void {
    this.onWrite?.(gpa, length);
  }

  /** Copies RAM out, across adjacent regions. @throws TSV_E_GUEST_ADDRESS */
  read(gpa: number, length: number): Uint8Array {
    // Checked before the allocation: a length the guest made up must not cost host memory.
    if (length !== 0 && !this.contains(gpa, length)) throw outside(gpa, length);
    const out = new Uint8Array(length);
    this.#each(gpa, length, (piece, done) => out.set(piece, done));
    return out;
  }

  /** Copies into RAM, across adjacent regions. Nothing is written when the range is not all RAM. @throws TSV_E_GUEST_ADDRESS */
  write(gpa: number, source: Uint8Array): void {
    this.#each(gpa, source.length, (piece, done) => piece.set(source.subarray(done, done + piece.length)));
    this.onWrite?.(gpa, source.length);
  }

  /** Fills RAM with one byte. @throws TSV_E_GUEST_ADDRESS */
  fill(gpa: number, length: number, value = 0): void {
    this.#each(gpa, length, (piece) => piece.fill(value));
    this.onWrite?.(gpa, length);
  }

  /** 1 byte at a guest-physical address, unsigned. @throws TSV_E_GUEST_ADDRESS */
  readU8(gpa: number): number {
    const view = this.#view(gpa, 1);
    return view.bytes[gpa - view.gpa];
  }
  /** 2 bytes, little-endian at a guest-physical address, unsigned. @throws TSV_E_GUEST_ADDRESS */
  readU16(gpa: number): number {
    const view = this.#view(gpa, 2);
    return view.data.getUint16(gpa - view.gpa, true);
  }
  /** 4 bytes, little-endian at a guest-physical address, unsigned. @throws TSV_E_GUEST_ADDRESS */
  readU32(gpa: number): number {
    const view = this.#view(gpa, 4);
    return view.data.getUint32(gpa - view.gpa, true);
  }
  /** 8 bytes, little-endian at a guest-physical address, unsigned. @throws TSV_E_GUEST_ADDRESS */
  readU64(gpa: number): bigint {
    const view = this.#view(gpa, 8);
    return view.data.getBigUint64(gpa - view.gpa, true);
  }
  /** @param value of which the low 8 bits are written. @throws TSV_E_GUEST_ADDRESS */
  writeU8(gpa: number, value: number): void {
    const view = this.#view(gpa, 1);
    view.bytes[gpa - view.gpa] = value;
    this.onWrite?.(gpa, 1);
  }
  /** @param value of which the low 16 bits are written, little-endian. @throws TSV_E_GUEST_ADDRESS */
  writeU16(gpa: number, value: number): void {
    const view = this.#view(gpa, 2);
    view.data.setUint16(gpa - view.gpa, value, true);
    this.onWrite?.(gpa, 2);
  }
  /** @param value of which the low 32 bits are written, little-endian. @throws TSV_E_GUEST_ADDRESS */
  writeU32(gpa: number, value: number): void {
    const view = this.#view(gpa, 4);
    view.data.setUint32(gpa - view.gpa, value, true);
    this.onWrite?.(gpa, 4);
  }
  /** @param value of which the low 64 bits are written, little-endian. @throws TSV_E_GUEST_ADDRESS */
  writeU64(gpa: number, value: bigint): void {
    const view = this.#view(gpa, 8);
    view.data.setBigUint64(gpa - view.gpa, value, true);
    this.onWrite?.(gpa, 8);
  }

  #find(gpa: number): View | undefined {
    const last = this.#last;
    if (last !== undefined && gpa >= last.gpa && gpa < last.end) return last;
    for (const view of this.#views) {
      if (gpa >= view.gpa && gpa < view.end) {
        this.#last = view;
        return view;
      }
    }
    return undefined;
  }

  #view(gpa: number, length: number): View {
    const view = this.#find(gpa);
    if (view === undefined || !(length >= 0) || gpa + length > view.end) throw outside(gpa, length);
    return view;
  }

  #each(gpa: number, length: number, visit: (piece: Uint8Array, done: number) => void): void {
    if (length === 0) return;
    if (!this.contains(gpa, length)) throw outside(gpa, length);
    let done = 0;
    while (done < length) {
      const view = this.#find(gpa + done)!;
      const start = gpa + done - view.gpa;
      const size = Math.min(length - done, view.size - start);
      visit(view.bytes.subarray(start, start + size), done);
      done += size;
    }
  }
}

function outside(gpa: number, length: number): TsvError {
  const where = Number.isFinite(gpa) ? `0x${gpa.toString(16)}` : String(gpa);
  return new TsvError('TSV_E_GUEST_ADDRESS', `Guest-physical range ${where}+${length} is not RAM.`, {
    hint: 'Check the address against the memory map (e820) of this machine.',
  });
}
