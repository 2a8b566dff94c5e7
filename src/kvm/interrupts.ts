/**
 * Interrupts on their way to the kernel's controllers. A write to an irqfd (KVM_IRQFD) costs a fraction of KVM_IRQ_LINE or
 * KVM_SIGNAL_MSI; messages that come again go that way, and edges of a line if asked for, everything else by those.
 *
 * The kernel delivers a message while it is written, but leaves a line to a worker, which waits until the thread that wrote
 * sleeps: the guest has its interrupt 30 us later than by KVM_IRQ_LINE, whose two calls take 9 us.
 */
import type { EventfdUse, MsiMessage } from '../vcpu/engine.ts';
import * as abi from './abi/index.ts';
import type { KvmFd } from './fd.ts';
import { FIRST_FREE_GSI, type GsiRoutes } from './gsi-routes.ts';

/** Most messages with an irqfd; beyond them the oldest gives its own away. */
const MAX_MESSAGES = 128;
/** Messages remembered for having been sent once. */
const MAX_SEEN = 1024;

/** An eventfd that raises a GSI: an edge where a pin is behind it. */
class Irqfd {
  readonly gsi: number;
  readonly #vm: KvmFd;
  readonly #fd: number;

  /** @returns undefined when the kernel has none to give */
  static open(vm: KvmFd, gsi: number): Irqfd | undefined {
    const fd = vm.native.eventfd(0);
    if (fd < 0) return undefined;
    const irqfd = new Irqfd(vm, gsi, fd);
    if (irqfd.#assign(0) >= 0) return irqfd;
    vm.native.close(fd);
    return undefined;
  }

  private constructor(vm: KvmFd, gsi: number, fd: number) {
    this.#vm = vm;
    this.gsi = gsi;
    this.#fd = fd;
  }

  #assign(flags: number): number {
    const irqfd = { fd: this.#fd, gsi: this.gsi, flags, resamplefd: 0 };
    return this.#vm.tryIoctl(abi.KVM_IRQFD, abi.kvm_irqfd.encode(irqfd));
  }

  signal(): void {
    this.#vm.native.signalEvent(this.#fd);
  }

  /** Returns when everything signalled has arrived: the kernel may leave that to a thread of its own. */
  flush(): void {
    this.#assign(abi.KVM_IRQFD_FLAG_DEASSIGN);
    this.#assign(0);
  }

  /** What was signalled arrives before this returns. */
  close(): void {
    this.#assign(abi.KVM_IRQFD_FLAG_DEASSIGN);
    this.#vm.native.close(this.#fd);
  }
}

/** The interrupts of one VM. */
export class KvmInterrupts {
  /** Interrupts that went by an irqfd. */
  signalled = 0;
  readonly #vm: KvmFd;
  readonly #routes: GsiRoutes;
  /** By GSI; null where the line's level is driven, which an edge on its way would take back. */
  readonly #lines = new Map<number, Irqfd | null>();
  /** By message, the oldest first. */
  readonly #messages = new Map<string, Irqfd>();
  /** Messages sent once. */
  readonly #seen = new Set<string>();
  #nextGsi = FIRST_FREE_GSI;
  #mayOpen: boolean;
  readonly #forLines: boolean;

  constructor(vm: KvmFd, routes: GsiRoutes, use: EventfdUse) {
    this.#vm = vm;
    this.#routes = routes;
    this.#mayOpen = use !== 'none';
    this.#forLines = use === 'all';
  }

  /** Drives a GSI. */
  setLine(gsi: number, level: 0 | 1): void {
    if (this.#lines.get(gsi) !== null) {
      this.#lines.get(gsi)?.close();
      this.#lines.set(gsi, null);
    }
    this.#vm.ioctl(abi.KVM_IRQ_LINE, abi.kvm_irq_level.encode({ irq: gsi, level }));
  }

  /** An edge of a GSI that is low. */
  pulse(gsi: number): void {
    let irqfd = this.#lines.get(gsi);
    if (irqfd === undefined && this.#forLines && this.#mayOpen) {
      irqfd = Irqfd.open(this.#vm, gsi) ?? null;
      this.#lines.set(gsi, irqfd);
    }
    if (irqfd) {
      irqfd.signal();
      this.signalled++;
    } else {
      this.setLine(gsi, 1);
      this.setLine(gsi, 0);
    }
  }

  /** Sends a message to the local APICs. */
  send(message: MsiMessage): void {
    const irqfd = this.#pathOf(message);
    if (irqfd !== undefined) {
      irqfd.signal();
      this.signalled++;
      return;
    }
    const { address, data } = message;
    // It fails when no local APIC takes the message: on hardware, too, such a write goes nowhere.
    this.#vm.tryIoctl(
      abi.KVM_SIGNAL_MSI,
      abi.kvm_msi.encode({
        address_lo: address % 2 ** 32,
        address_hi: Math.floor(address / 2 ** 32),
        data,
        flags: 0,
        devid: 0,
      }),
    );
  }

  /**
   * The irqfd of a message that was sent before. A vector that the guest changes sends another message, which earns its
   * own irqfd when it comes again; that of the old one falls to whoever needs one.
   */
  #pathOf(message: MsiMessage): Irqfd | undefined {
    const key = `${message.address}:${message.data}`;
    const known = this.#messages.get(key);
    if (known !== undefined || !this.#mayOpen) return known;
    if (!this.#seen.has(key)) {
      if (this.#seen.size === MAX_SEEN) this.#seen.clear();
      this.#seen.add(key);
      return undefined;
    }
    this.#seen.delete(key);
    const irqfd = this.#openPath(message);
    // Out of descriptors or routes: those there are go on, but no more are asked for.
    if (irqfd === undefined) this.#mayOpen = false;
    else this.#messages.set(key, irqfd);
    return irqfd;
  }

  #openPath(message: MsiMessage): Irqfd | undefined {
    let gsi = this.#nextGsi;
    if (this.#messages.size === MAX_MESSAGES) {
      const [[oldest, irqfd]] = this.#messages;
      irqfd.close();
      this.#messages.delete(oldest);
      gsi = irqfd.gsi;
    }
    try {
      this.#routes.setMessage(gsi, message);
    } catch {
      return undefined;
    }
    if (gsi === this.#nextGsi) this.#nextGsi++;
    return Irqfd.open(this.#vm, gsi);
  }

  /** Returns when everything signalled has reached the controllers. */
  flush(): void {
    for (const irqfd of this.#all()) irqfd.flush();
  }

  *#all(): Generator<Irqfd> {
    for (const irqfd of this.#lines.values()) if (irqfd !== null) yield irqfd;
    yield* this.#messages.values();
  }

  /** Gives all descriptors back. */
  close(): void {
    this.#mayOpen = false;
    for (const irqfd of this.#all()) irqfd.close();
    this.#lines.clear();
    this.#messages.clear();
  }
}
