/**
 * SYSCALL on a software KVM that runs user mode on the processor but does not finish the instruction: RIP, RCX, R11 and
 * RFLAGS are loaded, CS, SS and CPL stay at user level, and fetching the kernel's entry point page-faults.
 *
 * The repair waits at the guest's page-fault handler with a hardware breakpoint of the host's (KVM_SET_GUEST_DEBUG). A
 * fault that is a SYSCALL in disguise is taken back: the frame is dropped and the vCPU put where the instruction should
 * have left it (SDM vol. 2, SYSCALL). Any other fault goes on with a single step over the breakpoint. The guest's
 * memory is not touched. It is armed when the guest writes LSTAR, which an MSR filter reports.
 */
import * as abi from '../kvm/abi/index.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { translate } from '../memory/page-walk.ts';
import { FLAT_CODE_64, FLAT_DATA, segment } from '../memory/segments.ts';
import type { EngineVcpu } from './engine.ts';
import { MSR } from './msrs.ts';
import type { Regs, Sregs } from './state.ts';

/** The MSR whose writes must be reported. */
export const REPAIR_MSR = MSR.IA32_LSTAR;

const VECTOR_DB = 1;
const PAGE_FAULT = 14n;
const GATE_SIZE = 16n;
/**
 * Page-fault error code: user mode (SDM vol. 3, 4.7). That it was an instruction fetch is only told to guests that
 * enable NX or SMEP; a fault at RIP = LSTAR in user mode can be nothing else.
 */
const PF_USER = 4n;
const RFLAGS_RF = 1n << 16n;
/** Flags a user program can set by itself; R11 must not bring others back through SYSRET. */
const USER_FLAGS = 0x0024_4fd5n;
const RFLAGS_FIXED_AND_IF = 0x202n;
/** SYSCALL's opcode, 0F 05. */
const SYSCALL_BYTES = 0x050fn;
const DR7_EXECUTE_0 = 0x402n;
const NO_BREAKPOINT = 0x400n;

/** Repairs SYSCALL for one vCPU. */
export class SyscallRepair {
  readonly #vcpu: EngineVcpu;
  readonly #memory: GuestMemory;
  #lstar = 0n;
  #handler = 0n;
  #stepping = false;
  /** System calls repaired so far. */
  count = 0;

  constructor(vcpu: EngineVcpu, memory: GuestMemory) {
    this.#vcpu = vcpu;
    this.#memory = memory;
  }

  /**
   * The guest writes LSTAR: carries the write out and waits at its page-fault handler.
   * @returns false when the value is no address, and the guest is to get #GP
   */
  setLstar(value: bigint): boolean {
    try {
      this.#vcpu.set('msrs', [{ index: REPAIR_MSR, data: value }]);
    } catch {
      return false;
    }
    this.#lstar = value;
    this.#stepping = false;
    this.#handler = this.#pageFaultHandler();
    if (this.#handler === 0n) this.#debug(0, NO_BREAKPOINT);
    else this.#wait();
    return true;
  }

  /**
   * A debug exit.
   * @param dr6 what DR6 would hold
   * @returns false when the repair has nothing to do with it
   */
  onDebug(pc: bigint, dr6: bigint): boolean {
    if (this.#stepping) {
      this.#stepping = false;
      this.#wait();
      return true;
    }
    if (this.#handler === 0n) return false;
    if (pc !== this.#handler) {
      // While the host debugs, the guest's own debug exceptions come here as well.
      this.#deliver(dr6);
      return true;
    }
    const regs = this.#vcpu.get('regs');
    const sregs = this.#vcpu.get('sregs');
    if (!this.#isSyscall(regs, sregs)) {
      this.#stepping = true;
      this.#debug(abi.KVM_GUESTDBG_ENABLE | abi.KVM_GUESTDBG_SINGLESTEP, NO_BREAKPOINT);
      return true;
    }
    this.#complete(regs, sregs);
    this.count++;
    return true;
  }

  /** The frame on the stack says: a fault at LSTAR from user mode, right behind a SYSCALL instruction. */
  #isSyscall(regs: Regs, sregs: Sregs): boolean {
    const [error, rip, cs] = [0n, 8n, 16n].map((offset) => this.#read(sregs, regs.rsp + offset));
    if (error === undefined || (error & PF_USER) === 0n) return false;
    if (rip !== this.#lstar || ((cs ?? 0n) & 3n) !== 3n) return false;
    const opcode = this.#read(sregs, regs.rcx - 2n, 2);
    return opcode === SYSCALL_BYTES;
  }

  #complete(regs: Regs, sregs: Sregs): void {
    const rflags = this.#read(sregs, regs.rsp + 24n) ?? 2n;
    const rsp = this.#read(sregs, regs.rsp + 32n) ?? 0n;
    const [{ data: star }] = this.#vcpu.getMsrs([MSR.IA32_STAR]);
    const selector = Number((star >> 32n) & 0xfffcn);
    this.#vcpu.set('sregs', {
      ...sregs,
      cs: segment(FLAT_CODE_64, selector),
      ss: segment(FLAT_DATA, selector + 8),
    });
    this.#vcpu.set('regs', {
      ...regs,
      rip: this.#lstar,
      rsp,
      rflags: rflags & ~RFLAGS_RF,
      r11: (regs.r11 & USER_FLAGS) | RFLAGS_FIXED_AND_IF,
    });
  }

  #deliver(dr6: bigint): void {
    this.#vcpu.set('debugregs', { ...this.#vcpu.get('debugregs'), dr6 });
    const exception = { injected: 1, nr: VECTOR_DB, has_error_code: 0, pending: 0, error_code: 0 };
    this.#vcpu.set('events', { ...this.#vcpu.get('events'), exception });
  }

  #wait(): void {
    this.#debug(abi.KVM_GUESTDBG_ENABLE | abi.KVM_GUESTDBG_USE_HW_BP, DR7_EXECUTE_0);
  }

  #debug(control: number, dr7: bigint): void {
    this.#vcpu.setGuestDebug({ control, debugregs: { db: [this.#handler, 0n, 0n, 0n], dr7 } });
  }

  /** The handler in the IDT's gate (SDM vol. 3, 6.14.1), or 0 when it cannot be read. */
  #pageFaultHandler(): bigint {
    const sregs = this.#vcpu.get('sregs');
    const gate = sregs.idt.base + PAGE_FAULT * GATE_SIZE;
    const low = this.#read(sregs, gate);
    const high = this.#read(sregs, gate + 8n, 4);
    if (low === undefined || high === undefined) return 0n;
    return (low & 0xffffn) | ((low >> 32n) & 0xffff_0000n) | (high << 32n);
  }

  #read(sregs: Sregs, linear: bigint, size = 8): bigint | undefined {
    let value = 0n;
    for (let i = 0; i < size; i++) {
      const walk = translate(this.#memory, sregs.cr3, BigInt.asUintN(64, linear + BigInt(i)));
      if (!walk.ok || !this.#memory.contains(walk.physical, 1)) return undefined;
      value |= BigInt(this.#memory.readU8(walk.physical)) << BigInt(8 * i);
    }
    return value;
  }
}
