/**
 * The run loop of a vCPU: enter the guest, dispatch the exit, until told otherwise. One flat switch over the exit
 * reasons of struct kvm_run (KVM api.rst section 5); both engines report in that layout.
 */
import type { BusClient } from '../devices/bus-client.ts';
import { SPACE } from '../devices/bus-table.ts';
import { ChannelAborted } from '../devices/channel.ts';
import { TsvError, toTsvError } from '../errors.ts';
import * as abi from '../kvm/abi/index.ts';
import { COMMAND, COUNTER, type VcpuControl } from './control.ts';
import type { EngineVcpu, IrqchipMode } from './engine.ts';
import type { ErrorMessage, RunOutcome } from './protocol.ts';

const EINTR = -4;
const EAGAIN = -11;

/** What the run loop needs from its surroundings. */
export interface RunLoopHooks {
  /**
   * Tries to complete the instruction that the engine could not emulate.
   * @returns true when the guest can go on
   * @throws TSV_E_GUEST_INSTRUCTION naming the instruction
   */
  assist(): boolean;
  /** A debug exit at `pc`. @returns true when it has been dealt with and the guest goes on */
  debug(pc: bigint, dr6: bigint): boolean;
  /** The guest writes an MSR that is filtered. @returns true when the write has been carried out */
  writeMsr(index: number, value: bigint): boolean;
  /** A level-triggered interrupt was acknowledged, with the split irqchip. */
  eoi(vector: number): void;
  /** Called for every exit when tracing is on. */
  trace: ((reason: number) => void) | undefined;
}

/** Runs one vCPU. */
export class RunLoop {
  readonly #vcpu: EngineVcpu;
  readonly #bus: BusClient;
  readonly #control: VcpuControl;
  readonly #irqchip: IrqchipMode;
  readonly #hooks: RunLoopHooks;
  readonly #run: DataView;
  readonly #counters: Float64Array;
  /** The last exit's instruction completes on the next entry. */
  #incomplete = false;

  constructor(
    vcpu: EngineVcpu,
    bus: BusClient,
    control: VcpuControl,
    irqchip: IrqchipMode,
    hooks: RunLoopHooks,
  ) {
    this.#vcpu = vcpu;
    this.#bus = bus;
    this.#control = control;
    this.#irqchip = irqchip;
    this.#hooks = hooks;
    this.#run = new DataView(vcpu.run.buffer, vcpu.run.byteOffset, vcpu.run.byteLength);
    this.#counters = control.counters;
  }

  /** Runs until paused, stopped, or the guest does something that ends its run. Never throws. */
  run(): RunOutcome {
    try {
      for (;;) {
        const outcome = this.#step();
        if (outcome !== undefined) return outcome;
      }
    } catch (error) {
      if (error instanceof ChannelAborted) return { kind: 'stopped' };
      return { kind: 'error', error: errorMessage(error) };
    }
  }

  #step(): RunOutcome | undefined {
    const command = this.#control.command;
    if (command === COMMAND.stop) return { kind: 'stopped' };
    if (command === COMMAND.pause && !this.#incomplete) return { kind: 'paused' };
    // With immediate_exit KVM only completes the instruction of the last exit (KVM api.rst 5, immediate_exit).
    if (command === COMMAND.pause) this.#run.setUint8(abi.KVM_RUN_IMMEDIATE_EXIT, 1);
    this.#counters[COUNTER.entries]++;
    const result = this.#vcpu.enter();
    this.#incomplete = false;
    if (result !== 0) {
      if (result !== EINTR && result !== EAGAIN) throw runError(result);
      this.#run.setUint8(abi.KVM_RUN_IMMEDIATE_EXIT, 0);
      this.#counters[COUNTER.interrupted]++;
      return undefined;
    }
    return this.#dispatch(this.#run.getUint32(abi.KVM_RUN_EXIT_REASON, true));
  }

  #dispatch(reason: number): RunOutcome | undefined {
    if (reason < COUNTER.entries) this.#counters[reason]++;
    if (this.#hooks.trace !== undefined) this.#hooks.trace(reason);
    switch (reason) {
      case abi.KVM_EXIT_IO:
        this.#incomplete = true;
        this.#io();
        this.#counters[COUNTER.unclaimed] = this.#bus.unclaimed;
        return undefined;
      case abi.KVM_EXIT_MMIO:
        this.#incomplete = true;
        this.#mmio();
        this.#counters[COUNTER.unclaimed] = this.#bus.unclaimed;
        return undefined;
      case abi.KVM_EXIT_INTR:
      case abi.KVM_EXIT_IRQ_WINDOW_OPEN:
      case abi.KVM_EXIT_SET_TPR:
      case abi.KVM_EXIT_NMI:
        return undefined;
      case abi.KVM_EXIT_HLT:
        // With a local APIC in the engine, HLT exits only when the engine wants to be entered again.
        return this.#irqchip === 'none' ? { kind: 'halted' } : undefined;
      case abi.KVM_EXIT_SHUTDOWN:
        return { kind: 'shutdown' };
      case abi.KVM_EXIT_SYSTEM_EVENT:
        return this.#systemEvent();
      case abi.KVM_EXIT_X86_RDMSR:
      case abi.KVM_EXIT_X86_WRMSR:
        this.#incomplete = true;
        this.#msr(reason === abi.KVM_EXIT_X86_WRMSR);
        return undefined;
      case abi.KVM_EXIT_IOAPIC_EOI:
        // Further ends may wait behind it, which are in no component of the state.
        this.#incomplete = true;
        this.#hooks.eoi(this.#run.getUint8(abi.KVM_RUN_EOI_VECTOR));
        return undefined;
      case abi.KVM_EXIT_DEBUG:
        return this.#debug();
      case abi.KVM_EXIT_INTERNAL_ERROR:
        this.#internalError();
        return undefined;
      case abi.KVM_EXIT_FAIL_ENTRY:
        throw this.#entryError();
      default:
        throw new TsvError(
          'TSV_E_ENGINE',
          `The engine stopped with ${abi.exitReasonName(reason)} (${reason}).`,
          {
            hint: 'This exit is not one that a guest of this machine should cause; please report it with the register dump.',
          },
        );
    }
  }

  #io(): void {
    const run = this.#run;
    const size = run.getUint8(abi.KVM_RUN_IO_SIZE);
    const port = run.getUint16(abi.KVM_RUN_IO_PORT, true);
    const count = run.getUint32(abi.KVM_RUN_IO_COUNT, true);
    let at = Number(run.getBigUint64(abi.KVM_RUN_IO_DATA_OFFSET, true));
    if (run.getUint8(abi.KVM_RUN_IO_DIRECTION) === abi.KVM_EXIT_IO_OUT) {
      for (let i = 0; i < count; i++, at += size)
        this.#bus.write(SPACE.pio, port, size, this.#load(at, size));
    } else {
      for (let i = 0; i < count; i++, at += size)
        this.#store(at, size, this.#bus.read(SPACE.pio, port, size));
    }
  }

  /** MMIO comes in pieces of up to 8 bytes of any length; devices take 1, 2 or 4 at a time. */
  #mmio(): void {
    const run = this.#run;
    let address = Number(run.getBigUint64(abi.KVM_RUN_MMIO_PHYS_ADDR, true));
    const end = address + run.getUint32(abi.KVM_RUN_MMIO_LEN, true);
    const isWrite = run.getUint8(abi.KVM_RUN_MMIO_IS_WRITE) !== 0;
    let at: number = abi.KVM_RUN_MMIO_DATA;
    while (address < end) {
      const left = end - address;
      const size = left >= 4 ? 4 : left >= 2 ? 2 : 1;
      if (isWrite) this.#bus.write(SPACE.mmio, address, size, this.#load(at, size));
      else this.#store(at, size, this.#bus.read(SPACE.mmio, address, size));
      address += size;
      at += size;
    }
  }

  #load(at: number, size: number): number {
    if (size === 1) return this.#run.getUint8(at);
    return size === 2 ? this.#run.getUint16(at, true) : this.#run.getUint32(at, true);
  }

  #store(at: number, size: number, value: number): void {
    if (size === 1) this.#run.setUint8(at, value);
    else if (size === 2) this.#run.setUint16(at, value, true);
    else this.#run.setUint32(at, value, true);
  }

  #debug(): RunOutcome | undefined {
    const pc = this.#run.getBigUint64(abi.KVM_RUN_DEBUG_PC, true);
    const dr6 = this.#run.getBigUint64(abi.KVM_RUN_DEBUG_DR6, true);
    if (this.#hooks.debug(pc, dr6)) return undefined;
    return {
      kind: 'debug',
      exception: this.#run.getUint32(abi.KVM_RUN_DEBUG_EXCEPTION, true),
      pc,
      dr6,
      dr7: this.#run.getBigUint64(abi.KVM_RUN_DEBUG_DR7, true),
    };
  }

  /** An MSR that nobody carries out here gives the guest #GP, as from a CPU without it. */
  #msr(isWrite: boolean): void {
    const index = this.#run.getUint32(abi.KVM_RUN_MSR_INDEX, true);
    const done = isWrite && this.#hooks.writeMsr(index, this.#run.getBigUint64(abi.KVM_RUN_MSR_DATA, true));
    this.#run.setUint8(abi.KVM_RUN_MSR_ERROR, done ? 0 : 1);
  }

  #systemEvent(): RunOutcome {
    const run = this.#run;
    const ndata = Math.min(run.getUint32(abi.KVM_RUN_SYSTEM_EVENT_NDATA, true), 16);
    return {
      kind: 'system-event',
      event: run.getUint32(abi.KVM_RUN_SYSTEM_EVENT_TYPE, true),
      data: Array.from({ length: ndata }, (_, i) =>
        run.getBigUint64(abi.KVM_RUN_SYSTEM_EVENT_DATA + i * 8, true),
      ),
    };
  }

  #internalError(): void {
    const suberror = this.#run.getUint32(abi.KVM_RUN_INTERNAL_SUBERROR, true);
    if (suberror === abi.KVM_INTERNAL_ERROR_EMULATION && this.#hooks.assist()) {
      this.#counters[COUNTER.assisted]++;
      return;
    }
    const ndata = Math.min(this.#run.getUint32(abi.KVM_RUN_INTERNAL_NDATA, true), 16);
    const data = Array.from({ length: ndata }, (_, i) =>
      this.#run.getBigUint64(abi.KVM_RUN_INTERNAL_DATA + i * 8, true).toString(16),
    );
    throw new TsvError(
      'TSV_E_ENGINE',
      `KVM reports internal error ${suberror} (data: ${data.join(' ') || 'none'}).`,
      {
        hint: 'The register dump shows where; another CPU model (--cpu) may keep the guest away from it.',
      },
    );
  }

  #entryError(): TsvError {
    const reason = this.#run.getBigUint64(abi.KVM_RUN_FAIL_ENTRY_HARDWARE_ENTRY_FAILURE_REASON, true);
    return new TsvError(
      'TSV_E_GUEST_ENTRY',
      `The processor refused to enter the guest (reason 0x${reason.toString(16)}).`,
      {
        hint: 'The register state is not one that a processor can be in; compare it with the SDM vol. 3, 27.3.',
      },
    );
  }
}

function runError(result: number): TsvError {
  return new TsvError('TSV_E_ENGINE', `KVM_RUN failed with errno ${-result}.`, {
    hint: 'EFAULT (14): guest RAM is gone or not writable; ENOMEM (12): the host is short of memory.',
  });
}

/** Makes an error fit for a message to another thread. */
export function errorMessage(error: unknown): ErrorMessage {
  const tsv = toTsvError(
    error,
    'TSV_E_INTERNAL',
    error instanceof Error ? error.message : String(error),
    'This is a defect of tsvisor: please report it with TSVISOR_DEBUG=1.',
  );
  return { code: tsv.code, message: tsv.message, hint: tsv.hint, stack: tsv.stack };
}
