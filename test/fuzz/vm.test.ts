/** Hostile guests in whole machines: every run ends in a pause or an exit, and every machine can be closed. */
import { afterAll, describe, expect, it } from 'vitest';
import { ENGINES } from '../support/engines.ts';
import { CODE, MODES, type Mode, prepare, type Tables } from './guest-image.ts';
import { HostileVm } from './hostile-vm.ts';
import { makeCode } from './instructions.ts';
import { Corpus, hex, patience, Random, unhex } from './support.ts';

const SECONDS = 4;

interface Input {
  board: 'pc' | 'none';
  cpus: number;
  mode: Mode;
  tables: Tables;
  seed: number;
  code: string;
  milliseconds: number;
  /** Stop the machine instead of pausing it. */
  stop?: boolean;
}

const rejections: unknown[] = [];
process.on('unhandledRejection', (reason) => rejections.push(reason));

function makeInput(random: Random): Input {
  const mode = random.pick(MODES);
  return {
    board: random.pick(['pc', 'none']),
    cpus: random.chance(30) ? 2 : 1,
    mode,
    tables: random.pick(['sound', 'noise', 'absent']),
    seed: random.u32(),
    code: hex(makeCode(mode, random)),
    milliseconds: random.pick([0, 1, 5, 20, 50]),
    ...(random.chance(10) ? { stop: true } : {}),
  };
}

describe.each(ENGINES)('a machine on %s with a hostile guest', (accel) => {
  const machines = {
    pc1: new HostileVm({ accel, board: 'pc' }),
    pc2: new HostileVm({ accel, board: 'pc', cpus: 2 }),
    none1: new HostileVm({ accel, board: 'none' }),
    none2: new HostileVm({ accel, board: 'none', cpus: 2 }),
  };
  afterAll(async () => {
    for (const machine of Object.values(machines)) await machine.close();
  });

  async function run(input: Input): Promise<void> {
    const machine = machines[`${input.board}${input.cpus as 1 | 2}`];
    const vm = await machine.get();
    const state = prepare(vm.memory, input.mode, input.tables, new Random(input.seed));
    vm.memory.write(CODE, unhex(input.code));
    await machine.run(state, input.milliseconds, input.stop);
    expect(rejections).toEqual([]);
  }

  it.each([...MODES.map((mode) => `code-${mode}`), ...MODES.map((mode) => `tcg-${mode}`)])(
    'survives what upset the processor by itself: %s',
    async (suite) => {
      for (const [, input] of new Corpus<Pick<Input, 'mode' | 'tables' | 'seed' | 'code'>>(suite).inputs())
        await run({ board: 'pc', cpus: 1, milliseconds: 10, ...input });

      expect(Object.values(machines).every((machine) => machine.intact)).toBe(true);
    },
    60_000,
  );

  it(
    'can be paused and stopped, or has ended for a reason that it names',
    async () => {
      await new Corpus<Input>('vm').run({ seconds: SECONDS, make: makeInput }, run);

      expect(Object.values(machines).every((machine) => machine.intact)).toBe(true);
    },
    patience(SECONDS),
  );
});
