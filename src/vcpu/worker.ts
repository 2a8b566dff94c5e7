/** The thread of one vCPU: opens the engine's vCPU, carries out calls while it stands, and runs it when told. */
import { parentPort, threadId, workerData } from 'node:worker_threads';
import { BusClient } from '../devices/bus-client.ts';
import { BusTable } from '../devices/bus-table.ts';
import { Channel, Doorbell } from '../devices/channel.ts';
import { TsvError } from '../errors.ts';
import { exitReasonName } from '../kvm/abi/index.ts';
import { loadNative, nativeProblem } from '../kvm/native.ts';
import { GuestMemory } from '../memory/guest-memory.ts';
import { VcpuControl } from './control.ts';
import { type EngineVcpu, STATE_ORDER } from './engine.ts';
import { openVcpu } from './engines.ts';
import type { VcpuCalls, VcpuInit, VcpuReport, VcpuRequest } from './protocol.ts';
import { errorMessage, RunLoop } from './run-loop.ts';
import type { VcpuState } from './state.ts';
import { Tracer } from './tracer.ts';

const init = workerData as VcpuInit;
const port = parentPort!;
const report = (message: VcpuReport) => port.postMessage(message);

function callsOf(vcpu: EngineVcpu): VcpuCalls {
  return {
    get(keys) {
      const state: Record<string, unknown> = {};
      for (const key of keys) state[key] = vcpu.get(key);
      return state as Partial<VcpuState>;
    },
    set(state) {
      for (const key of STATE_ORDER) {
        const value = state[key];
        if (value !== undefined) vcpu.set(key, value as never);
      }
    },
    translate: (linear) => vcpu.translate(linear),
    setGuestDebug: (debug) => vcpu.setGuestDebug(debug),
    interrupt: (vector) => vcpu.interrupt(vector),
    nmi: () => vcpu.nmi(),
  };
}

/** Pins the calling thread; only once everything is loaded: threads that loading starts would be pinned with it. */
function pin(vcpu: EngineVcpu): void {
  if (init.affinity.length === 0) return;
  if (loadNative().setAffinity(0, [...init.affinity]) === 0) return;
  vcpu.close();
  const { index } = init.port;
  throw new TsvError(
    'TSV_E_CONFIG',
    `vCPU ${index} cannot be pinned to host CPU ${init.affinity.join(', ')}.`,
    {
      hint: 'Choose CPUs that this process may run on; "taskset -p $$" shows them.',
    },
  );
}

async function main(): Promise<void> {
  const control = new VcpuControl(init.control);
  const wakeups = nativeProblem() === undefined ? loadNative() : undefined;
  control.tid = wakeups?.gettid() ?? threadId;
  const tracer = new Tracer(init.port.index, init.trace, (lines) => report({ type: 'trace', lines }));
  const vcpu = await openVcpu(init.port, {
    tracer,
    log: (level, message) => report({ type: 'log', level, message }),
  });
  pin(vcpu);
  const memory = new GuestMemory(init.memory);
  const bus = new BusClient(
    new BusTable(init.busTable),
    new Channel(init.channel, wakeups),
    new Doorbell(init.doorbell, wakeups),
  );
  bus.synchronous = init.synchronous ?? false;
  if (tracer.has('io') || tracer.has('mmio')) bus.trace = tracer.access;
  // What is traced as an exit has to be one.
  if (!tracer.has('exits')) vcpu.attachBus?.(bus);
  // Not even loaded for an engine that executes everything itself: threads shall come up fast.
  const hooks =
    init.port.engine === 'kvm'
      ? (await import('./kvm-hooks.ts')).kvmHooks(vcpu, memory, new Int32Array(init.assistLock), tracer)
      : { assist: () => false, debug: () => false, writeMsr: () => false };
  const loop = new RunLoop(vcpu, bus, control, init.irqchip, {
    ...hooks,
    eoi: (vector) => report({ type: 'eoi', vector }),
    trace: tracer.has('exits') ? (reason) => tracer.add(`exit ${exitReasonName(reason)}`) : undefined,
  });
  const calls = callsOf(vcpu) as unknown as Record<string, (...args: unknown[]) => unknown>;

  port.on('message', (request: VcpuRequest) => {
    switch (request.type) {
      case 'run': {
        const outcome = loop.run();
        if (outcome.kind === 'paused') vcpu.announcePause();
        tracer.flush();
        report({ type: 'ended', outcome });
        break;
      }
      case 'call':
        try {
          report({ type: 'reply', id: request.id, value: calls[request.method](...request.args) });
        } catch (error) {
          report({ type: 'reply', id: request.id, error: errorMessage(error) });
        }
        break;
      case 'close':
        vcpu.close();
        port.close();
        break;
    }
  });
  report({ type: 'ready' });
}

main().catch((error) => {
  report({ type: 'ended', outcome: { kind: 'error', error: errorMessage(error) } });
  port.close();
});
