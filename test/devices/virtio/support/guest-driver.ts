/** Runs fixtures/virtio/driver.s, a guest that drives one virtio device, in a machine. */
import { readFileSync } from 'node:fs';
import type { VmConfig } from '../../../../src/machine/config.ts';
import { Vm } from '../../../../src/machine/vm.ts';
import { assemble } from '../../../support/assemble.ts';
import type { Buffer } from './rings.ts';
import { F } from './transport-driver.ts';

/** How the guest reaches its device and is told of what it has done. */
export type GuestTransport = 'mmio' | 'msix' | 'pin';

/** A request: its buffers, and whether the guest notifies the device and waits after it. */
export interface GuestRequest {
  queue?: number;
  buffers: readonly Buffer[];
  wait?: boolean;
}

/** What the guest is to do, the driver's parameters. */
export interface GuestPlan {
  cpl: 0 | 3;
  transport: GuestTransport;
  requests: readonly GuestRequest[];
  packed?: boolean;
  queues?: number;
  size?: number;
  /** Accepted besides VERSION_1 and, if `packed`, RING_PACKED. */
  features?: bigint;
  rounds?: number;
  /** See WINDOW and MOVE in the driver. */
  window?: boolean;
  move?: boolean;
}

const SOURCE = readFileSync(new URL('../../../../fixtures/virtio/driver.s', import.meta.url), 'utf8');
const INFO = 0x300000;
const REQUESTS = 0x310000;
const RESULTS = 0x320000;
const DONE = 9;
const WRITTEN = 0x80000000;
/** Where guests of tests have their buffers. */
export const BUFFERS = 0x500000;
/** Longest time of a guest, ms: far more than any needs. */
const PATIENCE = 30_000;

/** The guest's code. */
export function assembleDriver(plan: GuestPlan): Uint8Array {
  const { cpl, transport, packed = false, queues = 1, size = 64, features = 0n, rounds = 1 } = plan;
  const parameters = {
    CPL: cpl,
    TRANSPORT: ['mmio', 'msix', 'pin'].indexOf(transport),
    PACKED: packed ? 1 : 0,
    INTERRUPTS: 1,
    QUEUES: queues,
    SIZE: size,
    FEATURES: features | F.VERSION_1 | (packed ? F.PACKED : 0n),
    ROUNDS: rounds,
    WINDOW: plan.window ? 1 : 0,
    MOVE: plan.move ? 1 : 0,
    MARKS: 0,
  };
  const sets = Object.entries(parameters).map(([name, value]) => `.set ${name}, ${value}`);
  return assemble(`${sets.join('\n')}\n${SOURCE}`, 0x100000);
}

/** A machine with the guest and its device, which is the first of the configuration. */
export class GuestMachine implements AsyncDisposable {
  readonly vm: Vm;
  readonly #requests: number;

  /** Not started yet, so that buffers can be filled. */
  static async create(plan: GuestPlan, config: Partial<VmConfig>): Promise<GuestMachine> {
    const vm = await Vm.create({
      memory: '16M',
      transport: plan.transport === 'mmio' ? 'mmio' : 'pci',
      boot: { flat: assembleDriver(plan), mode: 'long64' },
      ...config,
    });
    return new GuestMachine(vm, plan.requests);
  }

  private constructor(vm: Vm, requests: readonly GuestRequest[]) {
    this.vm = vm;
    this.#requests = requests.length;
    const { memory } = vm;
    let at = REQUESTS;
    for (const { queue = 0, buffers, wait = true } of requests) {
      memory.writeU16(at, queue);
      memory.writeU16(at + 2, buffers.length);
      memory.writeU32(at + 4, wait ? 1 : 0);
      at += 8;
      for (const { gpa, length, isWritable } of buffers) {
        memory.writeU64(at, BigInt(gpa));
        memory.writeU32(at + 8, length);
        memory.writeU32(at + 12, isWritable ? 2 : 0);
        at += 16;
      }
    }
    memory.writeU16(at, 0xffff);
  }

  /** Lets it run to its end. @throws when it did not get there */
  async run(): Promise<void> {
    const timer = setTimeout(() => this.vm.stop('timeout'), PATIENCE);
    this.vm.start();
    const exit = await this.vm.exited;
    clearTimeout(timer);
    const { memory } = this.vm;
    if (exit.reason === 'exit' && exit.status === 1 && memory.readU32(INFO + 8) === DONE) return;
    const fault = [0, 8, 16, 24].map((at) => memory.readU64(INFO + 16 + at).toString(16));
    throw new Error(
      `the guest ended by ${exit.reason} (${exit.by}) in phase ${memory.readU32(INFO + 8)}, fault ${fault.join(' ')}`,
    );
  }

  /** Features that the device offered. */
  get offered(): bigint {
    return this.vm.memory.readU64(INFO);
  }

  /** Notifications that the guest has made. */
  get notified(): number {
    return this.vm.memory.readU32(INFO + 12);
  }

  /** Interrupts that the guest has had: by the vector of queues, that of the configuration, and the one after MOVE. */
  get interrupts(): number[] {
    return [0, 1, 2].map((i) => this.vm.memory.readU32(INFO + 48 + 4 * i));
  }

  /** The beginning of the device's configuration, as the guest read it. */
  get config(): DataView {
    const bytes = this.vm.memory.read(INFO + 64, 32);
    return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** What the guest has seen of the device's memory. */
  get seen(): Uint8Array {
    return this.vm.memory.read(INFO + 128, 64);
  }

  /** What the device said it had written for each request, in the last round; undefined where it did not come back. */
  get written(): (number | undefined)[] {
    return Array.from({ length: this.#requests }, (_, i) => {
      const word = this.vm.memory.readU32(RESULTS + 4 * i);
      return word < WRITTEN ? undefined : word - WRITTEN;
    });
  }

  /** Exits to the device's registers while it ran. */
  get mmioExits(): number {
    return this.vm.stats().exits.MMIO ?? 0;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.vm.close();
  }
}
