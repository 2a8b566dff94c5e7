/** Guest writes that the kernel passes on to the event loop, while the vCPU goes on (KVM api.rst, KVM_IOEVENTFD). */
import type { Notifier, NotifyPlace } from '../devices/notifications.ts';
import * as abi from './abi/index.ts';
import type { KvmFd } from './fd.ts';

/** The ioeventfds of one VM. */
export class KvmNotifiers {
  /** Notifications that came by an ioeventfd; writes in quick succession are one. */
  received = 0;
  readonly #vm: KvmFd;
  readonly #events = new Set<{ close(): void }>();

  constructor(vm: KvmFd) {
    this.#vm = vm;
  }

  /**
   * Watches a write.
   * @param onWrite called on this thread's event loop
   * @returns undefined when the kernel cannot: it has no more to give, or the place is taken
   */
  open(place: NotifyPlace, onWrite: () => void): Notifier | undefined {
    const { native } = this.#vm;
    const event = native.watchEvent(() => {
      this.received++;
      onWrite();
    });
    if (typeof event === 'number') return undefined;
    if (this.#assign(event.fd, place, 0) < 0) {
      event.close();
      return undefined;
    }
    this.#events.add(event);
    return {
      take: () => {
        if (!this.#events.has(event) || native.eventfdRead(event.fd) <= 0) return false;
        this.received++;
        return true;
      },
      close: () => {
        if (!this.#events.delete(event)) return;
        this.#assign(event.fd, place, abi.KVM_IOEVENTFD_FLAG_DEASSIGN);
        event.close();
      },
    };
  }

  #assign(fd: number, { space, address, size, value }: NotifyPlace, flags: number): number {
    return this.#vm.tryIoctl(
      abi.KVM_IOEVENTFD,
      abi.kvm_ioeventfd.encode({
        fd,
        addr: address,
        len: size ?? 0,
        datamatch: BigInt(value ?? 0),
        flags:
          flags |
          (space === 'pio' ? abi.KVM_IOEVENTFD_FLAG_PIO : 0) |
          (value === undefined ? 0 : abi.KVM_IOEVENTFD_FLAG_DATAMATCH),
      }),
    );
  }

  /** Gives all descriptors back. The VM ends as well, and with it what is left there. */
  close(): void {
    for (const event of this.#events) event.close();
    this.#events.clear();
  }
}
