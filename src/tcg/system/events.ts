/**
 * What waits to be delivered between two instructions: NMIs, events that a saved state brings along, and the interrupt
 * shadow; get and set in the form of struct kvm_vcpu_events (KVM api.rst 4.31).
 */
import type { VcpuEvents } from '../../vcpu/state.ts';
import type { Cpu } from '../cpu.ts';
import type { CpuState } from '../cpu-state.ts';
import { S } from '../layout.ts';
import type { EventKind } from './delivery.ts';
import { hasErrorCode } from './fault.ts';

const NMI_VECTOR = 2;
const NONE = (1n << 64n) - 1n;
/** Bits of the shadow field (KVM_X86_SHADOW_INT_*). */
export const SHADOW = { MOV_SS: 1, STI: 2 } as const;
/** KVM_VCPUEVENT_VALID_*: which optional fields of the struct count. */
const VALID = { NMI_PENDING: 1, SIPI_VECTOR: 2, SHADOW: 4, TRIPLE_FAULT: 0x20 } as const;

/** An event that is delivered before the next instruction, whatever the flags say. */
export interface InjectedEvent {
  readonly vector: number;
  readonly error: number;
  readonly kind: EventKind;
}

/** Events of one vCPU. */
export class Events {
  /** An NMI has come and was not delivered yet. */
  nmiPending = false;
  /** What a restored state was about to deliver. */
  injected: InjectedEvent | undefined;
  /** The next run() ends with a shutdown. */
  tripleFault = false;
  readonly #state: CpuState;

  constructor(state: CpuState) {
    this.#state = state;
  }

  /** An NMI is being handled: others wait for the next IRET (SDM vol. 3A 6.7.1). */
  get nmiMasked(): boolean {
    return this.#state.i32(S.NMI_MASKED) !== 0;
  }
  set nmiMasked(value: boolean) {
    this.#state.setI32(S.NMI_MASKED, value ? 1 : 0);
  }

  /** What began the interrupt shadow at S.SHADOW_RIP: one of SHADOW. */
  get shadowKind(): number {
    return this.#state.i32(S.SHADOW_IS_MOV_SS) === 0 ? SHADOW.STI : SHADOW.MOV_SS;
  }
  set shadowKind(value: number) {
    this.#state.setI32(S.SHADOW_IS_MOV_SS, value === SHADOW.MOV_SS ? 1 : 0);
  }

  /** Whether an NMI could be delivered, but for an interrupt shadow. */
  get nmiWaits(): boolean {
    return this.nmiPending && !this.nmiMasked;
  }

  /** As after INIT or power-on. */
  reset(): void {
    this.nmiPending = false;
    this.nmiMasked = false;
    this.injected = undefined;
    this.tripleFault = false;
  }

  /** Takes the event that has to be delivered next; NMIs only `outside` of an interrupt shadow. */
  take(outside: boolean): InjectedEvent | undefined {
    const { injected } = this;
    if (injected !== undefined) {
      this.injected = undefined;
      return injected;
    }
    if (!this.nmiWaits || !outside) return undefined;
    this.nmiPending = false;
    this.nmiMasked = true;
    return { vector: NMI_VECTOR, error: 0, kind: 'external' };
  }
}

/** The interrupt shadow before the instruction at RIP: 0 or one of SHADOW. */
export function interruptShadow(cpu: Cpu): number {
  const { state, system } = cpu;
  const active =
    state.i32(S.SHADOW_RIP) === state.i32(S.RIP) && state.i32(S.SHADOW_RIP + 4) === state.i32(S.RIP + 4);
  return active ? system.events.shadowKind : 0;
}

/** What is pending, in the struct's form. The SIPI vector and SMM are not this CPU's. */
export function getEvents(cpu: Cpu): VcpuEvents {
  const { events } = cpu.system;
  const { injected } = events;
  const exception = injected?.kind === 'exception' ? injected : undefined;
  const interrupt = injected !== undefined && exception === undefined ? injected : undefined;
  return {
    exception: {
      injected: exception === undefined ? 0 : 1,
      nr: exception?.vector ?? 0,
      has_error_code: exception !== undefined && hasErrorCode(exception.vector) ? 1 : 0,
      pending: 0,
      error_code: exception?.error ?? 0,
    },
    interrupt: {
      injected: interrupt === undefined ? 0 : 1,
      nr: interrupt?.vector ?? 0,
      soft: interrupt?.kind === 'software' ? 1 : 0,
      shadow: interruptShadow(cpu),
    },
    nmi: { injected: 0, pending: events.nmiPending ? 1 : 0, masked: events.nmiMasked ? 1 : 0 },
    sipi_vector: 0,
    flags: VALID.NMI_PENDING | VALID.SHADOW | VALID.TRIPLE_FAULT,
    smi: { smm: 0, pending: 0, smm_inside_nmi: 0, latched_init: 0 },
    triple_fault: { pending: events.tripleFault ? 1 : 0 },
    exception_has_payload: 0,
    exception_payload: 0n,
  };
}

/** Takes over what is pending. To be called after the registers are set: the interrupt shadow is that of RIP. */
export function setEvents(cpu: Cpu, from: VcpuEvents): void {
  const { state, system } = cpu;
  const { events } = system;
  const { exception, interrupt, nmi } = from;
  if (exception.injected || exception.pending) {
    events.injected = {
      vector: exception.nr & 31,
      error: exception.has_error_code ? exception.error_code : 0,
      kind: 'exception',
    };
  } else if (nmi.injected) {
    events.injected = { vector: NMI_VECTOR, error: 0, kind: 'external' };
  } else if (interrupt.injected) {
    events.injected = {
      vector: interrupt.nr & 255,
      error: 0,
      kind: interrupt.soft ? 'software' : 'external',
    };
  } else {
    events.injected = undefined;
  }
  if (from.flags & VALID.NMI_PENDING) events.nmiPending = nmi.pending !== 0;
  events.nmiMasked = nmi.masked !== 0;
  events.tripleFault = (from.flags & VALID.TRIPLE_FAULT) !== 0 && from.triple_fault.pending !== 0;
  if (from.flags & VALID.SHADOW) {
    events.shadowKind = interrupt.shadow & SHADOW.MOV_SS ? SHADOW.MOV_SS : SHADOW.STI;
    state.setU64(S.SHADOW_RIP, interrupt.shadow === 0 ? NONE : state.rip);
  }
}
