/** The run loop with an engine that plays a script: exits that no guest here can cause, and what each leads to. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { BusClient } from '../../src/devices/bus-client.ts';
import { SPACE } from '../../src/devices/bus-table.ts';
import { ChannelAborted } from '../../src/devices/channel.ts';
import { TsvError } from '../../src/errors.ts';
import * as abi from '../../src/kvm/abi/index.ts';
import { COMMAND, COUNTER, VcpuControl } from '../../src/vcpu/control.ts';
import type { EngineVcpu, IrqchipMode } from '../../src/vcpu/engine.ts';
import { RunLoop, type RunLoopHooks } from '../../src/vcpu/run-loop.ts';

const EFAULT = -14;
const EINTR = -4;
const EAGAIN = -11;
const DATA = 4096;

/** One entry into the guest: fills in kvm_run, and answers what KVM_RUN returns (default 0). */
type Entry = (run: DataView) => number | undefined;

const exit =
  (reason: number, fill: (run: DataView) => void = () => {}): Entry =>
  (run) => {
    run.setUint32(abi.KVM_RUN_EXIT_REASON, reason, true);
    fill(run);
    return 0;
  };

const HLT = exit(abi.KVM_EXIT_HLT);

const io = (write: boolean, port: number, size: number, values: readonly number[]): Entry =>
  exit(abi.KVM_EXIT_IO, (run) => {
    run.setUint8(abi.KVM_RUN_IO_DIRECTION, write ? abi.KVM_EXIT_IO_OUT : abi.KVM_EXIT_IO_IN);
    run.setUint8(abi.KVM_RUN_IO_SIZE, size);
    run.setUint16(abi.KVM_RUN_IO_PORT, port, true);
    run.setUint32(abi.KVM_RUN_IO_COUNT, values.length, true);
    run.setBigUint64(abi.KVM_RUN_IO_DATA_OFFSET, BigInt(DATA), true);
    values.forEach((value, i) => {
      for (let byte = 0; byte < size; byte++)
        run.setUint8(DATA + i * size + byte, (value >>> (8 * byte)) & 0xff);
    });
  });

const mmio = (write: boolean, address: number, bytes: readonly number[]): Entry =>
  exit(abi.KVM_EXIT_MMIO, (run) => {
    run.setBigUint64(abi.KVM_RUN_MMIO_PHYS_ADDR, BigInt(address), true);
    run.setUint32(abi.KVM_RUN_MMIO_LEN, bytes.length, true);
    run.setUint8(abi.KVM_RUN_MMIO_IS_WRITE, write ? 1 : 0);
    bytes.forEach((byte, i) => {
      run.setUint8(abi.KVM_RUN_MMIO_DATA + i, byte);
    });
  });

const msr = (reason: number, index: number, data = 0n): Entry =>
  exit(reason, (run) => {
    run.setUint32(abi.KVM_RUN_MSR_INDEX, index, true);
    run.setBigUint64(abi.KVM_RUN_MSR_DATA, data, true);
    run.setUint8(abi.KVM_RUN_MSR_ERROR, 0x77);
  });

const internalError = (suberror: number, data: readonly bigint[] = []): Entry =>
  exit(abi.KVM_EXIT_INTERNAL_ERROR, (run) => {
    run.setUint32(abi.KVM_RUN_INTERNAL_SUBERROR, suberror, true);
    run.setUint32(abi.KVM_RUN_INTERNAL_NDATA, data.length, true);
    data.forEach((value, i) => {
      run.setBigUint64(abi.KVM_RUN_INTERNAL_DATA + 8 * i, value, true);
    });
  });

/** Runs a script. The last entry should end the run. */
function play(
  script: readonly Entry[],
  {
    irqchip = 'none' as IrqchipMode,
    hooks = {} as Partial<RunLoopHooks>,
    read = (() => 0) as (space: number, address: number, size: number) => number,
    control = new VcpuControl(),
  } = {},
) {
  const area = new Uint8Array(new SharedArrayBuffer(8192));
  const run = new DataView(area.buffer);
  const accesses: [string, number, number, number, number][] = [];
  let entries = 0;
  const vcpu = {
    run: area,
    enter: () => {
      const entry = script[entries++];
      if (entry === undefined) throw new Error('the script is over');
      return entry(run) ?? 0;
    },
  } as unknown as EngineVcpu;
  const bus = {
    read(space: number, address: number, size: number) {
      const value = read(space, address, size);
      accesses.push(['read', space, address, size, value]);
      return value;
    },
    write(space: number, address: number, size: number, value: number) {
      accesses.push(['write', space, address, size, value]);
    },
  } as unknown as BusClient;
  const loop = new RunLoop(vcpu, bus, control, irqchip, {
    assist: () => false,
    debug: () => false,
    writeMsr: () => false,
    eoi: () => {},
    trace: undefined,
    ...hooks,
  });
  const outcome = loop.run();
  return { outcome, accesses, run, control, entries: () => entries };
}

describe('port accesses', () => {
  it.each([1, 2, 4])('of %i bytes reach the bus and come back', (size) => {
    const value = { 1: 0xa5, 2: 0xa55a, 4: 0xdeadbeef }[size]!;
    const { accesses, run } = play([io(true, 0x60, size, [value]), io(false, 0x64, size, [0]), HLT], {
      read: () => value,
    });

    expect(accesses).toEqual([
      ['write', SPACE.pio, 0x60, size, value],
      ['read', SPACE.pio, 0x64, size, value],
    ]);
    const got =
      size === 1 ? run.getUint8(DATA) : size === 2 ? run.getUint16(DATA, true) : run.getUint32(DATA, true);
    expect(got).toBe(value);
  });

  it('of a string come one after the other, in order', () => {
    let next = 0x10;
    const { accesses, run } = play([io(true, 5, 2, [1, 2, 3]), io(false, 5, 1, [0, 0, 0]), HLT], {
      read: () => next++,
    });

    expect(accesses.map(([kind, , , , value]) => [kind, value])).toEqual([
      ['write', 1],
      ['write', 2],
      ['write', 3],
      ['read', 0x10],
      ['read', 0x11],
      ['read', 0x12],
    ]);
    expect([0, 1, 2].map((i) => run.getUint8(DATA + i))).toEqual([0x10, 0x11, 0x12]);
  });
});

describe('MMIO accesses', () => {
  it('of any length are pieces of 4, 2 and 1 bytes that lose and invent nothing', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: 1, maxLength: 8 }),
        fc.integer({ min: 0, max: 2 ** 40 }),
        (bytes, address) => {
          const written = play([mmio(true, address, [...bytes]), HLT]).accesses;
          const out = written.flatMap(([, , at, size, value]) =>
            Array.from({ length: size }, (_, i) => [at + i, (value >>> (8 * i)) & 0xff]),
          );
          expect(out).toEqual([...bytes].map((byte, i) => [address + i, byte]));

          const at = (gpa: number) => bytes[gpa - address];
          const { run } = play([mmio(false, address, [...bytes].fill(0)), HLT], {
            read: (_, gpa, size) =>
              Array.from({ length: size }, (_, i) => at(gpa + i) * 2 ** (8 * i)).reduce((a, b) => a + b),
          });
          const got = [...bytes].map((_, i) => run.getUint8(abi.KVM_RUN_MMIO_DATA + i));
          expect(got).toEqual([...bytes]);
        },
      ),
    );
  });
});

describe('exits that end the run', () => {
  it('HLT without interrupt controllers halts, with them it is entered again', () => {
    expect(play([HLT]).outcome).toEqual({ kind: 'halted' });
    const { outcome, entries } = play([HLT, HLT, exit(abi.KVM_EXIT_SHUTDOWN)], { irqchip: 'kernel' });
    expect([outcome, entries()]).toEqual([{ kind: 'shutdown' }, 3]);
  });

  it('SYSTEM_EVENT passes type and data on, however much data it claims', () => {
    const { outcome } = play([
      exit(abi.KVM_EXIT_SYSTEM_EVENT, (run) => {
        run.setUint32(abi.KVM_RUN_SYSTEM_EVENT_TYPE, abi.KVM_SYSTEM_EVENT_RESET, true);
        run.setUint32(abi.KVM_RUN_SYSTEM_EVENT_NDATA, 0xffff_ffff, true);
        run.setBigUint64(abi.KVM_RUN_SYSTEM_EVENT_DATA, 7n, true);
      }),
    ]);

    expect(outcome).toMatchObject({ kind: 'system-event', event: 2 });
    expect(outcome.kind === 'system-event' && outcome.data).toHaveLength(16);
    expect(outcome.kind === 'system-event' && outcome.data[0]).toBe(7n);
  });

  it('FAIL_ENTRY is an error with the reason of the processor', () => {
    const reason = 0x8000_0021n;
    const { outcome } = play([
      exit(abi.KVM_EXIT_FAIL_ENTRY, (run) =>
        run.setBigUint64(abi.KVM_RUN_FAIL_ENTRY_HARDWARE_ENTRY_FAILURE_REASON, reason, true),
      ),
    ]);

    expect(outcome).toMatchObject({
      kind: 'error',
      error: {
        code: 'TSV_E_GUEST_ENTRY',
        message: expect.stringContaining('0x80000021'),
        hint: expect.stringMatching(/./),
      },
    });
  });

  it('DEBUG that nobody of ours asked for has its place and cause', () => {
    const { outcome } = play([
      exit(abi.KVM_EXIT_DEBUG, (run) => {
        run.setUint32(abi.KVM_RUN_DEBUG_EXCEPTION, 1, true);
        run.setBigUint64(abi.KVM_RUN_DEBUG_PC, 0xffff_8000_0000_1000n, true);
        run.setBigUint64(abi.KVM_RUN_DEBUG_DR6, 0x4000n, true);
        run.setBigUint64(abi.KVM_RUN_DEBUG_DR7, 0x400n, true);
      }),
    ]);

    expect(outcome).toEqual({
      kind: 'debug',
      exception: 1,
      pc: 0xffff_8000_0000_1000n,
      dr6: 0x4000n,
      dr7: 0x400n,
    });
  });

  it('DEBUG of our own goes on', () => {
    const seen: bigint[] = [];
    const { outcome } = play(
      [exit(abi.KVM_EXIT_DEBUG, (run) => run.setBigUint64(abi.KVM_RUN_DEBUG_PC, 0x1234n, true)), HLT],
      { hooks: { debug: (pc) => seen.push(pc) > 0 } },
    );

    expect([outcome, seen]).toEqual([{ kind: 'halted' }, [0x1234n]]);
  });

  it('an exit that has no place here is an error that names it', () => {
    const { outcome } = play([exit(abi.KVM_EXIT_HYPERV)]);

    expect(outcome).toMatchObject({
      kind: 'error',
      error: { code: 'TSV_E_ENGINE', message: expect.stringContaining('HYPERV') },
    });
  });

  it('any exit reason and any garbage in kvm_run end or go on, without an exception', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 70 }),
        fc.uint8Array({ minLength: 64, maxLength: 64 }),
        (reason, bytes) => {
          const script = [
            exit(reason, (run) => {
              bytes.forEach((byte, i) => {
                run.setUint8(abi.KVM_RUN_EXIT_DATA + i, byte);
              });
            }),
            exit(abi.KVM_EXIT_SHUTDOWN),
          ];
          // KVM itself writes these two; what they point at lies in the mapping.
          const bounded = (run: DataView) => {
            script[0](run);
            if (reason === abi.KVM_EXIT_IO) {
              run.setUint32(abi.KVM_RUN_IO_COUNT, run.getUint32(abi.KVM_RUN_IO_COUNT, true) % 1000, true);
              run.setUint8(abi.KVM_RUN_IO_SIZE, 1 << (run.getUint8(abi.KVM_RUN_IO_SIZE) % 3));
              run.setBigUint64(abi.KVM_RUN_IO_DATA_OFFSET, BigInt(DATA), true);
            }
            if (reason === abi.KVM_EXIT_MMIO)
              run.setUint32(abi.KVM_RUN_MMIO_LEN, run.getUint32(abi.KVM_RUN_MMIO_LEN, true) % 9, true);
            return 0;
          };

          const { outcome } = play([bounded, script[1]]);

          expect(outcome.kind).toMatch(/^(shutdown|halted|system-event|debug|error)$/);
          if (outcome.kind === 'error') expect(outcome.error.hint).not.toBe('');
        },
      ),
    );
  });
});

describe('an instruction that the engine could not emulate', () => {
  it('goes on when the assist completes it, and is counted', () => {
    const { outcome, control } = play([internalError(abi.KVM_INTERNAL_ERROR_EMULATION), HLT], {
      hooks: { assist: () => true },
    });

    expect(outcome).toEqual({ kind: 'halted' });
    expect(control.counters[COUNTER.assisted]).toBe(1);
  });

  it('ends the run with the error of the assist', () => {
    const { outcome } = play([internalError(abi.KVM_INTERNAL_ERROR_EMULATION)], {
      hooks: {
        assist: () => {
          throw new TsvError('TSV_E_GUEST_INSTRUCTION', 'KVM cannot emulate "x".', { hint: 'Do y.' });
        },
      },
    });

    expect(outcome).toMatchObject({
      kind: 'error',
      error: { code: 'TSV_E_GUEST_INSTRUCTION', message: 'KVM cannot emulate "x".', hint: 'Do y.' },
    });
  });

  it('is not asked for with another internal error, whose data is shown', () => {
    const { outcome } = play([internalError(3, [0x8000_0b0en, 0x31n])], { hooks: { assist: () => true } });

    expect(outcome).toMatchObject({
      kind: 'error',
      error: { code: 'TSV_E_ENGINE', message: expect.stringMatching(/internal error 3.*80000b0e 31/) },
    });
  });
});

describe('MSRs', () => {
  it('that nobody carries out give the guest #GP', () => {
    const read = play([msr(abi.KVM_EXIT_X86_RDMSR, 0x123), HLT]);
    const write = play([msr(abi.KVM_EXIT_X86_WRMSR, 0x123, 5n), HLT]);

    expect(read.run.getUint8(abi.KVM_RUN_MSR_ERROR)).toBe(1);
    expect(write.run.getUint8(abi.KVM_RUN_MSR_ERROR)).toBe(1);
  });

  it('that are carried out do not', () => {
    const written: [number, bigint][] = [];
    const { run } = play([msr(abi.KVM_EXIT_X86_WRMSR, 0xc0000082, 0xffff_ffff_8000_0000n), HLT], {
      hooks: { writeMsr: (index, value) => written.push([index, value]) > 0 },
    });

    expect(run.getUint8(abi.KVM_RUN_MSR_ERROR)).toBe(0);
    expect(written).toEqual([[0xc0000082, 0xffff_ffff_8000_0000n]]);
  });
});

describe('exits that only go on', () => {
  it.each([abi.KVM_EXIT_INTR, abi.KVM_EXIT_IRQ_WINDOW_OPEN, abi.KVM_EXIT_SET_TPR, abi.KVM_EXIT_NMI])(
    'exit %i',
    (reason) => {
      expect(play([exit(reason), HLT]).outcome).toEqual({ kind: 'halted' });
    },
  );

  it('IOAPIC_EOI tells all vectors before a pause', () => {
    const control = new VcpuControl();
    const vectors: number[] = [];
    const end = (vector: number) =>
      exit(abi.KVM_EXIT_IOAPIC_EOI, (run) => {
        run.setUint8(abi.KVM_RUN_EOI_VECTOR, vector);
        control.command = COMMAND.pause;
      });

    const { outcome } = play([end(0x31), end(0x41), () => EINTR], {
      control,
      hooks: { eoi: (vector) => vectors.push(vector) },
    });

    expect(vectors).toEqual([0x31, 0x41]);
    expect(outcome).toEqual({ kind: 'paused' });
  });

  it('IOAPIC_EOI tells the vector', () => {
    const vectors: number[] = [];
    play([exit(abi.KVM_EXIT_IOAPIC_EOI, (run) => run.setUint8(abi.KVM_RUN_EOI_VECTOR, 0x31)), HLT], {
      hooks: { eoi: (vector) => vectors.push(vector) },
    });

    expect(vectors).toEqual([0x31]);
  });
});

describe('counters', () => {
  it('are kept for each reason, for entries and for interruptions', () => {
    const { control } = play([io(true, 1, 1, [0]), io(true, 1, 1, [0]), () => EINTR, () => EAGAIN, HLT]);

    expect(control.counters[abi.KVM_EXIT_IO]).toBe(2);
    expect(control.counters[abi.KVM_EXIT_HLT]).toBe(1);
    expect(control.counters[COUNTER.entries]).toBe(5);
    expect(control.counters[COUNTER.interrupted]).toBe(2);
  });

  it('and the trace see the same exits', () => {
    const traced: number[] = [];
    play([io(true, 1, 1, [0]), HLT], { hooks: { trace: (reason) => traced.push(reason) } });

    expect(traced).toEqual([abi.KVM_EXIT_IO, abi.KVM_EXIT_HLT]);
  });
});

describe('commands', () => {
  it('stop before the guest is entered at all', () => {
    const control = new VcpuControl();
    control.command = COMMAND.stop;

    const { outcome, entries } = play([HLT], { control });

    expect([outcome, entries()]).toEqual([{ kind: 'stopped' }, 0]);
  });

  it('pause when a kick has interrupted the guest, and take immediate_exit back', () => {
    const control = new VcpuControl();
    const { outcome, run } = play(
      [
        (area) => {
          control.command = COMMAND.pause;
          area.setUint8(abi.KVM_RUN_IMMEDIATE_EXIT, 1);
          return EINTR;
        },
      ],
      { control },
    );

    expect(outcome).toEqual({ kind: 'paused' });
    expect(run.getUint8(abi.KVM_RUN_IMMEDIATE_EXIT)).toBe(0);
  });

  it('pause only after the access in progress is completed by another entry', () => {
    const control = new VcpuControl();
    const immediate: number[] = [];
    const { outcome, entries } = play(
      [
        (area) => {
          control.command = COMMAND.pause;
          return io(false, 1, 1, [0])(area);
        },
        (area) => {
          immediate.push(area.getUint8(abi.KVM_RUN_IMMEDIATE_EXIT));
          return EINTR;
        },
      ],
      { control },
    );

    expect([outcome, entries(), immediate]).toEqual([{ kind: 'paused' }, 2, [1]]);
  });

  it('stop while a device is waited for', () => {
    const { outcome } = play([io(false, 1, 1, [0])], {
      read: () => {
        throw new ChannelAborted();
      },
    });

    expect(outcome).toEqual({ kind: 'stopped' });
  });
});

describe('a failure of KVM_RUN', () => {
  it('is an error with its number', () => {
    expect(play([() => EFAULT]).outcome).toMatchObject({
      kind: 'error',
      error: { code: 'TSV_E_ENGINE', message: expect.stringContaining('errno 14') },
    });
  });

  it('of another kind is a defect of ours, with a hint to report it', () => {
    expect(play([]).outcome).toMatchObject({
      kind: 'error',
      error: { code: 'TSV_E_INTERNAL', hint: expect.stringContaining('report') },
    });
  });
});
