/**
 * KVM's in-kernel interrupt controllers as an oracle: a real-mode guest with flat segments carries out one access at a
 * time, and the state of all controllers is read between them.
 */
import {
  APIC,
  APIC_BASE_MSR,
  APIC_DEFAULT_PHYS_BASE,
  X2APIC_ENABLE,
} from '../../../src/devices/irqchip/apic-registers.ts';
import * as abi from '../../../src/kvm/abi/index.ts';
import { TestVm } from '../../support/kvm.ts';

const OP = 0x2000;
const STUBS = 0x3000;
const STUB_SIZE = 8;
const CODE = 0x1000;
const EXIT_PORT = 0xf4;
const NO_VECTOR = 0xffff;

/** What the guest can be asked to do. */
export const KIND = { outb: 0, inb: 1, write: 2, read: 3, window: 4, wrmsr: 5, rdmsr: 6 } as const;

/** Vector of #GP, which the guest steps over. */
export const GENERAL_PROTECTION = 13;

// Every vector's stub pushes its number and comes to `isr`, which notes it and returns with interrupts disabled; after
// #GP it returns behind the two bytes of RDMSR or WRMSR.
const GUEST = `
  jmp main
  .org 8
isr:
  push bp
  mov bp, sp
  push ax
  mov ax, [bp + 2]
  mov [${OP} + 16], ax
  and word ptr [bp + 8], 0xfdff
  cmp ax, ${GENERAL_PROTECTION}
  jne 1f
  add word ptr [bp + 4], 2
1:
  pop ax
  pop bp
  add sp, 2
  iret
main:
  out ${EXIT_PORT}, al
  mov eax, [${OP}]
  mov ebx, [${OP} + 4]
  mov ecx, ebx
  mov edx, ebx
  cmp eax, ${KIND.outb}
  je outb
  cmp eax, ${KIND.inb}
  je inb
  cmp eax, ${KIND.write}
  je write
  cmp eax, ${KIND.read}
  je read
  cmp eax, ${KIND.window}
  je window
  cmp eax, ${KIND.wrmsr}
  je wrmsr
  rdmsr
  mov [${OP} + 12], eax
  mov [${OP} + 20], edx
  jmp main
outb:
  mov eax, [${OP} + 8]
  out dx, al
  jmp main
inb:
  xor eax, eax
  in al, dx
  mov [${OP} + 12], eax
  jmp main
write:
  mov eax, [${OP} + 8]
  mov [ebx], eax
  jmp main
read:
  mov eax, [ebx]
  mov [${OP} + 12], eax
  jmp main
window:
  sti
  nop
  out ${EXIT_PORT}, al
  nop
  nop
  cli
  jmp main
wrmsr:
  mov eax, [${OP} + 8]
  mov edx, [${OP} + 20]
  wrmsr
  jmp main
`;

/** State of all interrupt controllers. */
export interface IrqchipState {
  pic: [Uint8Array, Uint8Array];
  ioApic: Uint8Array;
  lapic: Uint8Array;
}

/** A VM whose only work is to be compared with. Dispose of it. */
export class KvmIrqchip implements Disposable {
  readonly #test = new TestVm({ irqchip: 'kernel' });
  readonly #op: DataView;

  constructor() {
    this.#test.load(GUEST);
    const { memory, vcpu } = this.#test;
    const sregs = vcpu.get('sregs');
    for (const segment of [sregs.ds, sregs.es, sregs.ss])
      Object.assign(segment, { limit: 0xffff_ffff, g: 1 });
    vcpu.set('sregs', sregs);
    const low = memory.bytes(0, 0x10000);
    const view = new DataView(low.buffer, low.byteOffset, low.byteLength);
    for (let vector = 0; vector < 256; vector++) {
      const stub = STUBS + vector * STUB_SIZE;
      view.setUint32(vector * 4, stub, true);
      // push imm16; jmp near isr
      view.setUint8(stub, 0x68);
      view.setUint16(stub + 1, vector, true);
      view.setUint8(stub + 3, 0xe9);
      view.setInt16(stub + 4, CODE + 8 - (stub + 6), true);
    }
    this.#op = new DataView(low.buffer, low.byteOffset + OP, 32);
    this.#enter();
  }

  /** Has the guest carry out one access. @returns what it read, and the vector of an interrupt or #GP that came, or -1 */
  perform(kind: number, address = 0, value = 0n): { value: bigint; vector: number } {
    const op = this.#op;
    op.setUint32(0, kind, true);
    op.setUint32(4, address, true);
    op.setUint32(8, Number(value & 0xffff_ffffn), true);
    op.setUint32(12, 0, true);
    op.setUint32(16, NO_VECTOR, true);
    op.setUint32(20, Number(value >> 32n), true);
    this.#enter();
    if (kind === KIND.window) {
      const { vcpu } = this.#test;
      vcpu.set('regs', vcpu.get('regs'));
      this.#enter();
    }
    const vector = op.getUint16(16, true);
    const high = kind === KIND.rdmsr ? op.getUint32(20, true) : 0;
    return {
      value: (BigInt(high) << 32n) | BigInt(op.getUint32(12, true)),
      vector: vector === NO_VECTOR ? -1 : vector,
    };
  }

  #enter(): void {
    const { run } = this.#test;
    const reason = this.#test.enter();
    if (reason !== abi.KVM_EXIT_IO || run.getUint16(abi.KVM_RUN_IO_PORT, true) !== EXIT_PORT) {
      throw new Error(`the guest stopped with exit reason ${reason} instead of asking for work`);
    }
  }

  setLine(gsi: number, level: 0 | 1): void {
    this.#test.vm.setIrqLine(gsi, level);
  }

  /** @returns whether a local APIC took it */
  signalMsi(address: number, data: number): boolean {
    const msi = { address_lo: address, address_hi: 0, data, flags: 0, devid: 0 };
    return this.#test.vm.fd.tryIoctl(abi.KVM_SIGNAL_MSI, abi.kvm_msi.encode(msi)) > 0;
  }

  get apicBase(): bigint {
    return this.#test.vcpu.get('sregs').apic_base;
  }
  set apicBase(value: bigint) {
    this.#test.vcpu.set('sregs', { ...this.#test.vcpu.get('sregs'), apic_base: value });
  }

  /** Enables interrupts for a moment. @returns the vector taken, or -1 */
  window(): number {
    return this.perform(KIND.window).vector;
  }

  /**
   * Like {@link window} for the local APIC, by editing its state: the software KVM of some hosts ends an interrupt itself as
   * soon as it has delivered it.
   */
  acknowledge(): number {
    const page = this.#lapicWithPriority();
    const view = new DataView(page.buffer, page.byteOffset);
    const bit = (set: number, vector: number) => {
      const at = set + (vector >> 5) * 16;
      return { at, bits: view.getUint32(at, true), mask: 1 << (vector & 31) };
    };
    let vector = 255;
    while (vector >= 0) {
      const { bits, mask } = bit(APIC.IRR, vector);
      if ((bits & mask) !== 0) break;
      vector--;
    }
    if (vector >> 4 <= view.getUint32(APIC.PROCPRI, true) >> 4) return -1;
    this.#move(page, vector);
    return vector;
  }

  /** {@link window} for the local APIC's interrupts, with the vector left in service. */
  windowOfApic(): number {
    const vector = this.window();
    if (vector >= 0) this.#move(this.#test.vcpu.get('lapic'), vector);
    return vector;
  }

  /** Loads a local APIC's page with a vector moved from the request to the in-service register. */
  #move(page: Uint8Array, vector: number): void {
    const view = new DataView(page.buffer, page.byteOffset);
    const at = (vector >> 5) * 16;
    const bit = 1 << (vector & 31);
    view.setUint32(APIC.IRR + at, view.getUint32(APIC.IRR + at, true) & ~bit, true);
    view.setUint32(APIC.ISR + at, view.getUint32(APIC.ISR + at, true) | bit, true);
    this.#test.vcpu.set('lapic', page);
    this.#lapicWithPriority();
  }

  /** KVM works the priority that belongs to a loaded page out when the register is read next. */
  #lapicWithPriority(): Uint8Array {
    const isX2apic = (this.apicBase & X2APIC_ENABLE) !== 0n;
    if (isX2apic) this.perform(KIND.rdmsr, APIC_BASE_MSR + APIC.PROCPRI / 16);
    else this.perform(KIND.read, APIC_DEFAULT_PHYS_BASE + APIC.PROCPRI);
    return this.#test.vcpu.get('lapic');
  }

  load(state: IrqchipState): void {
    for (let gsi = 0; gsi < 24; gsi++) this.setLine(gsi, 0);
    const { fd } = this.#test.vm;
    // The slave first: each of these works the cascade anew, and the master would remember the old slave's request.
    for (const [chip_id, bytes] of [
      [abi.KVM_IRQCHIP_PIC_SLAVE, state.pic[1]],
      [abi.KVM_IRQCHIP_PIC_MASTER, state.pic[0]],
      [abi.KVM_IRQCHIP_IOAPIC, state.ioApic],
    ] as const) {
      const chip = new Uint8Array(512);
      chip.set(bytes);
      fd.ioctl(abi.KVM_SET_IRQCHIP, abi.kvm_irqchip.encode({ chip_id, chip }));
    }
    this.#test.vcpu.set('lapic', state.lapic);
  }

  get state(): IrqchipState {
    const chip = (chip_id: number, size: number) => {
      const bytes = abi.kvm_irqchip.encode({ chip_id, chip: new Uint8Array(512) });
      this.#test.vm.fd.ioctl(abi.KVM_GET_IRQCHIP, bytes);
      return abi.kvm_irqchip.decode(bytes).chip.slice(0, size);
    };
    return {
      pic: [
        chip(abi.KVM_IRQCHIP_PIC_MASTER, abi.kvm_pic_state.size),
        chip(abi.KVM_IRQCHIP_PIC_SLAVE, abi.kvm_pic_state.size),
      ],
      ioApic: chip(abi.KVM_IRQCHIP_IOAPIC, abi.kvm_ioapic_state.size),
      lapic: this.#test.vcpu.get('lapic'),
    };
  }

  [Symbol.dispose](): void {
    this.#test[Symbol.dispose]();
  }
}
