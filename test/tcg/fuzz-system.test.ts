/**
 * Hostile guests with the whole system around them: sound or spoilt tables, every mode, debug registers, control
 * registers, NMIs and a local APIC. Whatever they do, the engine neither throws nor writes outside of their memory.
 */
import { describe, expect, it } from 'vitest';
import {
  isApicMsr,
  readApicMsr,
  readApicPage,
  writeApicMsr,
  writeApicPage,
} from '../../src/devices/irqchip/apic-access.ts';
import { ApicBus } from '../../src/devices/irqchip/apic-bus.ts';
import { apicMailboxes } from '../../src/devices/irqchip/apic-mailbox.ts';
import { LocalApic } from '../../src/devices/irqchip/local-apic.ts';
import type { GuestMemory } from '../../src/memory/guest-memory.ts';
import type { DeviceAccess } from '../../src/tcg/exits.ts';
import { PAGE_MAP_SIZE, S } from '../../src/tcg/layout.ts';
import { PHYSICAL_BITS } from '../../src/tcg/mmu/walk.ts';
import { setDebugRegs, setRegs, setSregs, translate } from '../../src/tcg/state-transfer.ts';
import { getEvents, setEvents } from '../../src/tcg/system/events.ts';
import { msrIndices } from '../../src/tcg/system/msrs.ts';
import type { EntryState } from '../../src/vcpu/entry.ts';
import {
  CODE,
  GDT,
  KERNEL_STACK,
  MODES,
  type Mode,
  prepare,
  RAM,
  type Tables,
  TSS,
} from '../fuzz/guest-image.ts';
import { makeCode } from '../fuzz/instructions.ts';
import { budget, Canary, Corpus, hex, patience, Random, unhex } from '../fuzz/support.ts';
import { TestCpu } from './machine.ts';

const SECONDS = 4;
/** Runs of the CPU for an input, and instructions a run. */
const SLICES = 40;
const INSTRUCTIONS = 2000;
const APIC_PAGE = 0xfee0_0000;

interface Input {
  mode: Mode;
  tables: Tables;
  /** Of registers and memory. */
  seed: number;
  code: string;
  /** 32-bit code in long mode. */
  isCompatible?: boolean;
  /** In protected mode: privilege level 1 to 3, or virtual-8086 mode. */
  level?: number;
  /** Control and debug registers are changed as this seed says. */
  twist?: number;
}

/** A CPU whose memory has room behind RAM that nobody may touch. */
class HostileCpu {
  readonly #t = new TestCpu({ ram: RAM, behind: 1 << 20 });
  readonly #canaries: readonly Canary[];
  #apic = this.#makeApic();

  constructor() {
    const { state } = this.#t.cpu;
    const [{ offset, size }] = this.#t.memory.regions;
    const unused = state.bytes.length >>> 12;
    this.#canaries = [
      new Canary(state.bytes.subarray((unused + 3) & ~3, PAGE_MAP_SIZE)),
      new Canary(state.bytes.subarray(offset + size)),
    ];
  }

  get intact(): boolean {
    return this.#canaries.every((canary) => canary.intact);
  }

  #makeApic(): LocalApic {
    const now = () => Number(this.#t.cpu.state.u64(S.RETIRED));
    const apic = new LocalApic({
      index: 0,
      bus: new ApicBus(apicMailboxes(1)),
      onEoi: () => {},
      now,
      tsc: { nsAt: Number },
      physicalBits: PHYSICAL_BITS,
    });
    let tsc = 0n;
    this.#t.cpu.system.registers.peripherals = {
      ...this.#t.cpu.system.registers.peripherals,
      tsc: () => tsc++,
      setTsc: (value) => {
        tsc = value;
      },
      readMsr: (index) => (isApicMsr(index) ? readApicMsr(apic, index) : undefined),
      writeMsr: (index, value) => isApicMsr(index) && writeApicMsr(apic, index, value),
      get cr8() {
        return BigInt(apic.cr8);
      },
      set cr8(value) {
        apic.cr8 = Number(value);
      },
    };
    return apic;
  }

  run(input: Input): void {
    const { cpu, memory } = this.#t;
    const random = new Random(input.seed);
    const entry = prepare(memory, input.mode, input.tables, random);
    memory.write(CODE, unhex(input.code));
    this.#apic = this.#makeApic();
    cpu.blocks.flushAll();
    cpu.log.clear();
    cpu.system.events.reset();
    cpu.system.stepOnce = false;
    cpu.state.setI32(S.FAULT_VECTOR, -1);
    setDebugRegs(cpu, { db: [0n, 0n, 0n, 0n], dr6: 0xffff_0ff0n, dr7: 0x400n, flags: 0n });
    if (input.level !== undefined) moveOut(entry, memory, input.level);
    if (input.isCompatible) entry.sregs.cs = { ...entry.sregs.cs, l: 0, db: 1 };
    const twist = input.twist === undefined ? undefined : new Random(input.twist);
    if (twist !== undefined) twistRegisters(entry, twist);
    setSregs(cpu, entry.sregs);
    setRegs(cpu, entry.regs);
    if (twist !== undefined) this.#twistDebug(twist);
    for (let slice = 0; slice < SLICES; slice++) {
      if (!this.#slice(random)) break;
    }
    // What a pause would read.
    setEvents(cpu, getEvents(cpu));
    for (const index of msrIndices()) cpu.system.registers.setMsr(index, cpu.system.registers.getMsr(index)!);
    translate(cpu, random.evil64());
    cpu.log.clear();
  }

  #twistDebug(random: Random): void {
    const near = () => BigInt(random.pick([CODE, 0x1f000, 0x30000, 0x4000]) + random.below(64));
    setDebugRegs(this.#t.cpu, {
      db: [near(), near(), near(), random.evil64()],
      dr6: 0xffff_0ff0n,
      dr7: BigInt(random.u32()) & 0xffff_2bffn,
      flags: 0n,
    });
  }

  /** @returns whether to go on */
  #slice(random: Random): boolean {
    const { cpu } = this.#t;
    const { system, state } = cpu;
    state.setI32(S.ATTENTION, 0);
    if (cpu.log.pending === undefined) {
      this.#apic.poll();
      if (random.chance(3)) system.events.nmiPending = true;
      const waits = this.#apic.pendingVector() >= 0;
      state.setI32(S.IRQ_WAITING, waits ? 1 : 0);
      if (waits && system.acceptsInterrupt) return system.raise(this.#apic.acknowledge(), 0, 'external');
    }
    switch (cpu.run(INSTRUCTIONS)) {
      case 'shutdown':
        return false;
      case 'halt':
        return this.#apic.pendingVector() >= 0;
      case 'device':
        this.#answer(cpu.log.pending!, random);
    }
    return true;
  }

  #answer({ kind, address, write, data }: DeviceAccess, random: Random): void {
    const offset = address - APIC_PAGE;
    const isApic = kind === 'mmio' && offset >= 0 && offset + data.length <= 4096 && data.length === 4;
    const view = new DataView(data.buffer, data.byteOffset, data.length);
    if (isApic && write) writeApicPage(this.#apic, offset, 4, view.getUint32(0, true));
    else if (isApic) view.setUint32(0, readApicPage(this.#apic, offset, 4), true);
    else if (!write) data.set(random.bytes(data.length));
  }
}

/** Beside privilege levels 1 to 3. */
const VIRTUAL_8086 = 4;
const FLAG_VM = 0x2_0000n;
const HANDLER_CODE = 0x10;
const HANDLER_DATA = 0x18;
const SEGMENTS = ['cs', 'ds', 'es', 'fs', 'gs', 'ss'] as const;

/** Puts the code of protected mode at an outer level, with its handlers; or into virtual-8086 mode, with handlers at level 0. */
function moveOut({ regs, sregs }: EntryState, memory: GuestMemory, level: number): void {
  memory.writeU32(TSS + 4, KERNEL_STACK);
  memory.writeU16(TSS + 8, HANDLER_DATA);
  if (level === VIRTUAL_8086) {
    regs.rflags |= FLAG_VM;
    regs.rip = 0n;
    for (const name of SEGMENTS) {
      const selector = name === 'cs' ? CODE >> 4 : 0x1000;
      const base = BigInt(selector << 4);
      sregs[name] = { ...sregs[name], selector, base, limit: 0xffff, type: 3, dpl: 3, db: 0, g: 0 };
    }
    return;
  }
  for (const selector of [HANDLER_CODE, HANDLER_DATA]) {
    const access = GDT + selector + 5;
    memory.writeU8(access, memory.readU8(access) | (level << 5));
  }
  for (const name of SEGMENTS) {
    sregs[name] = { ...sregs[name], selector: sregs[name].selector | level, dpl: level };
  }
}

/** Control registers and flags as a kernel might have them, in any combination that a processor has. */
function twistRegisters({ regs, sregs }: EntryState, random: Random): void {
  const some = (bits: bigint) => bits & random.u64();
  // MP, EM, TS, NE, WP, AM, and CD.
  sregs.cr0 = (sregs.cr0 & ~0x4005_002en) | some(0x4005_002en);
  // TSD, DE, PGE, OSFXSR, OSXMMEXCPT, UMIP, FSGSBASE, OSXSAVE, SMEP, SMAP.
  sregs.cr4 = (sregs.cr4 & ~0x35_0e8cn) | some(0x35_0e8cn);
  regs.rflags |= some(0x4_7f00n & ~0x4000n);
}

function makeInput(mode: Mode, random: Random): Input {
  const isLong = mode === 'long' || mode === 'user';
  const isCompatible = isLong && random.chance(25);
  return {
    mode,
    tables: random.chance(70) ? 'sound' : random.chance(80) ? 'noise' : 'absent',
    seed: random.u32(),
    code: hex(makeCode(isCompatible ? 'protected' : mode, random)),
    ...(isCompatible ? { isCompatible } : {}),
    ...(mode === 'protected' && random.chance(50) ? { level: 1 + random.below(VIRTUAL_8086) } : {}),
    ...(random.chance(60) ? { twist: random.u32() } : {}),
  };
}

describe.each(MODES)('random code in %s mode', (mode) => {
  const cpu = new HostileCpu();

  it(`neither throws nor leaves its memory`, { timeout: patience(SECONDS) }, async () => {
    for (const [, input] of new Corpus<Input>(`code-${mode}`).inputs()) cpu.run(input);

    const corpus = new Corpus<Input>(`tcg-${mode}`);
    const count = await corpus.run({ seconds: SECONDS, make: (random) => makeInput(mode, random) }, (input) =>
      cpu.run(input),
    );

    expect(cpu.intact).toBe(true);
    expect(count).toBeGreaterThan(0);
    if (process.env.TSVISOR_FUZZ_SECONDS) console.log(`${mode}: ${count} runs in ${budget(SECONDS)} ms`);
  });
});
