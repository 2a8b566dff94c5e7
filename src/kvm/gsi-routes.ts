/** A VM's GSI routing table, which the kernel only takes as a whole (KVM api.rst, KVM_SET_GSI_ROUTING): its one owner. */
import type { MsiMessage } from '../vcpu/engine.ts';
import * as abi from './abi/index.ts';
import type { KvmFd } from './fd.ts';

/**
 * GSIs as a PC wires them: 0-15 to both PICs and to the I/O APIC's pin of the same number, except that the PIT's GSI 0 is
 * on pin 2, as the MADT's interrupt source override says; 16-23 to the I/O APIC alone.
 */
export const PC_ROUTES: readonly abi.IrqRoutingEntry[] = [
  ...Array.from({ length: 16 }, (_, gsi) =>
    gsi < 8
      ? abi.irqchipRoute(gsi, abi.KVM_IRQCHIP_PIC_MASTER, gsi)
      : abi.irqchipRoute(gsi, abi.KVM_IRQCHIP_PIC_SLAVE, gsi - 8),
  ),
  abi.irqchipRoute(0, abi.KVM_IRQCHIP_IOAPIC, 2),
  ...Array.from({ length: abi.KVM_IOAPIC_NUM_PINS }, (_, gsi) => gsi)
    .filter((gsi) => gsi !== 0 && gsi !== 2)
    .map((gsi) => abi.irqchipRoute(gsi, abi.KVM_IRQCHIP_IOAPIC, gsi)),
];

/** GSIs from here on belong to no pin of an interrupt controller. */
export const FIRST_FREE_GSI = abi.KVM_IOAPIC_NUM_PINS;

/** The table: wires of the board, and GSIs that send a message. */
export class GsiRoutes {
  readonly #vm: KvmFd;
  readonly #wires: readonly abi.IrqRoutingEntry[];
  readonly #messages = new Map<number, abi.IrqRoutingEntry>();

  /** @param wires entries that stay */
  constructor(vm: KvmFd, wires: readonly abi.IrqRoutingEntry[] = []) {
    this.#vm = vm;
    this.#wires = wires;
    if (wires.length > 0) this.#store();
  }

  /**
   * Lets a GSI send a message, instead of another one if it has one.
   * @throws TSV_E_IOCTL; the table is then as it was
   */
  setMessage(gsi: number, { address, data }: MsiMessage): void {
    const before = this.#messages.get(gsi);
    this.#messages.set(gsi, abi.msiRoute(gsi, address % 2 ** 32, Math.floor(address / 2 ** 32), data));
    try {
      this.#store();
    } catch (error) {
      if (before === undefined) this.#messages.delete(gsi);
      else this.#messages.set(gsi, before);
      throw error;
    }
  }

  #store(): void {
    const table = [...this.#wires, ...this.#messages.values()];
    this.#vm.ioctl(abi.KVM_SET_GSI_ROUTING, abi.kvm_irq_routing.encode(table));
  }
}
