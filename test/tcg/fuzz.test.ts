/** Hostile guests: random bytes as code in each mode never throw, never touch memory that is not the guest's. */
import { expect, test } from 'vitest';
import { PageTableBuilder } from '../../src/memory/page-tables.ts';
import { PAGE_MAP_SIZE, S, SEG } from '../../src/tcg/layout.ts';
import { RIGHTS } from '../../src/tcg/system/segments.ts';
import { Random } from './generate-cases.ts';
import { TestCpu } from './machine.ts';

const RAM = 1 << 20;
const CODE = 0x2000;
const RUNS = Number(process.env.TSV_TCG_RUNS ?? 150);
const MODES = ['long0', 'long3', 'protected', 'real'] as const;

function start(t: TestCpu, mode: (typeof MODES)[number], cr3: number, r: Random): void {
  const { cpu } = t;
  const { state, system } = cpu;
  t.longMode({ cr3, rip: BigInt(CODE), rsp: 0x9000n, cpl: mode === 'long3' ? 3 : 0 });
  for (let i = 0; i < 16; i++) state.setGpr(i, r.chance(50) ? BigInt(r.below(RAM)) : r.u64());
  // Descriptor tables lie in random memory.
  state.setU64(S.IDT_BASE, 0x4000n);
  state.setI32(S.IDT_LIMIT, 0xfff);
  state.setU64(S.GDT_BASE, 0x6000n);
  state.setI32(S.GDT_LIMIT, 0xfff);
  if (mode === 'protected' || mode === 'real') {
    state.setU64(S.EFER, 0n);
    state.setU64(S.CR0, mode === 'real' ? 0x10n : 0x11n);
    state.setU64(S.CR4, 0n);
    const db = mode === 'real' ? 0 : RIGHTS.DB | RIGHTS.G;
    const limit = mode === 'real' ? 0xffff : 0xffff_ffff;
    const base = RIGHTS.P | RIGHTS.S | RIGHTS.RW | RIGHTS.ACCESSED | db;
    system.segments.set(SEG.CS, 0, 0n, limit, base | RIGHTS.CODE);
    for (const segment of [SEG.ES, SEG.SS, SEG.DS, SEG.FS, SEG.GS])
      system.segments.set(segment, 0, 0n, limit, base);
    cpu.mmu.flush();
  }
  system.segments.update();
}

test('random code in every mode runs or faults', { timeout: 120_000 }, () => {
  const t = new TestCpu({ ram: RAM });
  const { cpu, memory } = t;
  const r = new Random(Number(process.env.TSV_TCG_SEED ?? 1));
  const { state } = cpu;
  // The page map has a byte for each page of the memory; the rest of its room is nobody's.
  const unused = state.bytes.length >>> 12;
  const outside = state.bytes.slice(unused, PAGE_MAP_SIZE);
  for (let i = 0; i < RUNS; i++) {
    memory.write(0, r.bytes(0x10000));
    const { cr3 } = new PageTableBuilder(memory, { start: 0x10000, end: 0x40000 }).identityMap(0, 4 << 20, {
      user: true,
    });
    cpu.blocks.flushAll();
    cpu.log.clear();
    state.setI32(S.FAULT_VECTOR, -1);
    start(t, r.pick(MODES), Number(cr3), r);
    for (let step = 0; step < 60; step++) {
      state.setI32(S.ATTENTION, 0);
      const outcome = cpu.run(500);
      if (outcome === 'device') cpu.log.pending!.data.set(r.bytes(cpu.log.pending!.data.length));
      if (outcome === 'shutdown' || outcome === 'halt') break;
    }
    cpu.log.clear();
  }
  expect(Buffer.compare(state.bytes.slice(unused, PAGE_MAP_SIZE), outside)).toBe(0);
});
