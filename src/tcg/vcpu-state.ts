/** The state components of a tcg vCPU, in the structs of the KVM UAPI. */
import { exportLapicState, importLapicState } from '../devices/irqchip/apic-page.ts';
import { TsvError } from '../errors.ts';
import type { StateKey } from '../vcpu/engine.ts';
import { MP_STATE, type VcpuState } from '../vcpu/state.ts';
import { featuresOf, TSC_KHZ } from './cpuid.ts';
import { XSAVE_BYTES, xrstor, xsave } from './fpu/fxsave.ts';
import { S } from './layout.ts';
import * as transfer from './state-transfer.ts';
import { fxStateOf } from './system/fpu-operations.ts';
import type { TcgVcpu } from './vcpu.ts';

/** struct kvm_xsave. */
const XSAVE_SIZE = 4096;
const X87_AND_SSE = 3;
const MP_STATES: readonly number[] = [
  MP_STATE.RUNNABLE,
  MP_STATE.UNINITIALIZED,
  MP_STATE.INIT_RECEIVED,
  MP_STATE.HALTED,
];
const WHOLE = { wide: true, longMode: true } as const;

interface Accessor<T> {
  get(vcpu: TcgVcpu): T;
  set(vcpu: TcgVcpu, value: T): void;
}

/** Reads and writes each component. */
export const ACCESSORS: { [K in StateKey]: Accessor<VcpuState[K]> } = {
  regs: {
    get: ({ cpu }) => transfer.getRegs(cpu),
    set: ({ cpu }, regs) => transfer.setRegs(cpu, regs),
  },
  sregs: {
    get: ({ cpu, apic }) => ({ ...transfer.getSregs(cpu), apic_base: apic.apicBase }),
    set({ cpu, apic }, sregs) {
      if (!apic.loadApicBase(sregs.apic_base)) {
        throw refused(`IA32_APIC_BASE cannot be 0x${sregs.apic_base.toString(16)}`);
      }
      transfer.setSregs(cpu, sregs);
    },
  },
  fpu: {
    get: ({ cpu }) => transfer.getFpu(cpu),
    set: ({ cpu }, fpu) => transfer.setFpu(cpu, fpu),
  },
  xsave: {
    get({ cpu }) {
      const bytes = new Uint8Array(XSAVE_SIZE);
      xsave(fxStateOf(cpu), new DataView(bytes.buffer), 0, WHOLE, X87_AND_SSE);
      return bytes;
    },
    set({ cpu }, bytes) {
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      const fits = bytes.length >= XSAVE_BYTES;
      if (!fits || !xrstor(fxStateOf(cpu), view, 0, WHOLE, X87_AND_SSE, X87_AND_SSE)) {
        throw refused('The XSAVE area is too short or has components that this CPU lacks');
      }
    },
  },
  xcrs: {
    get: ({ cpu }) => [{ xcr: 0, value: cpu.state.u64(S.XCR0) }],
    set({ cpu }, xcrs) {
      for (const { xcr, value } of xcrs) {
        if (xcr !== 0 || (value & 1n) === 0n || value > BigInt(X87_AND_SSE)) {
          throw refused(`XCR${xcr} cannot be 0x${value.toString(16)}`);
        }
        cpu.state.setU64(S.XCR0, value);
      }
    },
  },
  debugregs: {
    get: ({ cpu }) => transfer.getDebugRegs(cpu),
    set: ({ cpu }, debugregs) => transfer.setDebugRegs(cpu, debugregs),
  },
  msrs: {
    get: (vcpu) => vcpu.getMsrs(vcpu.savedMsrs),
    set(vcpu, msrs) {
      for (const { index, data } of msrs) vcpu.setMsr(index, data);
    },
  },
  cpuid: {
    get: ({ cpu }) => [...cpu.system.registers.cpuid],
    set({ cpu, apic }, cpuid) {
      const has = featuresOf(cpuid);
      cpu.system.registers.cpuid = cpuid;
      cpu.setFeatures(has);
      apic.offersX2apic = has('x2apic');
    },
  },
  lapic: {
    get: ({ apic }) => exportLapicState(apic),
    set: ({ apic }, page) => importLapicState(apic, page),
  },
  mp_state: {
    get: (vcpu) => vcpu.mpState,
    set(vcpu, state) {
      // A start-up request is taken with its vector or not at all: no vCPU stands with one.
      if (!MP_STATES.includes(state)) throw refused(`The state of multiprocessing cannot be ${state}`);
      vcpu.mpState = state;
    },
  },
  events: {
    get: (vcpu) => vcpu.getEvents(),
    set: (vcpu, events) => vcpu.setEvents(events),
  },
  tsc_khz: {
    get: () => TSC_KHZ,
    set(_, khz) {
      if (khz !== TSC_KHZ) throw refused(`The TSC of this engine runs at ${TSC_KHZ} kHz, not at ${khz}`);
    },
  },
};

/** With the code that KVM's refusals have: who restores a state need not know the engine. */
function refused(what: string): TsvError {
  return new TsvError('TSV_E_IOCTL', `${what}.`, {
    hint: 'The state comes from a machine of another kind; restore it into one like that.',
  });
}
