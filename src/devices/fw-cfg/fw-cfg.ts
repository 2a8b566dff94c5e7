/**
 * QEMU's firmware configuration device (docs/specs/fw_cfg) on I/O ports: a 16-bit selector, an 8-bit data register
 * and a DMA interface. Items are read-only.
 */
import { TsvError } from '../../errors.ts';
import type { AccessSize, Device, DeviceContext, DeviceState } from '../device.ts';
import { SavedState } from '../saved-state.ts';
import { type FwCfgContent, FwCfgItems } from './items.ts';
import * as key from './keys.ts';

/** Selector, 16 bits, write-only: port 0x510. */
export const FW_CFG_SELECTOR = 0;
/** Data, 8 bits: port 0x511. */
export const FW_CFG_DATA = 1;
/** DMA address, 64 bits big-endian, the high half first: port 0x514. */
export const FW_CFG_DMA = 4;
/** Ports the device occupies. */
export const FW_CFG_SIZE = 12;

const DMA_HIGH = FW_CFG_DMA;
const DMA_LOW = FW_CFG_DMA + 4;
/** struct FWCfgDmaAccess: control, length (32 bits each) and address (64 bits), big-endian. */
const DMA_ACCESS_SIZE = 16;
const ERROR = new Uint8Array([0, 0, 0, key.FW_CFG_DMA_CTL_ERROR]);
const DONE = new Uint8Array(4);
const SIGNATURE = new TextEncoder().encode(key.FW_CFG_DMA_SIGNATURE);

/** The firmware configuration device. It raises no interrupt. */
export class FwCfg implements Device {
  readonly name = 'fw-cfg';
  readonly #items = new FwCfgItems();
  #context: DeviceContext | undefined;

  #key = 0;
  /** Bytes of the selected item already read or skipped. */
  #offset = 0;
  #dmaHigh = 0;
  /** Content of the selected item once it has been asked for. */
  #loaded: Uint8Array | undefined;

  attach(context: DeviceContext): void {
    this.#context = context;
  }

  /** Adds an item by key, see {@link FwCfgItems.add}. @throws TSV_E_CONFIG */
  add(at: number, content: FwCfgContent): void {
    this.#items.add(at, content);
  }

  /** Adds a file by name and returns its key, see {@link FwCfgItems.addFile}. @throws TSV_E_CONFIG */
  addFile(name: string, content: FwCfgContent): number {
    return this.#items.addFile(name, content);
  }

  read(offset: number, size: AccessSize): number {
    let value = 0;
    for (let i = 0; i < size; i++) value += this.#readByte(offset + i) * 2 ** (8 * i);
    return value;
  }

  #readByte(offset: number): number {
    if (offset === FW_CFG_DATA) {
      const byte = this.#content[this.#offset] ?? 0;
      this.#advance(1);
      return byte;
    }
    return SIGNATURE[offset - FW_CFG_DMA] ?? 0;
  }

  write(offset: number, size: AccessSize, value: number): void {
    if (offset === FW_CFG_SELECTOR && size === 2) this.#select(value);
    else if (offset === DMA_HIGH && size === 4) this.#dmaHigh = swap32(value);
    else if (offset === DMA_LOW && size === 4) {
      const gpa = this.#dmaHigh * 2 ** 32 + swap32(value);
      this.#dmaHigh = 0;
      this.#dma(gpa);
    }
    // Writes of data have been ignored since QEMU 2.4.
  }

  #select(at: number): void {
    this.#key = at & ~key.FW_CFG_WRITE_CHANNEL & 0xffff;
    this.#offset = 0;
    this.#loaded = undefined;
  }

  #advance(count: number): void {
    this.#offset = Math.min(this.#offset + count, this.#items.size(this.#key));
  }

  /** The selected item. One that cannot be produced reads as zeros. */
  get #content(): Uint8Array {
    if (this.#loaded === undefined) {
      try {
        this.#loaded = this.#items.load(this.#key);
      } catch (error) {
        this.#loaded = new Uint8Array(0);
        this.#context?.log('error', `fw-cfg: item 0x${this.#key.toString(16)}: ${String(error)}`);
      }
    }
    return this.#loaded;
  }

  /** Carries out the access described at `gpa` and tells the guest there how it went. */
  #dma(gpa: number): void {
    const memory = this.#context?.memory;
    if (memory === undefined) return;
    if (!memory.contains(gpa, DMA_ACCESS_SIZE)) {
      this.#context?.log('warn', `fw-cfg: the DMA descriptor at 0x${gpa.toString(16)} is not in RAM.`);
      return;
    }
    const descriptor = memory.read(gpa, DMA_ACCESS_SIZE);
    const view = new DataView(descriptor.buffer);
    const control = view.getUint32(0);
    const length = view.getUint32(4);
    const address = view.getUint32(8) * 2 ** 32 + view.getUint32(12);
    if (control & key.FW_CFG_DMA_CTL_SELECT) this.#select(control >>> 16);
    const done = this.#transfer(control, address, length);
    memory.write(gpa, done ? DONE : ERROR);
  }

  /** @returns false when the guest asked for what cannot be done */
  #transfer(control: number, address: number, length: number): boolean {
    if (control & key.FW_CFG_DMA_CTL_READ) {
      const memory = this.#context!.memory;
      if (length > 0 && !memory.contains(address, length)) return false;
      const bytes = this.#content.subarray(this.#offset, this.#offset + length);
      memory.write(address, bytes);
      // Past its end an item reads as zeros.
      memory.fill(address + bytes.length, length - bytes.length, 0);
    } else if (control & key.FW_CFG_DMA_CTL_WRITE) return false;
    else if ((control & key.FW_CFG_DMA_CTL_SKIP) === 0) return true;
    this.#advance(length);
    return true;
  }

  reset(): void {
    this.#select(0);
    this.#dmaHigh = 0;
  }

  /** The items belong to the machine's configuration; only their sizes are kept, to recognise them. */
  save(): DeviceState {
    return {
      key: this.#key,
      offset: this.#offset,
      dmaHigh: this.#dmaHigh,
      items: this.#items.fingerprint(),
    };
  }

  /** @throws TSV_E_STATE when the state is damaged or was saved with other items */
  restore(state: DeviceState): void {
    const saved = new SavedState(this.name, state);
    const at = saved.int('key', 0xffff) & ~key.FW_CFG_WRITE_CHANNEL;
    const offset = saved.int('offset', this.#items.size(at));
    const dmaHigh = saved.int('dmaHigh', 0xffffffff);
    const items = this.#items.fingerprint();
    const savedItems = saved.ints('items', Number.MAX_SAFE_INTEGER, items.length);
    if (savedItems.length !== items.length || savedItems.some((value, index) => value !== items[index])) {
      throw new TsvError('TSV_E_STATE', 'The machine was saved with other firmware configuration items.', {
        hint: 'Restore it with the same kernel, initrd, command line and memory size.',
      });
    }
    this.#select(at);
    this.#offset = offset;
    this.#dmaHigh = dmaHigh;
  }
}

function swap32(value: number): number {
  return (
    (((value & 0xff) << 24) |
      ((value & 0xff00) << 8) |
      ((value >>> 8) & 0xff00) |
      ((value >>> 24) & 0xff)) >>>
    0
  );
}
