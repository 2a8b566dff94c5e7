/** All state of a vCPU, read and written through the machine while it is paused. */
import { describe, expect, it } from 'vitest';
import type { VcpuState } from '../../src/index.ts';
import type { Vm } from '../../src/machine/vm.ts';
import { MP_STATE } from '../../src/vcpu/state.ts';
import { ENGINES } from '../support/engines.ts';
import { type Guests, guestsOn, RecordingDevice } from '../support/guests.ts';

const KEYS = [
  'regs',
  'sregs',
  'fpu',
  'xsave',
  'xcrs',
  'debugregs',
  'msrs',
  'cpuid',
  'lapic',
  'mp_state',
  'events',
  'tsc_khz',
] as const satisfies readonly (keyof VcpuState)[];

const MSR = {
  TSC: 0x10,
  APERF: 0xe8,
  MPERF: 0xe7,
  STAR: 0xc0000081,
  LSTAR: 0xc0000082,
  KERNEL_GS_BASE: 0xc0000102,
};

/** What runs on while a vCPU stands: clocks. */
function still(state: VcpuState): VcpuState {
  const clocks = [MSR.TSC, MSR.APERF, MSR.MPERF];
  const lapic = state.lapic.slice();
  new DataView(lapic.buffer).setUint32(0x390, 0); // the timer's current count
  return { ...state, lapic, msrs: state.msrs.filter(({ index }) => !clocks.includes(index)) };
}

/** Where the guest says that it is in its loop. */
const BEGUN = 0x3000;

async function pausedVm({ longModeVm }: Guests): Promise<Vm> {
  const loop = '1: test eax, eax; jnz 1b; out 0x55, al; 2: hlt; jmp 2b';
  const vm = await longModeVm(`mov eax, 1; mov [${BEGUN}], al; ${loop}`, { irqchip: 'kernel' });
  vm.start();
  while (vm.memory.readU8(BEGUN) === 0) await new Promise((resolve) => setTimeout(resolve, 1));
  await vm.pause();
  return vm;
}

const msrOf = ({ msrs }: Pick<VcpuState, 'msrs'>, index: number) =>
  msrs.find((msr) => msr.index === index)?.data;

describe.each(ENGINES)('on %s', (accel) => {
  const guests = guestsOn(accel);
  const { longModeVm } = guests;

  describe('the state of a paused vCPU', () => {
    it('can be read whole and written back whole, without a change', async () => {
      await using vm = await pausedVm(guests);

      const before = await vm.readVcpu(0, ...KEYS);
      await vm.writeVcpu(0, before);
      const after = await vm.readVcpu(0, ...KEYS);

      expect(Object.keys(before).sort()).toEqual([...KEYS].sort());
      expect(still(after)).toEqual(still(before));
    });

    it('keeps what is written, in every component', async () => {
      await using vm = await pausedVm(guests);
      const state = await vm.readVcpu(0, ...KEYS);
      const xsave = state.xsave.slice();
      // XMM1 in the legacy region, and XSTATE_BV with x87 and SSE (SDM vol. 1, 13.4).
      xsave.set([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16], 176);
      xsave[512] |= 3;
      const lapic = state.lapic.slice();
      new DataView(lapic.buffer).setUint32(0x80, 0x30, true); // task priority
      const written: Partial<VcpuState> = {
        regs: { ...state.regs, r12: 0xfedc_ba98_7654_3210n, rbp: 0xffff_8000_0000_0000n },
        sregs: { ...state.sregs, cr2: 0x1234_5678_9000n, cr8: 3n, gs: { ...state.sregs.gs, base: 0x7000n } },
        xsave,
        debugregs: { ...state.debugregs, db: [0x1000n, 0x2000n, 0x3000n, 0x4000n] },
        msrs: [
          { index: MSR.STAR, data: 0x0023_0010_0000_0000n },
          { index: MSR.KERNEL_GS_BASE, data: 0xffff_8880_0000_0000n },
        ],
        lapic,
        mp_state: MP_STATE.RUNNABLE,
        events: { ...state.events, nmi: { ...state.events.nmi, masked: 1 } },
      };

      await vm.writeVcpu(0, written);
      const read = await vm.readVcpu(0, ...KEYS);

      expect(read.regs).toEqual(written.regs);
      expect(read.sregs).toEqual(written.sregs);
      expect(read.xsave.subarray(176, 192)).toEqual(xsave.subarray(176, 192));
      expect(read.fpu.xmm.subarray(16, 32)).toEqual(xsave.subarray(176, 192));
      expect(read.debugregs.db).toEqual(written.debugregs?.db);
      expect(msrOf(read, MSR.STAR)).toBe(0x0023_0010_0000_0000n);
      expect(msrOf(read, MSR.KERNEL_GS_BASE)).toBe(0xffff_8880_0000_0000n);
      expect(new DataView(read.lapic.buffer, read.lapic.byteOffset).getUint32(0x80, true)).toBe(0x30);
      expect(read.mp_state).toBe(MP_STATE.RUNNABLE);
      expect(read.events.nmi.masked).toBe(1);
      expect(read.cpuid).toEqual(state.cpuid);
      expect(read.xcrs).toEqual(state.xcrs);
      expect(read.tsc_khz).toBe(state.tsc_khz);
    });

    it('goes on in another machine with the same memory', async () => {
      await using first = await pausedVm(guests);
      const state = await first.readVcpu(0, ...KEYS);
      const { regs } = state;
      await using second = await longModeVm('hlt', { irqchip: 'kernel' });
      const device = new RecordingDevice();
      const told = new Promise<void>((resolve) => {
        device.write = () => resolve();
      });
      second.addDevice(device, { pio: [{ base: 0x55, size: 1 }] });
      second.memory.write(0, first.memory.read(0, first.memory.size));

      // The loop ends when RAX is 0.
      await second.writeVcpu(0, { ...state, regs: { ...regs, rax: 0n } });
      second.start();
      await told;

      await second.pause();
      const { regs: after } = await second.readVcpu(0, 'regs');
      expect(after.rax).toBe(0n);
      expect(after.rip).toBeGreaterThan(regs.rip);
    });

    it('takes an NMI that the host sends', async () => {
      await using vm = await longModeVm('1: jmp 1b', { irqchip: 'kernel' });
      vm.start();
      await vm.pause();

      await vm.nmi(0);

      const { events } = await vm.readVcpu(0, 'events');
      expect(events.nmi.pending + events.nmi.injected).toBe(1);
    });
  });

  describe('state that a processor cannot have', () => {
    it.each<[string, Partial<VcpuState>]>([
      ['an MSR that is not there', { msrs: [{ index: 0x12345678, data: 0n }] }],
      ['an unknown state of multiprocessing', { mp_state: 99 }],
      ['an XCR0 without x87', { xcrs: [{ xcr: 0, value: 4n }] }],
    ])('%s is refused, and the vCPU can still be used', async (_, state) => {
      await using vm = await pausedVm(guests);

      await expect(vm.writeVcpu(0, state)).rejects.toMatchObject({
        code: 'TSV_E_IOCTL',
        hint: expect.stringMatching(/./),
      });

      expect((await vm.readVcpu(0, 'regs')).regs.rax).toBe(1n);
    });

    it('a vCPU that is not there is refused by name', async () => {
      await using vm = await pausedVm(guests);

      await expect(vm.readVcpu(1, 'regs')).rejects.toMatchObject({
        code: 'TSV_E_CPU_COUNT',
        message: expect.stringContaining('vCPU 1'),
      });
    });
  });
});
