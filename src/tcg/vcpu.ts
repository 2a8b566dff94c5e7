/**
 * A vCPU of the tcg engine, in its worker thread: the processor core (cpu.ts), its local APIC and its time, behind the
 * engine seam. Between two runs of the core it takes what time, other vCPUs and devices have brought.
 */
import type { BusClient } from '../devices/bus-client.ts';
import { SPACE } from '../devices/bus-table.ts';
import { readApicPage, writeApicPage } from '../devices/irqchip/apic-access.ts';
import { ApicBus } from '../devices/irqchip/apic-bus.ts';
import { apicMailboxes } from '../devices/irqchip/apic-mailbox.ts';
import { INTERRUPT_CYCLE, TICK_CYCLE } from '../devices/irqchip/interrupt-router.ts';
import { LocalApic } from '../devices/irqchip/local-apic.ts';
import { hostNanoseconds, SharedTime } from '../devices/shared-time.ts';
import { TsvError } from '../errors.ts';
import * as abi from '../kvm/abi/constants.ts';
import { PAGE_SIZE } from '../memory/layout.ts';
import type { EngineVcpu, GuestDebug, IrqchipMode, StateKey, VcpuContext, VcpuPort } from '../vcpu/engine.ts';
import { resetState } from '../vcpu/entry.ts';
import { snapshotMsrs } from '../vcpu/msrs.ts';
import { TCG_TOPICS } from '../vcpu/protocol.ts';
import {
  MP_STATE,
  type MpState,
  type Msr,
  type Translation,
  type VcpuEvents,
  type VcpuState,
} from '../vcpu/state.ts';
import { CoreTrace } from './core-trace.ts';
import { Cpu } from './cpu.ts';
import { featuresOf, SIGNATURE, tcgCpuid } from './cpuid.ts';
import type { DeviceAccess } from './exits.ts';
import { areaBase, attentionWord, RUN, RUN_SIZE, S } from './layout.ts';
import { MemorySlots } from './memory-slots.ts';
import { PHYSICAL_BITS } from './mmu/walk.ts';
import { Pace } from './pace.ts';
import { GuestTsc, VcpuPeripherals } from './peripherals.ts';
import { seededRandom } from './random.ts';
import { RunArea } from './run-area.ts';
import { setRegs, setSregs, translate } from './state-transfer.ts';
import { getEvents, setEvents } from './system/events.ts';
import { ACCESSORS } from './vcpu-state.ts';
import { SAVED_MSRS, type TcgVcpuDetail } from './vm.ts';

const EINTR = 4;
const DEBUG_VECTOR = 1;
/** DR6.BS (SDM vol. 3B 18.2.3). */
const DR6_BS = 0x4000n;
const REASONS = { io: abi.KVM_EXIT_IO, mmio: abi.KVM_EXIT_MMIO } as const;

/** An exit whose answer the next entry takes. */
type Waiting = 'nothing' | 'access' | 'interrupt vector';

/** A vCPU. */
export class TcgVcpu implements EngineVcpu {
  readonly run: Uint8Array;
  readonly cpu: Cpu;
  readonly apic: LocalApic;
  mpState: MpState = MP_STATE.RUNNABLE;
  readonly #area: RunArea;
  readonly #irqchip: IrqchipMode;
  readonly #time: SharedTime;
  readonly #peripherals: VcpuPeripherals;
  readonly #pace = new Pace();
  /** Level-triggered vectors whose end the I/O APIC must hear of. */
  readonly #eois: number[] = [];
  #waiting: Waiting = 'nothing';
  /** An interrupt that a machine without interrupt controllers injects. */
  #injected = -1;
  readonly #trace: CoreTrace | undefined;

  constructor({ index, detail }: VcpuPort, { tracer, log }: VcpuContext) {
    const { memory, regions, cpus, apicIds, mailboxes, time, irqchip, seed, slots, modules } =
      detail as TcgVcpuDetail;
    this.run = new Uint8Array(memory.buffer, areaBase(index) + RUN, RUN_SIZE);
    this.#area = new RunArea(this.run);
    this.#irqchip = irqchip;
    this.#time = new SharedTime(time);
    this.cpu = new Cpu({
      memory,
      regions,
      index,
      vcpus: cpus,
      slots: new MemorySlots(slots),
      modules,
      hasFeature: featuresOf(tcgCpuid()),
    });
    const words = new Int32Array(memory.buffer);
    const bus = new ApicBus(
      apicMailboxes(cpus, {
        shared: mailboxes,
        wake: (i) => ({ words, index: attentionWord(i) }),
      }),
    );
    const tsc = new GuestTsc(this.#time);
    this.apic = new LocalApic({
      index,
      id: apicIds[index],
      bus,
      onEoi: (vector) => this.#eois.push(vector),
      now: () => this.#time.now(),
      tsc,
      physicalBits: PHYSICAL_BITS,
    });
    this.#peripherals = new VcpuPeripherals(this.cpu, this.apic, tsc, this.#time);
    if (seed !== undefined) this.#peripherals.random = seededRandom(seed, index);
    this.cpu.system.registers.peripherals = this.#peripherals;
    this.cpu.onUnimplemented = (bytes, rip) => {
      const text = Buffer.from(bytes).toString('hex');
      log('warn', `vCPU ${index}: no such instruction at 0x${rip.toString(16)}: ${text}`);
    };
    this.cpu.system.notices.listener = (message) => log('warn', `vCPU ${index}: ${message}`);
    if (TCG_TOPICS.some((topic) => tracer.has(topic))) this.#trace = new CoreTrace(this.cpu, tracer);
  }

  enter(): number {
    const { cpu, apic, mailbox } = this;
    if (this.#waiting !== 'nothing' && !this.#takeAnswer()) return this.#exit(abi.KVM_EXIT_SHUTDOWN);
    for (;;) {
      // An instruction whose device access is answered completes before anything else happens.
      if (cpu.log.pending === undefined) {
        mailbox.takeWake();
        // An EOI belongs to the instruction that is complete: the I/O APIC must hear of it before anything stands still.
        if (this.#eois.length > 0) return this.#eoiExit(this.#eois.shift()!);
        if (this.#area.immediateExit) return -EINTR;
        apic.poll();
        const result = this.#attend();
        if (result === 'again') continue;
        if (result !== 'run') return result;
      }
      switch (this.#runCore()) {
        case 'device':
          if (this.#accessApic(cpu.log.pending!)) break;
          this.#waiting = 'access';
          return this.#access(cpu.log.pending!);
        case 'halt':
          if (this.#irqchip === 'none') return this.#exit(abi.KVM_EXIT_HLT);
          this.mpState = MP_STATE.HALTED;
          break;
        case 'shutdown':
          return this.#exit(abi.KVM_EXIT_SHUTDOWN);
        case 'pause':
          if (cpu.system.debugStep) return this.#debugExit();
      }
    }
  }

  get mailbox(): LocalApic['mailbox'] {
    return this.apic.mailbox;
  }

  #runCore(): ReturnType<Cpu['run']> {
    const trace = this.#trace;
    if (trace === undefined) return this.#time.isVirtual ? this.#runVirtual() : this.#runTimed();
    const { system } = this.cpu;
    const step = system.debugStep;
    system.debugStep = step || trace.instructions;
    trace.before();
    const outcome = this.#time.isVirtual ? this.#runVirtual() : this.#runTimed();
    trace.after();
    system.debugStep = step;
    return outcome;
  }

  /** Runs until the local APIC's timer is due, or as long as it may be unanswered. */
  #runTimed(): ReturnType<Cpu['run']> {
    const { cpu } = this;
    const budget = this.#trace?.blocks ? 0 : this.#pace.budget(this.apic.nextDeadline() - this.#time.now());
    const start = hostNanoseconds();
    const outcome = cpu.run(budget);
    this.#pace.took(budget - cpu.state.i32(S.BUDGET), hostNanoseconds() - start);
    return outcome;
  }

  /** Runs on with a virtual clock: an instruction takes a nanosecond, nothing else takes time. */
  #runVirtual(): ReturnType<Cpu['run']> {
    const { cpu } = this;
    const now = this.#time.now();
    const until = Math.min(this.apic.nextDeadline(), this.#time.deadline) - now;
    const retired = cpu.state.u64(S.RETIRED);
    const outcome = cpu.run(this.#trace?.blocks ? 0 : Math.max(0, Math.min(until, VIRTUAL_SLICE)));
    this.#time.advance(now + Number(cpu.state.u64(S.RETIRED) - retired));
    return outcome;
  }

  /** Takes what has come since the last look. @returns what to do: run the core, look again, or leave */
  #attend(): 'run' | 'again' | number {
    const { apic, cpu } = this;
    if (this.#time.now() >= this.#time.deadline) return this.#access(TICK);
    this.#takeRequests();
    if (this.#waitsForSipi) return this.#sleep();
    const { system, state } = cpu;
    const { events } = system;
    const interrupt = this.#injected >= 0 || apic.externalInterrupt() || apic.pendingVector() >= 0;
    if (this.mpState === MP_STATE.HALTED) {
      const awake = events.nmiWaits || (interrupt && (state.eflags & FLAG_IF) !== 0);
      if (!awake) return this.#sleep();
      this.mpState = MP_STATE.RUNNABLE;
    }
    state.setI32(S.IRQ_WAITING, interrupt ? 1 : 0);
    // What the core is about to deliver goes first.
    if (events.nmiWaits || events.injected !== undefined) return 'run';
    return interrupt && system.acceptsInterrupt ? this.#interrupt() : 'run';
  }

  /** Takes over what other threads have requested beside interrupts. */
  #takeRequests(): void {
    const { mailbox } = this;
    if (mailbox.takeInit()) this.#init();
    const sipi = mailbox.takeSipi();
    if (sipi >= 0 && this.#waitsForSipi) this.#startUp(sipi);
    if (mailbox.takeNmi()) this.cpu.system.events.nmiPending = true;
  }

  get #waitsForSipi(): boolean {
    return this.mpState === MP_STATE.UNINITIALIZED || this.mpState === MP_STATE.INIT_RECEIVED;
  }

  /** Delivers the interrupt that waits; that of the PIC is asked for on the bus first. */
  #interrupt(): 'run' | 'again' | number {
    const { apic } = this;
    if (this.#injected < 0 && apic.externalInterrupt()) {
      this.#waiting = 'interrupt vector';
      return this.#access({ ...INTA_CYCLE, data: new Uint8Array(1) });
    }
    let vector = this.#injected;
    this.#injected = -1;
    if (vector < 0) vector = apic.acknowledge();
    return this.#deliver(vector) ? 'again' : this.#exit(abi.KVM_EXIT_SHUTDOWN);
  }

  #deliver(vector: number): boolean {
    return this.cpu.system.raise(vector, 0, 'external');
  }

  /** Takes over what the last exit was for. @returns false after a triple fault */
  #takeAnswer(): boolean {
    const waiting = this.#waiting;
    this.#waiting = 'nothing';
    if (waiting === 'access') {
      this.#area.answer(this.cpu.log.pending!);
      return true;
    }
    const vector = new Uint8Array(1);
    this.#area.answer({ ...INTA_CYCLE, data: vector });
    return this.#deliver(vector[0]);
  }

  /** Waits for other threads or the timer, without using the host's processor. */
  #sleep(): 'again' {
    const due = Math.min(this.apic.nextDeadline(), this.#time.deadline);
    if (this.#time.isVirtual && due !== Number.POSITIVE_INFINITY) {
      this.#time.advance(due);
      return 'again';
    }
    this.mailbox.sleep(this.#time.until(this.apic.nextDeadline()));
    return 'again';
  }

  #access(access: DeviceAccess): 0 {
    this.#area.access(REASONS, access);
    return 0;
  }

  #exit(reason: number): 0 {
    this.#area.exit(reason);
    return 0;
  }

  #eoiExit(vector: number): 0 {
    if (this.#irqchip === 'split') this.#area.eoi(abi.KVM_EXIT_IOAPIC_EOI, vector);
    else this.#access({ ...EOI_CYCLE, data: Uint8Array.of(vector, 0, 0, 0) });
    return 0;
  }

  #debugExit(): 0 {
    const { state } = this.cpu;
    this.#area.debug(
      abi.KVM_EXIT_DEBUG,
      DEBUG_VECTOR,
      state.rip,
      state.u64(S.DR + 6 * 8) | DR6_BS,
      state.u64(S.DR + 7 * 8),
    );
    return 0;
  }

  /** An access to the local APIC's page does not leave the thread. @returns false when it is somebody else's */
  #accessApic({ kind, address, write, data }: DeviceAccess): boolean {
    const { apic } = this;
    const offset = address - apic.base;
    if (kind !== 'mmio' || offset < 0 || offset >= PAGE_SIZE) return false;
    if (this.#irqchip === 'none' || !apic.isEnabled || apic.isX2apic) return false;
    const view = new DataView(data.buffer, data.byteOffset, data.length);
    if (data.length === 4) {
      if (write) writeApicPage(apic, offset, 4, view.getUint32(0, true));
      else view.setUint32(0, readApicPage(apic, offset, 4), true);
      return true;
    }
    // Other sizes are not defined; bytes read as they are stored and writes do nothing.
    for (let i = 0; i < data.length && !write; i++) data[i] = readApicPage(apic, offset + i, 1);
    return true;
  }

  /** INIT (SDM vol. 3A 10.1.1): registers as after reset; application processors wait for a start-up message. */
  #init(): void {
    const bsp = this.apic.index === 0;
    const { regs, sregs } = resetState({ bsp, signature: SIGNATURE });
    sregs.apic_base = this.apic.apicBase;
    this.apic.init();
    this.cpu.system.events.reset();
    this.cpu.system.debug.reset();
    setSregs(this.cpu, sregs);
    setRegs(this.cpu, regs);
    this.mpState = bsp ? MP_STATE.RUNNABLE : MP_STATE.INIT_RECEIVED;
  }

  /** SIPI (SDM vol. 3A 10.4.4.1): real mode at a page below 1 MiB. */
  #startUp(page: number): void {
    const { regs, sregs } = resetState({ bsp: false, signature: SIGNATURE });
    sregs.apic_base = this.apic.apicBase;
    sregs.cs = { ...sregs.cs, selector: page << 8, base: BigInt(page << 12) };
    regs.rip = 0n;
    setSregs(this.cpu, sregs);
    setRegs(this.cpu, regs);
    this.mpState = MP_STATE.RUNNABLE;
  }

  get<K extends StateKey>(key: K): VcpuState[K] {
    this.#settle();
    return ACCESSORS[key].get(this);
  }

  set<K extends StateKey>(key: K, value: VcpuState[K]): void {
    this.#settle();
    ACCESSORS[key].set(this, value);
  }

  /** Requests that have not been looked at are in no component of the state, so they are taken before one is read or written. */
  #settle(): void {
    if (this.#waiting === 'nothing') this.#takeRequests();
  }

  /** The MSRs that are part of the saved state, in the order to restore them. */
  get savedMsrs(): readonly number[] {
    return snapshotMsrs(SAVED_MSRS);
  }

  getMsrs(indices: readonly number[]): Msr[] {
    const { registers } = this.cpu.system;
    return indices.map((index) => {
      const data = registers.getMsr(index);
      if (data === undefined) throw refusedMsr(index);
      return { index, data };
    });
  }

  /** @throws TSV_E_IOCTL when the MSR does not exist or refuses the value */
  setMsr(index: number, value: bigint): void {
    if (!this.cpu.system.registers.setMsr(index, value)) throw refusedMsr(index);
  }

  translate(linear: bigint): Translation {
    return translate(this.cpu, linear);
  }

  setGuestDebug({ control }: GuestDebug): void {
    const known = abi.KVM_GUESTDBG_ENABLE | abi.KVM_GUESTDBG_SINGLESTEP;
    if ((control & ~known) !== 0) {
      throw new TsvError('TSV_E_ENGINE', 'The tcg engine has no breakpoints for the host.', {
        hint: 'Single-step, or run the machine with --accel kvm.',
      });
    }
    this.cpu.system.debugStep = control === known;
  }

  interrupt(vector: number): void {
    this.#injected = vector;
  }

  nmi(): void {
    this.mailbox.postNmi();
  }

  getEvents(): VcpuEvents {
    const events = getEvents(this.cpu);
    if (this.#injected >= 0) events.interrupt = { ...events.interrupt, injected: 1, nr: this.#injected };
    return events;
  }

  setEvents(events: VcpuEvents): void {
    const { interrupt } = events;
    const waits = interrupt.injected !== 0 && interrupt.soft === 0;
    this.#injected = waits ? interrupt.nr : -1;
    setEvents(this.cpu, waits ? { ...events, interrupt: { ...interrupt, injected: 0 } } : events);
  }

  /** What answers at once does so within an instruction; with a virtual clock nothing happens before its time. */
  attachBus(bus: BusClient): void {
    if (this.#time.isVirtual) return;
    const space = (kind: DeviceAccess['kind']) => (kind === 'port' ? SPACE.pio : SPACE.mmio);
    this.cpu.log.prompt = {
      read: (kind, address, bytes) => bus.readAtOnce(space(kind), address, bytes),
      write: (kind, address, bytes, value) => bus.writeAtOnce(space(kind), address, bytes, value),
    };
  }

  announcePause(): void {
    this.#peripherals.clock.update(true);
  }

  close(): void {}
}

const FLAG_IF = 0x200;
/** Instructions between two looks at a virtual clock, which RDTSC sees stand meanwhile. */
const VIRTUAL_SLICE = 2000;
const TICK = { kind: 'mmio', address: TICK_CYCLE, write: true, data: new Uint8Array(4) } as const;
const INTA_CYCLE = { kind: 'mmio', address: INTERRUPT_CYCLE.INTA, write: false } as const;
const EOI_CYCLE = { kind: 'mmio', address: INTERRUPT_CYCLE.EOI, write: true } as const;

function refusedMsr(index: number): TsvError {
  return new TsvError('TSV_E_IOCTL', `MSR 0x${index.toString(16)} cannot be accessed so.`, {
    hint: 'The CPU does not have it, or it refuses the value.',
  });
}

/** Opens a vCPU in the calling thread. */
export function openVcpu(port: VcpuPort, context: VcpuContext): EngineVcpu {
  return new TcgVcpu(port, context);
}
