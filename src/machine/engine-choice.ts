/** Which engine runs a machine, and why (architecture: `auto` never hides a reason, an explicit choice never changes). */
import type { SharedTime } from '../devices/shared-time.ts';
import { TsvError, toTsvError } from '../errors.ts';
import { loadNative, nativeMemory, nativeProblem } from '../kvm/native.ts';
import { probeKvm } from '../kvm/probe.ts';
import { KvmVm } from '../kvm/vm.ts';
import { allocateRam } from '../memory/allocate.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { MAX_TCG_CPUS, TcgVm } from '../tcg/vm.ts';
import type { EngineName, EngineVm } from '../vcpu/engine.ts';
import { TCG_TOPICS } from '../vcpu/protocol.ts';
import type { ResolvedConfig } from './config.ts';
import { apicIds } from './cpu.ts';
import { pmemSize } from './pmem.ts';

/** A chosen engine. */
export interface EngineChoice {
  /** The engine that was chosen. */
  engine: EngineName;
  /** One sentence for the user. */
  why: string;
  /** Allocates RAM and creates the engine's half of the machine. */
  create(config: ResolvedConfig, time: SharedTime): { engine: EngineVm; memory: GuestMemory };
}

/** One WebAssembly memory, less what aligning RAM in it may take: room for guest memory and the state of the vCPUs. */
const TCG_ROOM = 2 ** 32 - 2 ** 22;

/** Whether tcg has no room for a machine. */
function isTooLargeForTcg(config: ResolvedConfig): boolean {
  const { cpus, memory } = config;
  return cpus > MAX_TCG_CPUS || TcgVm.reserve(cpus) + memory + TcgVm.spare + pmemSize(config) > TCG_ROOM;
}

/**
 * Chooses the engine for a configuration.
 * @throws the errors of KvmSystem.open when KVM was asked for and cannot be used
 */
export function chooseEngine(config: ResolvedConfig): EngineChoice {
  if (config.accel === 'kvm') {
    checkTrace(config);
    return { engine: 'kvm', why: 'it was asked for', create: createKvm };
  }
  if (config.accel === 'tcg') return { engine: 'tcg', why: 'it was asked for', create: createTcg };
  const topic = config.trace.find((wanted) => TCG_TOPICS.includes(wanted));
  if (topic !== undefined) return { engine: 'tcg', why: `only it can trace ${topic}`, create: createTcg };
  if (config.clock === 'virtual') {
    return { engine: 'tcg', why: 'only it has a virtual clock', create: createTcg };
  }
  if (config.seed !== undefined) {
    return { engine: 'tcg', why: 'only its random numbers can be seeded', create: createTcg };
  }
  let reason: string;
  try {
    const { software, kernelMips } = probeKvm();
    if (!software) return { engine: 'kvm', why: '/dev/kvm can be used', create: createKvm };
    reason = `this host's KVM emulates kernel code, at ${kernelMips.toPrecision(2)} million instructions a second`;
    if (isTooLargeForTcg(config)) {
      return { engine: 'kvm', why: `${reason}, but the machine is too large for tcg`, create: createKvm };
    }
  } catch (error) {
    if (!(error instanceof TsvError)) throw error;
    reason = `KVM cannot be used: ${error.message.replace(/\.$/, '')}`;
  }
  return { engine: 'tcg', why: reason, create: createTcg };
}

function checkTrace({ trace }: ResolvedConfig): void {
  const topic = trace.find((wanted) => TCG_TOPICS.includes(wanted));
  if (topic === undefined) return;
  throw new TsvError('TSV_E_CONFIG', `The kvm engine cannot trace ${topic}.`, {
    hint: 'Use accel: "tcg", which executes every instruction itself.',
  });
}

function createTcg(config: ResolvedConfig, time: SharedTime): { engine: EngineVm; memory: GuestMemory } {
  checkTcgPmem(config);
  const memory = allocateRam({
    size: config.memory,
    backend: config.memoryBackend,
    mergeable: config.mergeable,
    prefault: config.prefault,
    reserve: TcgVm.reserve(Math.min(config.cpus, MAX_TCG_CPUS)),
    spare: TcgVm.spare + pmemSize(config),
    native: nativeProblem() === undefined ? nativeMemory(loadNative()) : undefined,
  });
  const { irqchip, dirtyLog, seed } = config;
  const engine = TcgVm.create(
    { memory, irqchip, pit: false, dirtyLog, apicIds: apicIds(config), time, seed },
    config.cpus,
  );
  return { engine, memory };
}

/** RAM alone that is too large is refused where it is allocated. */
function checkTcgPmem(config: ResolvedConfig): void {
  const pmem = pmemSize(config);
  const room = TCG_ROOM - TcgVm.reserve(Math.min(config.cpus, MAX_TCG_CPUS)) - TcgVm.spare;
  if (pmem === 0 || config.memory + pmem <= room) return;
  const mib = (bytes: number) => Math.floor(bytes / 2 ** 20);
  throw new TsvError(
    'TSV_E_MEMORY_SIZE',
    `The tcg engine has no room for ${mib(config.memory)} MiB of RAM and ${mib(pmem)} MiB of persistent memory.`,
    { hint: `Together they may have ${mib(room)} MiB; use the image as a disk, or run with --accel kvm.` },
  );
}

function createKvm(config: ResolvedConfig): { engine: EngineVm; memory: GuestMemory } {
  const ids = apicIds(config);
  const memory = allocateRam({
    size: config.memory,
    backend: config.memoryBackend,
    mergeable: config.mergeable,
    prefault: config.prefault,
    native: nativeMemory(loadNative()),
  });
  const pit = config.irqchip === 'kernel' && config.timeScale === 1 && config.board === 'pc';
  const { irqchip, dirtyLog, eventfds } = config;
  try {
    const vmConfig = { memory, irqchip, pit, dirtyLog, apicIds: ids, eventfds };
    const engine = KvmVm.create(vmConfig, { probe: probeKvm });
    return { engine, memory };
  } catch (error) {
    throw toTsvError(
      error,
      'TSV_E_ENGINE',
      'The kvm engine could not create the machine.',
      'Run `tsvisor doctor`; TSVISOR_DEBUG=1 shows the cause.',
    );
  }
}
