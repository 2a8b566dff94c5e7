/**
 * What an exit to a device costs, round trip: port I/O and MMIO, at CPL 0 and CPL 3, to a TypeScript device with
 * `sync`, `posted` and `latched` registers, against a C program that does the same (exits.c).
 */
import { writeFileSync } from 'node:fs';
import { Vm } from '../dist/index.js';
import {
  command,
  GO,
  guestFiles,
  installGuest,
  MMIO,
  PORTS,
  RAM,
  REGISTERS_SIZE,
} from './lib/exit-guest.mjs';
import { compile, impossible as impossibleRow, kvmProblem, temporary } from './lib/host.mjs';
import { talkTo } from './lib/programs.mjs';
import { interleave, ratio, summarize } from './lib/stats.mjs';

/** Accesses in one sample: some 10 ms where an exit costs 10 us. */
const BATCH = 1000;
const REGISTER = { sync: 0, posted: 4, latched: 8 };

/** The device that is accessed. */
class Target {
  registers = [
    { offset: REGISTER.posted, size: 4, write: 'posted' },
    { offset: REGISTER.latched, size: 4, read: 'latched' },
  ];
  last = 0;

  constructor(name) {
    this.name = name;
  }
  attach(context) {
    context.latch(REGISTER.latched).store(0x12345678);
  }
  read() {
    return 0x12345678;
  }
  write(_offset, _size, value) {
    this.last = value;
  }
  save() {
    return {};
  }
  restore() {}
}

/** The command register: the guest's read waits until there is a command. */
class Go {
  name = 'go';
  #command;
  #finished;
  #start = 0;

  /** @returns nanoseconds until the guest has done it */
  do(value) {
    return new Promise((resolve, reject) => {
      this.#finished = { resolve, reject };
      this.#start = performance.now();
      this.#command.resolve(value);
    });
  }
  fail(error) {
    this.#finished?.reject(error);
  }
  read() {
    this.#finished?.resolve((performance.now() - this.#start) * 1e6);
    return new Promise((resolve) => {
      this.#command = { resolve };
      this.ready?.();
    });
  }
  save() {
    return {};
  }
  restore() {}
}

/** The guest in a `Vm`. */
async function openOurs(cpl) {
  const vm = await Vm.create({
    accel: 'kvm',
    memory: RAM,
    board: 'none',
    boot: { flat: Uint8Array.of(0xf4) },
    deviceTimeout: 0,
  });
  const { regs, sregs } = installGuest(vm.memory, cpl);
  const { cpuid } = await vm.readVcpu(0, 'cpuid');
  await vm.writeVcpu(0, { sregs, regs });
  const go = new Go();
  vm.addDevice(go, { mmio: [{ base: GO, size: 4 }] });
  vm.addDevice(new Target('ports'), { pio: [{ base: PORTS, size: REGISTERS_SIZE }] });
  vm.addDevice(new Target('memory'), { mmio: [{ base: MMIO, size: REGISTERS_SIZE }] });
  void vm.exited.then(({ reason }) => go.fail(new Error(reason)));
  const ready = new Promise((resolve) => {
    go.ready = resolve;
  });
  vm.start();
  await ready;
  return { cpuid, run: (value) => go.do(value), close: () => vm.close() };
}

/** The guest in the C program. */
function openC(program, cpl, cpuid, ...options) {
  const files = Object.entries(guestFiles(cpl, cpuid)).map(([name, bytes]) => {
    const path = temporary([name, cpl, ...options].join('-'));
    writeFileSync(path, bytes);
    return path;
  });
  const { ask, close } = talkTo([program, ...files, ...options]);
  const run = async (value) => {
    const line = await ask(value);
    if (!/^\d+$/.test(line)) throw new Error(line);
    return Number(line);
  };
  return { run, close };
}

/** One access in one direction: all modes and both C programs, in turn. */
async function measure(subject, space, direction, rounds) {
  const { ours, c, threaded } = subject;
  const one = (vm, offset) => async () =>
    (await vm.run(command(space, direction, offset, BATCH))) / BATCH / 1000;
  const fast = direction === 'write' ? 'posted' : 'latched';
  const samples = await interleave(
    {
      sync: one(ours, REGISTER.sync),
      [fast]: one(ours, REGISTER[fast]),
      ...(c && { c: one(c, REGISTER.sync), threaded: one(threaded, REGISTER.sync) }),
    },
    rounds,
    2,
  );
  const what = `${space} ${direction}, CPL ${subject.cpl}`;
  const compare = (name) =>
    c && {
      ratios: {
        'C loop': ratio(samples[name], samples.c),
        ...(name === 'sync' && { 'C, device in a thread': ratio(samples.sync, samples.threaded) }),
      },
    };
  return [
    ...(c
      ? [
          { name: `${what}: C loop`, value: summarize(samples.c) },
          { name: `${what}: C, device in a thread`, value: summarize(samples.threaded) },
        ]
      : []),
    { name: `${what}: ${fast}`, value: summarize(samples[fast]), ...compare(fast) },
    { name: `${what}: sync`, value: summarize(samples.sync), ...compare('sync') },
  ];
}

/** Whether the guest can make this access at all; the reason when it cannot. */
async function impossible(subject, space) {
  try {
    await subject.run(command(space, 'write', REGISTER.sync, 1));
  } catch (error) {
    return error.message;
  }
}

async function measureSpace(program, space, cpl, rounds) {
  const ours = await openOurs(cpl);
  const c = program && openC(program, cpl, ours.cpuid);
  const threaded = program && openC(program, cpl, ours.cpuid, 'threaded');
  try {
    const reason = await impossible(ours, space);
    if (reason !== undefined) {
      const there = c && (await impossible(c, space));
      const also =
        c === undefined ? '' : there === undefined ? ', but it runs in C' : `, in C too (${there})`;
      return [{ name: `${space}, CPL ${cpl}`, value: `not possible here: ${reason}${also}` }];
    }
    const subject = { ours, c, threaded, cpl };
    return [
      ...(await measure(subject, space, 'write', rounds)),
      ...(await measure(subject, space, 'read', rounds)),
    ];
  } finally {
    await Promise.all([ours.close(), c?.close(), threaded?.close()]);
  }
}

/** The benchmark. */
export async function exits({ quick, progress }) {
  const title = 'Exit round trip, kvm';
  const unit = 'us';
  const problem = kvmProblem();
  if (problem !== undefined) return { title, unit, rows: [impossibleRow('kvm', problem)] };
  const program = compile('exits.c');
  const rounds = quick ? 20 : 100;
  const rows = [];
  for (const cpl of [0, 3]) {
    for (const space of ['pio', 'mmio']) {
      progress(`${space} at CPL ${cpl}`);
      rows.push(...(await measureSpace(program, space, cpl, rounds)));
    }
  }
  const notes = [`A sample is ${BATCH} accesses; each is one instruction, dec and jnz in the guest.`];
  if (program === undefined) notes.push('There is no C compiler here: nothing to compare with.');
  if (rows.some(({ value }) => typeof value === 'string')) {
    notes.push(
      'Port I/O at CPL 3 needs RFLAGS.IOPL 3 to be honoured, which a KVM without VT-x/AMD-V may not do: the guest then faults.',
    );
  }
  return { title, unit, digits: 2, rows, notes };
}
