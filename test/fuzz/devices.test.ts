/** Every device of the PC board under random accesses and random programs of accesses, without a vCPU. */
import { describe, expect, it } from 'vitest';
import type { AccessSize } from '../../src/devices/device.ts';
import { BoardBench, benchMemory, RAM, type Step } from './board.ts';
import { programs } from './device-programs.ts';
import { Corpus, canariesAround, hex, patience, type Random, unhex } from './support.ts';

const SECONDS = 6;

interface Input {
  timeScale: 1 | 2;
  steps: Step[];
}

const canaries = canariesAround(benchMemory);
const PORTS = { 1: new BoardBench(1).ports, 2: new BoardBench(2).ports };

function randomStep(random: Random, ports: readonly number[]): Step {
  const port = random.chance(90) ? random.pick(ports) : random.below(0x10000);
  const size = random.pick([1, 1, 1, 2, 4] as const);
  const roll = random.below(100);
  if (roll < 45) return ['out', port, size, random.evil32() % 2 ** (8 * size)];
  if (roll < 85) return ['in', port, size];
  if (roll < 90) return ['time', random.below(200_000)];
  if (roll < 92) return ['stall', random.below(2 ** 31) * random.pick([1, 1000, 100_000])];
  if (roll < 95) return ['type', hex(random.bytes(random.below(40)))];
  if (roll < 96) return ['break'];
  if (roll < 97) return ['button'];
  if (roll < 98) return ['reset'];
  if (roll < 99) return ['restore'];
  return ['memory', random.below(RAM - 64), hex(random.bytes(64))];
}

function makeRandom(random: Random): Input {
  const timeScale = random.pick([1, 2] as const);
  const ports = PORTS[timeScale];
  return { timeScale, steps: Array.from({ length: 300 }, () => randomStep(random, ports)) };
}

function makePrograms(random: Random): Input {
  const timeScale = random.pick([1, 2] as const);
  const ports = PORTS[timeScale];
  const steps: Step[] = [];
  while (steps.length < 200) {
    steps.push(...random.pick(programs)(random));
    while (random.chance(30)) steps.push(randomStep(random, ports));
  }
  // A program with mistakes: steps lost, doubled and out of order.
  for (let n = random.below(20); n > 0; n--) {
    const at = random.below(steps.length);
    const [step] = steps.splice(at, random.below(2));
    if (step !== undefined) steps.splice(random.below(steps.length), 0, step, step);
  }
  return { timeScale, steps };
}

async function run({ timeScale, steps }: Input): Promise<void> {
  const machine = new BoardBench(timeScale);
  for (const [index, step] of steps.entries()) {
    try {
      carryOut(machine, step);
    } catch (error) {
      throw new Error(`Step ${index}, ${JSON.stringify(step)}, threw.`, { cause: error });
    }
    if (machine.stops.length > 0) checkStops(machine);
  }
  await machine.close();
  expect(machine.errors).toEqual([]);
}

function carryOut(machine: BoardBench, step: Step): void {
  switch (step[0]) {
    case 'in': {
      const [, port, size] = step;
      const value = machine.in(port, size);
      if (!Number.isInteger(value) || value < 0 || value >= 2 ** (8 * size)) {
        throw new Error(`port 0x${port.toString(16)} reads ${value} as ${size} bytes`);
      }
      return;
    }
    case 'out':
      machine.out(step[1], step[2], step[3]);
      return;
    case 'memory':
      machine.memory.write(step[1], unhex(step[2]));
      return;
    case 'time':
      machine.clock.advance(step[1]);
      return;
    case 'stall':
      machine.clock.stall(step[1]);
      machine.clock.advance(1);
      return;
    case 'type':
      machine.board.type(unhex(step[1]));
      return;
    case 'break':
      machine.board.sendBreak();
      return;
    case 'button':
      machine.board.pressPowerButton();
      return;
    case 'reset':
      for (const device of machine.devices) device.reset?.();
      return;
    case 'restore':
      for (const device of machine.devices) {
        // A device may look at the clock when it is restored; the second time nothing is new to it.
        device.restore(structuredClone(device.save()));
        const saved = structuredClone(device.save());
        device.restore(structuredClone(saved));
        expect(device.save(), device.name).toEqual(saved);
      }
  }
}

function checkStops(machine: BoardBench): void {
  for (const stop of machine.stops.splice(0)) {
    expect(['poweroff', 'reset', 'exit', 'panic']).toContain(stop.kind);
    if (stop.kind === 'exit') expect(Number.isInteger(stop.status)).toBe(true);
  }
}

describe('the devices of the PC board', () => {
  it(
    'withstand random accesses of every port',
    async () => {
      await new Corpus<Input>('devices').run({ seconds: SECONDS, make: makeRandom }, run);

      expect(canaries.every((canary) => canary.intact)).toBe(true);
    },
    patience(SECONDS),
  );

  it(
    'withstand drivers gone wrong',
    async () => {
      await new Corpus<Input>('drivers').run({ seconds: SECONDS, make: makePrograms }, run);

      expect(canaries.every((canary) => canary.intact)).toBe(true);
    },
    patience(SECONDS),
  );

  it(
    'answer through the bus alike, whatever the width and wherever the access ends',
    async () => {
      const machine = new BoardBench();
      const make = (random: Random): Step[] =>
        Array.from({ length: 200 }, () => randomStep(random, machine.ports)).filter(
          ([kind]) => kind === 'in' || kind === 'out',
        );
      const access = async (steps: Step[]) => {
        for (const [kind, port, size, value] of steps as ['in' | 'out', number, AccessSize, number][]) {
          const answer = await machine.bus.access('pio', port, size, kind === 'out' ? value : undefined);
          if (!Number.isInteger(answer) || answer < 0) throw new Error(`port ${port} answers ${answer}`);
        }
        checkStops(machine);
        expect(machine.errors).toEqual([]);
      };

      await new Corpus<Step[]>('bus').run({ seconds: 2, make }, access);
    },
    patience(2),
  );
});
