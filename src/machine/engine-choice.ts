/** Which engine runs a machine, and why (architecture: `auto` never hides a reason, an explicit choice never changes). */
import { TsvError, toTsvError } from '../errors.ts';
import { loadNative, nativeMemory } from '../kvm/native.ts';
import { probeKvm } from '../kvm/probe.ts';
import { KvmVm } from '../kvm/vm.ts';
import { allocateRam } from '../memory/allocate.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import type { EngineName, EngineVm } from '../vcpu/engine.ts';
import type { ResolvedConfig } from './config.ts';
import { apicIds } from './cpu.ts';

/** A chosen engine. */
export interface EngineChoice {
  /** The engine that was chosen. */
  engine: EngineName;
  /** One sentence for the user. */
  why: string;
  /** Allocates RAM and creates the engine's half of the machine. */
  create(config: ResolvedConfig): { engine: EngineVm; memory: GuestMemory };
}

/**
 * Chooses the engine for a configuration.
 * @throws TSV_E_ENGINE for one this version does not have; the errors of KvmSystem.open when KVM cannot be used
 */
export function chooseEngine(config: ResolvedConfig): EngineChoice {
  if (config.accel === 'tcg') {
    throw new TsvError('TSV_E_ENGINE', 'This version has no tcg engine.', {
      hint: 'Use accel "kvm" on a host with /dev/kvm.',
    });
  }
  const why = config.accel === 'kvm' ? 'it was asked for' : '/dev/kvm can be used';
  return { engine: 'kvm', why, create: createKvm };
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
  const { irqchip, dirtyLog } = config;
  try {
    const engine = KvmVm.create({ memory, irqchip, pit, dirtyLog, apicIds: ids }, { probe: probeKvm });
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
