/** A vCPU's thread as the machine uses it. */
import { afterEach, describe, expect, it } from 'vitest';
import { Bus } from '../../src/devices/bus.ts';
import { loadNative, nativeMemory, nativeProblem } from '../../src/kvm/native.ts';
import { KvmVm } from '../../src/kvm/vm.ts';
import { allocateRam } from '../../src/memory/allocate.ts';
import type { GuestMemory } from '../../src/memory/guest-memory.ts';
import { TcgVm } from '../../src/tcg/vm.ts';
import type { EngineName, EngineVm, VcpuPort } from '../../src/vcpu/engine.ts';
import { realModeEntry } from '../../src/vcpu/entry.ts';
import type { RunOutcome, TraceTopic } from '../../src/vcpu/protocol.ts';
import { VcpuThread } from '../../src/vcpu/vcpu-thread.ts';
import { assemble, CODE16 } from '../support/assemble.ts';
import { ENGINES } from '../support/engines.ts';

const CODE = 0x1000;
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

interface Rig {
  vcpu: VcpuThread;
  bus: Bus;
  engine: EngineVm;
  outcomes: RunOutcome[];
  trace: string[];
  load(source: string): Promise<void>;
  ended(): Promise<RunOutcome>;
}

const cleanups: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0)) await cleanup();
});

interface Options {
  trace?: TraceTopic[];
  affinity?: number[];
  port?: (port: VcpuPort) => VcpuPort;
}

/** An engine without interrupt controllers, and 2 MiB of RAM. */
function create(accel: EngineName): { memory: GuestMemory; engine: EngineVm } {
  const size = 2 << 20;
  const config = { irqchip: 'none', pit: false } as const;
  if (accel === 'tcg') {
    const memory = allocateRam({ size, reserve: TcgVm.reserve(1) });
    return { memory, engine: TcgVm.create({ memory, ...config }, 1) };
  }
  const memory = allocateRam({ size, native: nativeMemory(loadNative()) });
  return { memory, engine: KvmVm.create({ memory, ...config }) };
}

function makeRig(accel: EngineName, options: Options = {}): Rig {
  const { trace = [], affinity = [], port: change = (port) => port } = options;
  const { memory, engine } = create(accel);
  const bus = new Bus(
    { onDeviceError: (error) => expect.unreachable(error.message) },
    { wakeups: nativeProblem() === undefined ? loadNative() : undefined },
  );
  const port = engine.vcpuPort(0);
  const outcomes: RunOutcome[] = [];
  const lines: string[] = [];
  let loaded = false;
  let onEnd: (outcome: RunOutcome) => void = () => {};
  const init = {
    port: change(port),
    memory: memory.share(),
    busTable: bus.table.shared,
    channel: bus.addChannel().shared,
    doorbell: bus.bell.shared,
    assistLock: new SharedArrayBuffer(4),
    irqchip: 'none' as const,
    trace,
    affinity,
  };
  const vcpu = new VcpuThread(engine, init, engine.runArea(port), {
    onOutcome(_, outcome) {
      outcomes.push(outcome);
      onEnd(outcome);
    },
    onTrace: (more) => lines.push(...more),
    onLog() {},
    onEoi() {},
  });
  cleanups.push(async () => {
    bus.abort();
    await vcpu.close();
    bus.close();
    await engine[Symbol.asyncDispose]();
  });
  return {
    vcpu,
    bus,
    engine,
    outcomes,
    trace: lines,
    async load(source) {
      await vcpu.ready;
      // KVM takes a CPUID table before the first run only.
      if (!loaded) await vcpu.set({ cpuid: engine.supportedCpuid() });
      loaded = true;
      memory.write(CODE, assemble(CODE16 + source, CODE));
      await vcpu.set(realModeEntry({ cs: 0, ip: CODE, sp: 0x8000 }));
    },
    ended: () =>
      new Promise((resolve) => {
        const last = outcomes.at(-1);
        if (last === undefined) onEnd = resolve;
        else resolve(last);
      }),
  };
}

describe.each(ENGINES)('on %s', (accel) => {
  const rig = (options?: Options) => makeRig(accel, options);

  describe('a standing vCPU', () => {
    it('answers calls in the order they were made', async () => {
      const { vcpu, load } = rig();
      await load('hlt');
      const { regs } = await vcpu.get('regs');

      const answers = await Promise.all(
        Array.from({ length: 20 }, async (_, i) => {
          const written = vcpu.set({ regs: { ...regs, rax: BigInt(i) } });
          const read = vcpu.get('regs');
          await written;
          return (await read).regs.rax;
        }),
      );

      expect(answers).toEqual(Array.from({ length: 20 }, (_, i) => BigInt(i)));
    });

    it('refuses what its engine refuses, by name, and is fit to be used afterwards', async () => {
      const { vcpu, load } = rig();
      await load('hlt');

      await expect(vcpu.set({ msrs: [{ index: 0xdead_beef, data: 1n }] })).rejects.toMatchObject({
        code: 'TSV_E_IOCTL',
        message: /0xdeadbeef/,
      });
      await expect(vcpu.set({ mp_state: 999 })).rejects.toMatchObject({ code: 'TSV_E_IOCTL' });
      expect((await vcpu.get('regs')).regs.rip).toBe(BigInt(CODE));
    });

    it('takes its whole state back as it was read', async () => {
      const { vcpu, load } = rig();
      await load('hlt');
      const keys = ['regs', 'sregs', 'fpu', 'xcrs', 'debugregs', 'events', 'mp_state'] as const;
      const before = await vcpu.get(...keys);

      await vcpu.set(before);

      expect(await vcpu.get(...keys)).toEqual(before);
    });
  });

  describe('a running vCPU', () => {
    it('refuses calls, pauses, and goes on where it was', async () => {
      const { vcpu, load } = rig();
      await load('xor ebx, ebx; 1: inc ebx; jmp 1b');

      const runUntil = async (passed: (rbx: bigint) => boolean) => {
        for (;;) {
          vcpu.run();
          expect(() => vcpu.call('get', ['regs'])).toThrow(expect.objectContaining({ code: 'TSV_E_STATE' }));
          await sleep(2);
          await vcpu.pause();
          const { rbx } = (await vcpu.get('regs')).regs;
          if (passed(rbx)) return rbx;
        }
      };

      const first = await runUntil((rbx) => rbx > 0n);
      const second = await runUntil((rbx) => rbx !== first);

      expect(second).toBeGreaterThan(first);
    });

    it('pauses at once, however often and early it is asked', async () => {
      const { vcpu, load, outcomes } = rig();
      await load('cli; 1: jmp 1b');

      for (let i = 0; i < 200; i++) {
        vcpu.run();
        await Promise.all([vcpu.pause(), vcpu.pause()]);
      }

      expect(vcpu.running).toBe(false);
      expect(outcomes).toEqual([]);
    });

    it('reports what ended its run, once', async () => {
      const { vcpu, load, ended, outcomes } = rig();
      await load('mov ax, 7; hlt');

      vcpu.run();
      const outcome = await ended();
      await vcpu.pause();
      await vcpu.stop();

      expect(outcome).toEqual({ kind: 'halted' });
      expect(outcomes).toHaveLength(1);
      expect((await vcpu.get('regs')).regs.rax).toBe(7n);
    });

    it('runs again after a triple fault once it has a new state', async () => {
      const { vcpu, load, ended, outcomes } = rig();
      await load('lidt [none]; mov eax, cr0; or al, 1; mov cr0, eax; ud2; none: .word 0, 0, 0');
      vcpu.run();
      const first = await ended();
      outcomes.length = 0;

      await load('hlt');
      vcpu.run();

      expect(first.kind).toBe('shutdown');
      expect(await ended()).toEqual({ kind: 'halted' });
    });

    it('stops while it waits for a device that never answers, once it is let go', async () => {
      const { vcpu, load, bus, outcomes } = rig();
      const silent = {
        name: 'silent',
        read: () => new Promise<number>(() => {}),
        save: () => ({}),
        restore() {},
      };
      bus.mount(silent, { space: 'pio', base: 0x42, size: 1 });
      void bus.serve();
      await load('in al, 0x42; hlt');
      vcpu.run();
      await sleep(10);

      const stopped = vcpu.stop();
      bus.abort();
      await stopped;

      expect(vcpu.running).toBe(false);
      expect(outcomes).toEqual([]);
    });

    it('closes while it runs, and twice', async () => {
      const { vcpu, load } = rig();
      await load('cli; 1: jmp 1b');
      vcpu.run();

      await Promise.all([vcpu.close(), vcpu.close()]);

      expect(() => vcpu.call('get', ['regs'])).toThrow(/gone/);
      await vcpu.close();
    });

    it('sends its trace in batches and what is left when it ends', async () => {
      const { vcpu, load, ended, trace } = rig({ trace: ['exits', 'io'] });
      await load('mov cx, 300; 1: in al, 0x42; loop 1b; hlt');

      vcpu.run();
      await ended();

      expect(trace).toHaveLength(601);
      expect(trace[0]).toBe('vcpu0 exit IO');
      expect(trace[1]).toBe('vcpu0 io read 0x42/1 0xff (unclaimed)');
      expect(trace.at(-1)).toBe('vcpu0 exit HLT');
    });
  });

  describe('a thread that cannot start', () => {
    it('for an engine that does not exist says why', async () => {
      const { vcpu } = rig({ port: (port) => ({ ...port, engine: 'abacus' as 'kvm' }) });

      await expect(vcpu.ready).rejects.toThrow(/abacus/);
    });
  });
});

describe.runIf(ENGINES.includes('kvm'))('a thread that KVM gives no vCPU', () => {
  it.each([
    ['a VM that is not there', { vmFd: 9999 }, /KVM_CREATE_VCPU failed with EBADF/],
    ['a descriptor that is no VM', { vmFd: 0 }, /KVM_CREATE_VCPU failed/],
  ])('for %s says why, and can be closed', async (_, detail, message) => {
    const { vcpu, outcomes } = makeRig('kvm', {
      port: (port) => ({ ...port, detail: { ...(port.detail as object), ...detail } }),
    });

    await expect(vcpu.ready).rejects.toMatchObject({ code: 'TSV_E_IOCTL', message });

    expect(outcomes.map(({ kind }) => kind)).toEqual(['error']);
    await vcpu.close();
    await expect(vcpu.get('regs')).rejects.toMatchObject({ code: 'TSV_E_STATE' });
  });
});
