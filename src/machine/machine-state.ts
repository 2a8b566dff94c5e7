/**
 * The whole state of a machine that stands still, from which another machine object of the same configuration goes on:
 * requests that a device had under way included.
 *
 * A machine that stands has no instruction under way, but its devices may: a disk's write ends when the host is done with
 * it. So devices and RAM are taken in one piece, without letting the event loop turn, and the vCPUs, whose threads have to
 * be asked, after them. What completes in between adds at most an interrupt to a vCPU, for which its driver finds nothing
 * done yet; taken the other way round, an interrupt would be lost. Requests that were under way are done again by the
 * machine that goes on.
 *
 * Not part of it: what disks hold, which must be as it was then or later, as an interrupted host would leave it, and what
 * the host had not handed over yet or has taken already, such as typed characters and console output.
 */
import type { DeviceState } from '../devices/device.ts';
import { TsvError } from '../errors.ts';
import { STATE_ORDER, type StateKey } from '../vcpu/engine.ts';
import type { VcpuState } from '../vcpu/state.ts';
import type { Vm } from './vm.ts';

/** All of it can be copied by structured clone. */
export interface MachineState {
  /** Guest time. */
  clock: DeviceState;
  /** RAM by region, ascending. */
  memory: { gpa: number; bytes: Uint8Array }[];
  /** In the order in which they were attached. */
  devices: { name: string; state: DeviceState }[];
  /** What the engine keeps outside of vCPUs and devices: an in-kernel irqchip and its clock. */
  engine: Record<string, unknown>;
  vcpus: Partial<VcpuState>[];
  /** Indices of vCPUs that have come to their end, on a machine without interrupt controllers. */
  halted: number[];
}

/**
 * Takes the state of a paused machine, which can be resumed or closed then. To go on elsewhere close it before the other
 * is restored: what its disks still do must be over.
 * @throws TSV_E_STATE unless paused
 */
export async function saveMachine(vm: Vm): Promise<MachineState> {
  need(vm, 'paused');
  const { memory } = vm;
  const taken = {
    clock: vm.clock.save(),
    memory: memory.regions.map(({ gpa, size }) => ({ gpa, bytes: memory.read(gpa, size) })),
    devices: vm.devices.map((device) => ({ name: device.name, state: structuredClone(device.save()) })),
    engine: structuredClone(vm.engine.save()),
  };
  const indices = Array.from({ length: vm.config.cpus }, (_, index) => index);
  const vcpus = await Promise.all(indices.map((index) => vm.readVcpu(index, ...stateKeys(vm))));
  return { ...taken, vcpus, halted: [...vm.halted] };
}

/**
 * Gives a machine that was just created, from the configuration of the one that was saved, that one's state. It then goes
 * on with `start()`; when this throws it can only be closed.
 * @throws TSV_E_STATE for the state of another kind of machine, TSV_E_IOCTL
 */
export async function restoreMachine(vm: Vm, state: MachineState): Promise<void> {
  need(vm, 'created');
  checkShape(vm, state);
  for (const { gpa, bytes } of state.memory) vm.memory.write(gpa, bytes);
  vm.clock.restore(state.clock);
  await Promise.all(state.vcpus.map((vcpu, index) => vm.writeVcpu(index, vcpu)));
  vm.halted = state.halted;
  // Interrupt controllers are attached first: they find local APICs that take what had not been delivered yet, and when
  // the devices raise their lines again that is no edge. A kernel's controllers forget what they had of a line before.
  for (const [index, device] of vm.devices.entries()) device.restore(state.devices[index].state);
  vm.engine.restore(state.engine);
}

/** Without interrupt controllers there is no local APIC to be asked. */
function stateKeys({ config }: Vm): StateKey[] {
  return STATE_ORDER.filter((key) => key !== 'lapic' || config.irqchip !== 'none');
}

function checkShape(vm: Vm, state: MachineState): void {
  const names = (devices: readonly { name: string }[]) => devices.map(({ name }) => name).join(', ');
  const regions = (list: readonly { gpa: number; size: number }[]) =>
    list.map(({ gpa, size }) => `0x${gpa.toString(16)}+0x${size.toString(16)}`).join(', ');
  const saved = state.memory.map(({ gpa, bytes }) => ({ gpa, size: bytes.length }));
  compare('devices', names(state.devices), names(vm.devices));
  compare('RAM', regions(saved), regions(vm.memory.regions));
  compare('number of vCPUs', String(state.vcpus.length), String(vm.config.cpus));
}

function compare(what: string, saved: string, present: string): void {
  if (saved === present) return;
  throw new TsvError(
    'TSV_E_STATE',
    `The saved machine has other ${what}: ${saved}; this one has ${present}.`,
    {
      hint: 'Create the machine with the configuration of the one that was saved.',
    },
  );
}

function need(vm: Vm, wanted: 'created' | 'paused'): void {
  if (vm.state === wanted) return;
  throw new TsvError('TSV_E_STATE', `The machine is ${vm.state}; this needs it ${wanted}.`, {
    hint: wanted === 'paused' ? 'Pause it first.' : 'Create a new one to restore into.',
  });
}
