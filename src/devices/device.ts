/**
 * What a device is to the machine.
 *
 * A device knows offsets, never its address: the bus owns addresses, the board owns interrupt numbers. It is an
 * ordinary object on the thread that created the VM, so `read` and `write` may return promises.
 */
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { Mount } from './bus.ts';
import type { Clock } from './clock.ts';
import type { Msi } from './irqchip/msi.ts';

/** Width of one access in bytes. Wider guest accesses (8 bytes, strings) arrive as several. */
export type AccessSize = 1 | 2 | 4;

/** An interrupt line. Level semantics; `pulse` is raise and lower, what an edge-triggered line wants. */
export interface IrqLine {
  /** Asserts the line until {@link lower}. */
  raise(): void;
  /** Takes the assertion back. */
  lower(): void;
  /** Asserts the line and takes it back at once: an edge. */
  pulse(): void;
}

/**
 * A word in memory shared with the vCPU threads behind a `latched` or `w1c` register. `store` is visible to the
 * guest's next read without any hand-over.
 */
export interface Latch {
  /** The word, unsigned. */
  load(): number;
  /** @param value unsigned, below 2^32 */
  store(value: number): void;
  /** Sets bits atomically (the device's side of a write-one-to-clear status register). Returns the old value. */
  or(bits: number): number;
  /** Clears bits atomically. Returns the old value. */
  clear(bits: number): number;
}

/**
 * How accesses to a range of a device's registers travel.
 * - `read: 'sync'` (default): the vCPU waits for `Device.read`.
 * - `read: 'latched'`: the vCPU reads the register's latch and goes on.
 * - `write: 'sync'` (default): the vCPU waits for `Device.write`.
 * - `write: 'posted'`: the write goes to a ring, in order with all later accesses of that vCPU, which goes on.
 * - `write: 'w1c'`: the bits written are cleared in the latch `target`, atomically, without the device; if the
 *   result is zero the device is told by a posted write of the cleared value.
 */
export interface RegisterMode {
  /** Offset of the first byte of the range within the device. */
  offset: number;
  /** Length of the range in bytes; for `latched` and `w1c` 1, 2 or 4. */
  size: number;
  /** How reads travel; `sync` when absent. */
  read?: 'sync' | 'latched';
  /** How writes travel; `sync` when absent. */
  write?: 'sync' | 'posted' | 'w1c';
  /** For `w1c`: the offset of the latched register whose bits are cleared; the same offset when absent. */
  target?: number;
}

/**
 * A write of which nothing counts but that it came, as virtio's queue notifications. It must be declared `posted`, for it
 * also comes that way.
 */
export interface NotifyRegister {
  /** Offset within the device. */
  offset: number;
  /** Width of the write; any when absent. */
  size?: AccessSize;
  /** The value written, unsigned; any when absent. Needs a width. */
  value?: number;
}

/** What the machine gives a device when it is attached. */
export interface DeviceContext {
  /** Guest RAM, for DMA. */
  readonly memory: GuestMemory;
  /** Guest time. */
  readonly clock: Clock;
  /** The device's n-th interrupt line, in the order given when it was attached. */
  irq(index?: number): IrqLine;
  /** The latch of the register at `offset` (it must be declared `latched` or be a `w1c` target). */
  latch(offset: number): Latch;
  /** Puts the device at one more place on the bus, as PCI BARs want it. @throws TSV_E_BUS_OVERLAP, TSV_E_BUS_RANGE */
  mount(mount: Mount): void;
  /** Takes it away from such a place. */
  unmount(mount: Pick<Mount, 'space' | 'base'>): void;
  /**
   * Names a write that only notifies, from now on. The engine may pass it on itself, without the vCPU's leaving the guest:
   * several can then arrive as one {@link Device.write}, in no order with other accesses, and one that names no value as a
   * write of 0.
   */
  notifiedBy(register: NotifyRegister): void;
  /** Delivers a message-signalled interrupt. */
  signalMsi(message: Msi): void;
  /** Asks the machine to end: guest power-off, reset request and the like. */
  stop(reason: StopReason): void;
  /** Reports something worth a log line (rate-limited by the machine). */
  log(level: 'debug' | 'info' | 'warn' | 'error', message: string): void;
}

/** Why a device ends the run. */
export type StopReason =
  | { kind: 'poweroff'; by: string }
  | { kind: 'reset'; by: string }
  | { kind: 'exit'; status: number; by: string }
  | { kind: 'panic'; message: string; by: string };

/** A device's state: anything structured clone can copy. */
export type DeviceState = Record<string, unknown>;

/** A device on the bus. */
export interface Device {
  /** Unique within a machine; used in errors, traces and saved state. */
  readonly name: string;
  /** Widest access the device takes; the bus splits wider ones into ascending ones. Default 4. */
  readonly maxAccess?: AccessSize;
  /** Ranges whose accesses are not `sync`. */
  readonly registers?: readonly RegisterMode[];
  /** Called once before the guest runs. */
  attach?(context: DeviceContext): void;
  /** @returns the value, unsigned, below 2^(8*size) */
  read?(offset: number, size: AccessSize): number | Promise<number>;
  /** @param value unsigned, below 2^(8*size) */
  write?(offset: number, size: AccessSize, value: number): void | Promise<void>;
  /** Back to power-on state. */
  reset?(): void;
  /** Everything that {@link restore} needs to continue on another machine object. */
  save(): DeviceState;
  /** Continues from what {@link save} of such a device gave. @throws TSV_E_STATE when it cannot be true */
  restore(state: DeviceState): void;
  /** Releases host resources. */
  close?(): void | Promise<void>;
}
