/** The block device (virtio 1.2 section 5.2) over a {@link BlockBackend}. */
import { inspect } from 'node:util';
import { TsvError } from '../../../errors.ts';
import type { BlockBackend } from '../../../storage/backend.ts';
import { scatter, slice } from '../../../storage/buffers.ts';
import type { DeviceState } from '../../device.ts';
import { SavedState } from '../../saved-state.ts';
import { VIRTIO_ID } from '../abi.ts';
import { ChainPump } from '../queue/pump.ts';
import { refusedState } from '../transport/refused-state.ts';
import type { Chain, VirtioDevice, VirtioHost, Virtqueue } from '../virtio-device.ts';
import { BLK_F, BLK_ID_SIZE, BLK_RANGE_F_UNMAP, BLK_S, BLK_T, SECTOR_SIZE } from './abi.ts';
import { BlkConfig, MAX_RANGE_SECTORS } from './config.ts';
import { type BlkRequest, parseRanges, parseRequest } from './request.ts';

const QUEUE_SIZE = 256;
/** Header and status take a descriptor each. */
const SEG_MAX = QUEUE_SIZE - 2;
/** Requests under way at once, over all queues; others wait in their rings. */
const MAX_IN_FLIGHT = 128;
const MAX_QUEUES = 64;
/**
 * Bytes that the back end is given at once. It may have nothing to wait for (an image knows what is zero), and a guest may
 * ask for 4 GiB: the event loop gets its turn in between.
 */
const PIECE = 2 ** 22;

/** Options of {@link VirtioBlk}. */
export interface BlkOptions {
  name?: string;
  backend: BlockBackend;
  /** Up to 20 bytes of ASCII that a guest finds as the disk's serial number. Default empty. */
  serial?: string;
  /** Queues, 1 to 64; one for each vCPU is best. Default 1. */
  queues?: number;
}

/** A disk. */
export class VirtioBlk implements VirtioDevice {
  readonly name: string;
  readonly type = VIRTIO_ID.BLOCK;
  readonly features: bigint;
  readonly queueSizes: readonly number[];
  readonly config: BlkConfig;
  readonly #backend: BlockBackend;
  readonly #serial: Uint8Array;
  readonly #pumps = new Map<number, ChainPump>();
  /** Requests under way, those from before a reset included. */
  readonly #inFlight = new Set<Promise<void>>();
  #host: VirtioHost | undefined;

  /** @throws TSV_E_CONFIG */
  constructor({ name = 'virtio-blk0', backend, serial = '', queues = 1 }: BlkOptions) {
    check(/^[\x20-\x7e]{0,20}$/.test(serial), `"${serial}" cannot be a serial number`);
    check(
      Number.isInteger(queues) && queues >= 1 && queues <= MAX_QUEUES,
      `${queues} cannot be the number of queues`,
    );
    this.name = name;
    this.#backend = backend;
    this.#serial = new Uint8Array(BLK_ID_SIZE);
    this.#serial.set(Buffer.from(serial));
    this.queueSizes = new Array<number>(queues).fill(QUEUE_SIZE);
    this.config = new BlkConfig({ size: backend.size, segMax: SEG_MAX, queues });
    const { readOnly } = backend;
    this.features =
      BLK_F.SEG_MAX |
      BLK_F.BLK_SIZE |
      BLK_F.TOPOLOGY |
      BLK_F.FLUSH |
      (readOnly ? BLK_F.RO : BLK_F.CONFIG_WCE) |
      (queues > 1 ? BLK_F.MQ : 0n) |
      (backend.discard !== undefined && !readOnly ? BLK_F.DISCARD : 0n) |
      (backend.writeZeroes !== undefined && !readOnly ? BLK_F.WRITE_ZEROES : 0n);
  }

  start(host: VirtioHost): void {
    this.#host = host;
    for (const index of this.queueSizes.keys()) {
      const queue = host.queue(index);
      if (queue === undefined) continue;
      const handle = (chain: Chain) => this.#handle(host, queue, chain);
      this.#pumps.set(
        index,
        new ChainPump(host.clock, queue, handle, () => this.#inFlight.size < MAX_IN_FLIGHT),
      );
    }
  }

  notify(queue: number): void {
    this.#pumps.get(queue)?.run();
  }

  stop(): void | Promise<void> {
    for (const pump of this.#pumps.values()) pump.stop();
    this.#pumps.clear();
    this.#host = undefined;
    this.config.writeback = true;
    if (this.#inFlight.size > 0) return Promise.all(this.#inFlight).then(() => undefined);
  }

  #handle(host: VirtioHost, queue: Virtqueue, chain: Chain): void {
    const request = parseRequest(chain);
    if (request === undefined) {
      host.fail(`a request of ${chain.readableLength} and ${chain.writableLength} bytes`);
      return;
    }
    const done = this.#perform(host, request)
      .catch((error) => {
        host.log(
          'error',
          `${this.name}: request ${request.type} at sector ${request.sector}: ${describe(error)}`,
        );
        return BLK_S.IOERR;
      })
      .then((status) => {
        this.#inFlight.delete(done);
        request.status[0] = status;
        // The status lies behind the answer: where that is missing, nothing can be said to be written.
        const isWritten = status === BLK_S.OK || request.answerLength === 0;
        queue.push(chain, isWritten ? request.answerLength + 1 : 0);
        if (this.#host === host && this.#inFlight.size === MAX_IN_FLIGHT - 1) this.#refill();
      });
    this.#inFlight.add(done);
  }

  /** There was no room for more requests, and now there is. */
  #refill(): void {
    for (const pump of this.#pumps.values()) pump.run();
  }

  async #perform(host: VirtioHost, request: BlkRequest): Promise<number> {
    const backend = this.#backend;
    switch (request.type) {
      case BLK_T.IN:
        if (!this.#isOnDisk(request.sector, request.answerLength)) return BLK_S.IOERR;
        await inPieces(request.answer, request.answerLength, (views, done) =>
          backend.read(request.sector * SECTOR_SIZE + done, views),
        );
        return BLK_S.OK;
      case BLK_T.OUT:
        if (backend.readOnly || !this.#isOnDisk(request.sector, request.sentLength)) return BLK_S.IOERR;
        await inPieces(request.sent, request.sentLength, (views, done) =>
          backend.write(request.sector * SECTOR_SIZE + done, views),
        );
        if (!this.#hasWriteCache(host)) await backend.flush();
        return BLK_S.OK;
      case BLK_T.FLUSH:
        await backend.flush();
        return BLK_S.OK;
      case BLK_T.GET_ID:
        scatter(this.#serial.subarray(0, request.answerLength), request.answer);
        return BLK_S.OK;
      case BLK_T.DISCARD:
      case BLK_T.WRITE_ZEROES:
        return this.#changeRanges(host, request);
      default:
        return BLK_S.UNSUPP;
    }
  }

  async #changeRanges(host: VirtioHost, request: BlkRequest): Promise<number> {
    const backend = this.#backend;
    const isDiscard = request.type === BLK_T.DISCARD;
    if ((host.features & (isDiscard ? BLK_F.DISCARD : BLK_F.WRITE_ZEROES)) === 0n) return BLK_S.UNSUPP;
    const ranges = parseRanges(request);
    if (ranges === undefined) return BLK_S.IOERR;
    // Section 5.2.6.2: a discard has no flags, and there is none but UNMAP.
    if (ranges.some(({ flags }) => (flags & ~(isDiscard ? 0 : BLK_RANGE_F_UNMAP)) !== 0)) return BLK_S.UNSUPP;
    const isGood = ranges.every(
      ({ sector, sectors }) => sectors <= MAX_RANGE_SECTORS && this.#isOnDisk(sector, sectors * SECTOR_SIZE),
    );
    if (!isGood) return BLK_S.IOERR;
    for (const { sector, sectors, flags } of ranges) {
      const [offset, length] = [sector * SECTOR_SIZE, sectors * SECTOR_SIZE];
      if (isDiscard) await backend.discard?.(offset, length);
      else await backend.writeZeroes?.(offset, length, (flags & BLK_RANGE_F_UNMAP) !== 0);
      if (length > PIECE) await turn();
    }
    if (!isDiscard && !this.#hasWriteCache(host)) await backend.flush();
    return BLK_S.OK;
  }

  /** @param length bytes */
  #isOnDisk(sector: number, length: number): boolean {
    const end = this.#backend.size / SECTOR_SIZE;
    return length % SECTOR_SIZE === 0 && sector <= end && length / SECTOR_SIZE <= end - sector;
  }

  /** Section 5.2.5.1: without FLUSH, or as the driver chose, what is written is durable at once. */
  #hasWriteCache(host: VirtioHost): boolean {
    if ((host.features & BLK_F.FLUSH) === 0n) return false;
    return (host.features & BLK_F.CONFIG_WCE) === 0n || this.config.writeback;
  }

  /** The content is the back end's; requests under way are in the queues' states. */
  save(): DeviceState {
    return { size: this.#backend.size, writeback: this.config.writeback };
  }

  /** @throws TSV_E_STATE when the disk has another size now */
  restore(state: DeviceState): void {
    const saved = new SavedState(this.name, state);
    const writeback = saved.bool('writeback');
    if (saved.int('size', Number.MAX_SAFE_INTEGER) !== this.#backend.size) {
      throw refusedState(this.name, `is of a disk with other than ${this.#backend.size} bytes`);
    }
    this.config.writeback = writeback;
  }

  async close(): Promise<void> {
    await Promise.all(this.#inFlight);
    await this.#backend[Symbol.asyncDispose]();
  }
}

async function inPieces(
  buffers: readonly Uint8Array[],
  length: number,
  transfer: (views: readonly Uint8Array[], done: number) => Promise<void>,
): Promise<void> {
  if (length <= PIECE) return transfer(buffers, 0);
  for (let done = 0; done < length; done += PIECE) {
    await transfer(slice(buffers, done, Math.min(PIECE, length - done)), done);
    await turn();
  }
}

/** Lets the event loop do what waits for it. */
function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

function check(isGood: boolean, message: string): void {
  if (isGood) return;
  throw new TsvError('TSV_E_CONFIG', `${message} of a virtio disk.`, {
    hint: `A serial number has up to ${BLK_ID_SIZE} ASCII characters, a disk 1 to ${MAX_QUEUES} queues.`,
  });
}

function describe(error: unknown): string {
  return error instanceof Error ? error.message : inspect(error);
}
