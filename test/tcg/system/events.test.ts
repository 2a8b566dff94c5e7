import { describe, expect, it } from 'vitest';
import { S } from '../../../src/tcg/layout.ts';
import { getEvents, SHADOW, setEvents } from '../../../src/tcg/system/events.ts';
import type { VcpuEvents } from '../../../src/vcpu/state.ts';
import { assemble } from '../../support/assemble.ts';
import { TestCpu } from '../machine.ts';

const CODE = 0x7c00;
const STACK = 0x7000;
/** Every vector's handler is at its number times 16 in this segment. */
const HANDLERS = 0x100;
/** All optional fields of the struct count. */
const ALL_VALID = 0x2f;

/** A CPU in real mode at CODE; handlers halt. */
function realMode(source: string): TestCpu {
  const t = new TestCpu({ ram: 1 << 20 });
  const { state, system } = t.cpu;
  state.setU64(S.CR0, 0x10n);
  state.setI32(S.IDT_LIMIT, 0x3ff);
  for (let segment = 0; segment < 6; segment++) system.segments.set(segment, 0, 0n, 0xffff, 0x93);
  system.segments.set(1, 0, 0n, 0xffff, 0x9b);
  state.setU64(S.DR + 56, 0x400n);
  for (let vector = 0; vector < 256; vector++) {
    t.memory.writeU32(vector * 4, (HANDLERS << 16) | (vector * 16));
    t.memory.writeU8(HANDLERS * 16 + vector * 16, 0xf4);
  }
  t.memory.write(CODE, assemble(`.code16\n${source}`, CODE));
  state.rip = BigInt(CODE);
  state.setGpr(4, BigInt(STACK));
  return t;
}

function runToHalt(t: TestCpu): void {
  for (let i = 0; i < 100; i++) {
    const outcome = t.cpu.run(1000);
    if (outcome === 'halt' || outcome === 'shutdown') return;
  }
  throw new Error('it does not halt');
}

/** The vector whose handler has halted. */
const vectorOf = (t: TestCpu) => (Number(t.cpu.state.rip) - 1) / 16;

function events(changes: Partial<VcpuEvents>): VcpuEvents {
  return { ...getEvents(new TestCpu({ ram: 1 << 20 }).cpu), flags: ALL_VALID, ...changes };
}

describe('pending events', () => {
  it('come back as they were set', () => {
    const t = realMode('hlt');
    const from = events({
      exception: { injected: 1, nr: 14, has_error_code: 1, pending: 0, error_code: 5 },
      interrupt: { injected: 0, nr: 0, soft: 0, shadow: SHADOW.MOV_SS },
      nmi: { injected: 0, pending: 1, masked: 1 },
      triple_fault: { pending: 1 },
    });

    setEvents(t.cpu, from);

    expect(getEvents(t.cpu)).toEqual({ ...from, flags: expect.any(Number) });
  });

  it('with an exception to be injected go on in its handler', () => {
    const t = realMode('mov ax, 1; hlt');
    setEvents(
      t.cpu,
      events({ exception: { injected: 1, nr: 6, has_error_code: 0, pending: 0, error_code: 0 } }),
    );

    runToHalt(t);

    expect([vectorOf(t), t.cpu.state.gpr(0)]).toEqual([6, 0n]);
    expect(t.memory.readU16(STACK - 6)).toBe(CODE);
    expect(getEvents(t.cpu).exception.injected).toBe(0);
  });

  it('with an interrupt to be injected deliver it even with IF clear', () => {
    const t = realMode('mov ax, 1; hlt');
    setEvents(t.cpu, events({ interrupt: { injected: 1, nr: 0x33, soft: 0, shadow: 0 } }));

    runToHalt(t);

    expect(vectorOf(t)).toBe(0x33);
  });

  it('with a triple fault shut the CPU down', () => {
    const t = realMode('hlt');
    setEvents(t.cpu, events({ triple_fault: { pending: 1 } }));

    expect(t.cpu.run(1000)).toBe('shutdown');
  });
});

describe('an NMI', () => {
  it('is delivered before the next instruction, and masks others', () => {
    const t = realMode('mov ax, 1; hlt');
    t.cpu.system.events.nmiPending = true;

    runToHalt(t);

    expect([vectorOf(t), t.cpu.state.gpr(0)]).toEqual([2, 0n]);
    expect(getEvents(t.cpu).nmi).toEqual({ injected: 0, pending: 0, masked: 1 });
    t.cpu.system.events.nmiPending = true;
    expect(t.cpu.system.events.nmiWaits).toBe(false);
  });

  it('waits for the end of an interrupt shadow', () => {
    const t = realMode('mov ax, 1; mov ax, 2; hlt');
    setEvents(
      t.cpu,
      events({
        interrupt: { injected: 0, nr: 0, soft: 0, shadow: SHADOW.MOV_SS },
        nmi: { injected: 0, pending: 1, masked: 0 },
      }),
    );

    runToHalt(t);

    expect([vectorOf(t), t.cpu.state.gpr(0)]).toEqual([2, 1n]);
  });
});

describe('an interrupt shadow', () => {
  it('is over after one instruction, also of a loop onto itself', () => {
    const t = realMode('sti; 1: jmp 1b');
    const { cpu } = t;
    cpu.state.setI32(S.IRQ_WAITING, 1);
    cpu.run(0);

    let returns = 0;
    for (; !cpu.system.acceptsInterrupt && returns < 10; returns++) cpu.run(1000);

    expect(returns).toBeLessThan(10);
    expect(getEvents(cpu).interrupt.shadow).toBe(0);
  });

  it('of STI is told apart from that of MOV SS', () => {
    const sti = realMode('sti; nop; hlt');
    sti.cpu.system.debugStep = true;
    sti.cpu.run(1);
    const movSs = realMode('mov ss, ax; nop; hlt');
    movSs.cpu.system.debugStep = true;
    movSs.cpu.run(1);

    expect(getEvents(sti.cpu).interrupt.shadow).toBe(SHADOW.STI);
    expect(getEvents(movSs.cpu).interrupt.shadow).toBe(SHADOW.MOV_SS);
  });
});
