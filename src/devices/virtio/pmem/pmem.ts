/**
 * The persistent memory device (virtio 1.2 section 5.19): a disk's content in guest-physical memory, where a guest reads
 * it without requests, and with DAX without a copy in its page cache.
 *
 * The content is copied into memory before the guest starts. Mapping the file would be faster (for 1 GiB in the host's
 * page cache it takes 0.1 ms, reading all of it through the mapping 12 ms; copying it takes 0.6 s, or 0.3 s when most
 * of it is free space), but a file can be truncated under its mapping, and then every access to it ends in SIGBUS: the
 * host process dies, and no lock or lease keeps all others from truncating. The copy is safe, works without the addon,
 * and takes any image format; a file that is cut off before it has been read is an ordinary error.
 */
import type { BlockBackend } from '../../../storage/backend.ts';
import { gather, scatter, slice } from '../../../storage/buffers.ts';
import type { DeviceState } from '../../device.ts';
import { SavedState } from '../../saved-state.ts';
import { VIRTIO_ID } from '../abi.ts';
import { ChainPump } from '../queue/pump.ts';
import { refusedState } from '../transport/refused-state.ts';
import type { Chain, VirtioDevice, VirtioHost } from '../virtio-device.ts';
import { PMEM_CONFIG, PMEM_REQ_SIZE, PMEM_REQ_TYPE, PMEM_RESP_SIZE, PMEM_RESP_TYPE } from './abi.ts';
import { BLOCK, loadContent, nonZeroBlocks } from './content.ts';

const QUEUE_SIZE = 64;

/** Options of {@link VirtioPmem}. */
export interface PmemOptions {
  name?: string;
  /** Guest-physical address of its memory, a multiple of 2 MiB. */
  gpa: number;
  /** Its memory, which the guest sees too; a multiple of 2 MiB. */
  memory: Uint8Array;
  /** The guest's writes do not reach the memory: {@link VirtioPmem.lostWrite} is told of them. */
  readOnly: boolean;
  /** Gives the memory back. */
  release?: () => void;
}

/** Persistent memory whose content ends with the machine. */
export class VirtioPmem implements VirtioDevice {
  readonly name: string;
  readonly type = VIRTIO_ID.PMEM;
  readonly features = 0n;
  readonly queueSizes = [QUEUE_SIZE] as const;
  readonly config: VirtioDevice['config'];
  readonly #memory: Uint8Array;
  readonly #readOnly: boolean;
  readonly #release: (() => void) | undefined;
  #loading: Promise<void> | undefined;
  #host: VirtioHost | undefined;
  #pump: ChainPump | undefined;
  /** The guest has written where nothing can be written, since the driver took over. */
  #hasLost = false;

  constructor({ name = 'virtio-pmem0', gpa, memory, readOnly, release }: PmemOptions) {
    this.name = name;
    this.#memory = memory;
    this.#readOnly = readOnly;
    this.#release = release;
    const fields = new DataView(new ArrayBuffer(PMEM_CONFIG.LENGTH));
    fields.setBigUint64(PMEM_CONFIG.START, BigInt(gpa), true);
    fields.setBigUint64(PMEM_CONFIG.SIZE, BigInt(memory.length), true);
    this.config = {
      size: PMEM_CONFIG.LENGTH,
      read(offset, size) {
        if (size === 1) return fields.getUint8(offset);
        return size === 2 ? fields.getUint16(offset, true) : fields.getUint32(offset, true);
      },
    };
  }

  /**
   * Copies a disk's content into the memory, which is zero until then, and closes the disk. The guest must not run yet.
   * @throws what the disk's `read` throws
   */
  load(disk: BlockBackend): Promise<void> {
    this.#loading = loadContent(disk, this.#memory).finally(() => disk[Symbol.asyncDispose]());
    return this.#loading;
  }

  /** The guest has written to memory that is read-only. */
  lostWrite(): void {
    // Without a driver nobody counts on it.
    if (this.#host === undefined || this.#hasLost) return;
    this.#hasLost = true;
    this.#host.log('warn', `${this.name}: the guest writes to it, but it is read-only; all of that is lost`);
  }

  start(host: VirtioHost): void {
    this.#host = host;
    const queue = host.queue(0);
    if (queue === undefined) return;
    this.#pump = new ChainPump(host.clock, queue, (chain) => {
      const answer = this.#answer(chain);
      if (answer === undefined) {
        host.fail(`a request of ${chain.readableLength} and ${chain.writableLength} bytes`);
        return;
      }
      writeU32(chain.writable, answer);
      queue.push(chain, PMEM_RESP_SIZE);
    });
  }

  #answer(chain: Chain): number | undefined {
    if (chain.readableLength < PMEM_REQ_SIZE || chain.writableLength < PMEM_RESP_SIZE) return undefined;
    const isFlush = readU32(chain.readable) === PMEM_REQ_TYPE.FLUSH;
    // What reached the memory lasts as long as the machine, which is all that is promised. What did not is an error.
    return isFlush && !this.#hasLost ? PMEM_RESP_TYPE.OK : PMEM_RESP_TYPE.EIO;
  }

  notify(): void {
    this.#pump?.run();
  }

  stop(): void {
    this.#pump?.stop();
    this.#pump = undefined;
    this.#host = undefined;
    this.#hasLost = false;
  }

  /** Read-only content is that of the image; else all that is not zero is in the state. */
  save(): DeviceState {
    const state: DeviceState = { size: this.#memory.length, lost: this.#hasLost };
    if (this.#readOnly) return state;
    const blocks = [...nonZeroBlocks(this.#memory)];
    const content = new Uint8Array(blocks.length * BLOCK);
    for (const [i, { bytes }] of blocks.entries()) content.set(bytes, i * BLOCK);
    return { ...state, blocks: blocks.map(({ offset }) => offset / BLOCK), content };
  }

  /** @throws TSV_E_STATE when the memory has another size now */
  restore(state: DeviceState): void {
    const saved = new SavedState(this.name, state);
    const memory = this.#memory;
    if (saved.int('size', Number.MAX_SAFE_INTEGER) !== memory.length) {
      throw refusedState(this.name, `is of other than ${memory.length} bytes`);
    }
    const hasLost = saved.bool('lost');
    if (!this.#readOnly) {
      const count = memory.length / BLOCK;
      const blocks = saved.ints('blocks', count - 1, count);
      const content = saved.bytes('content', blocks.length * BLOCK);
      memory.fill(0);
      for (const [i, block] of blocks.entries()) {
        memory.set(content.subarray(i * BLOCK, (i + 1) * BLOCK), block * BLOCK);
      }
    }
    this.#hasLost = hasLost;
  }

  async close(): Promise<void> {
    // Whoever loads it is told of a failure; here it only has to be over.
    await this.#loading?.catch(() => undefined);
    this.#release?.();
  }
}

/** The first four bytes of buffers that have as many, wherever the guest divides them. */
function readU32(buffers: readonly Uint8Array[]): number {
  const bytes = new Uint8Array(4);
  gather(slice(buffers, 0, 4), bytes);
  return new DataView(bytes.buffer).getUint32(0, true);
}

function writeU32(buffers: readonly Uint8Array[], value: number): void {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value, true);
  scatter(bytes, buffers);
}
