// needs: kvm
/** Random machine code on the real /dev/kvm: whatever it does, its machine ends or can be paused, and nothing else changes. */
import { afterAll, describe, expect, it } from 'vitest';
import type { Device } from '../../src/devices/device.ts';
import { probeKvm } from '../../src/kvm/probe.ts';
import { CODE, MODES, type Mode, prepare, type Tables } from './guest-image.ts';
import { HostileMachine } from './hostile-machine.ts';
import { makeCode } from './instructions.ts';
import { Canary, Corpus, hex, patience, Random, unhex } from './support.ts';

const SECONDS = 4;
const SLICE_MS = 8;

interface Input {
  board: 'pc' | 'none';
  mode: Mode;
  tables: Tables;
  /** Of registers and memory. */
  seed: number;
  code: string;
}

/** Answers everything with something, so that guests reach a device by MMIO on every board. */
class Mirror implements Device {
  readonly name = 'mirror';
  readonly registers = [
    { offset: 0, size: 4, read: 'latched', write: 'w1c' },
    { offset: 8, size: 8, write: 'posted' },
  ] as const;
  #last = 0;
  read(offset: number, size: number): number {
    return ((this.#last ^ offset) % 2 ** (8 * size)) >>> 0;
  }
  write(_offset: number, _size: number, value: number): void {
    this.#last = value;
  }
  save() {
    return {};
  }
  restore(): void {}
}

const outside = [
  new Canary(new Uint8Array(1 << 20), 1),
  new Canary(new Uint8Array(new SharedArrayBuffer(1 << 20)), 2),
];
const MMIO = [{ base: 0xd0000000, size: 0x1000 }];
const machines = {
  pc: await HostileMachine.create('pc', [[new Mirror(), { mmio: MMIO }]]),
  none: await HostileMachine.create('none', [
    [new Mirror(), { mmio: MMIO, pio: [{ base: 0x3f8, size: 16 }] }],
  ]),
};
const rejections: unknown[] = [];
process.on('unhandledRejection', (reason) => rejections.push(reason));

afterAll(async () => {
  await machines.pc[Symbol.asyncDispose]();
  await machines.none[Symbol.asyncDispose]();
});

function makeInput(mode: Mode, random: Random): Input {
  return {
    board: random.chance(70) ? 'pc' : 'none',
    mode,
    tables: random.chance(70) ? 'sound' : random.chance(80) ? 'noise' : 'absent',
    seed: random.u32(),
    code: hex(makeCode(mode, random)),
  };
}

async function run(input: Input): Promise<void> {
  const machine = machines[input.board];
  const state = prepare(machine.memory, input.mode, input.tables, new Random(input.seed));
  machine.memory.write(CODE, unhex(input.code));
  await machine.run(state, SLICE_MS);
  expect(rejections).toEqual([]);
}

describe.each(MODES)('random code in %s mode', (mode) => {
  it(
    'ends its machine or is paused',
    async () => {
      const corpus = new Corpus<Input>(`code-${mode}`);
      const count = await corpus.run({ seconds: SECONDS, make: (random) => makeInput(mode, random) }, run);

      expect(machines.pc.intact && machines.none.intact).toBe(true);
      expect(outside.every((canary) => canary.intact)).toBe(true);
      // Where KVM emulates, much of this goes through the assist.
      const assisted = Math.max(machines.pc.assisted, machines.none.assisted);
      if (probeKvm().software) expect(assisted).toBeGreaterThan(0);
      if (process.env.TSVISOR_FUZZ_SECONDS) {
        const ends = [machines.pc, machines.none].map((machine) => Object.fromEntries(machine.ends));
        console.log(`${mode}: ${count} runs, ${assisted} assists, ${JSON.stringify(ends)}`);
      }
    },
    patience(SECONDS),
  );
});
