/** Hot blocks are marked for a translator. */
import { expect, it } from 'vitest';
import { HOT_SAMPLES, HotBlocks } from '../../../src/tcg/decode/hot-blocks.ts';
import { S } from '../../../src/tcg/layout.ts';
import { setRegs, setSregs } from '../../../src/tcg/state-transfer.ts';
import { realModeEntry } from '../../../src/vcpu/entry.ts';
import { assemble, CODE16 } from '../../support/assemble.ts';
import { TestCpu } from '../machine.ts';

it('marks the block of a loop after some samples, and forgets it when it is overwritten', () => {
  const test = new TestCpu();
  const { cpu } = test;
  test.memory.write(0x1000, assemble(`${CODE16} mov cx, 9; 1: dec ax; jnz 1b; jmp 1b`, 0x1000));
  const { sregs, regs } = realModeEntry({ cs: 0, ip: 0x1000 });
  setSregs(cpu, sregs);
  setRegs(cpu, regs);

  for (let i = 0; i < HOT_SAMPLES + 2; i++) cpu.run(1000);

  expect(cpu.state.i32(S.BUDGET)).toBeLessThan(0);
  expect(cpu.blocks.hot.marked.size).toBe(1);
  cpu.mmu.touched(cpu.map.host(0x1003), 1);
  expect(cpu.blocks.hot.marked.size).toBe(0);
});

it('stays within its bounds whatever is sampled', () => {
  const hot = new HotBlocks();

  for (let record = 0; record < 100_000; record++)
    for (let i = 0; i <= record % 5; i++) hot.sample(record * 32);

  expect(hot.marked.size).toBeLessThanOrEqual(4096);
});
