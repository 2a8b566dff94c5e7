// needs: kvm
/** The assist on this host's KVM: kernel code runs to its end, whichever of its instructions KVM itself completes. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import * as abi from '../../../src/kvm/abi/index.ts';
// Before scratch-vm.ts, which it and vm.ts import in a circle.
import { probeKvm } from '../../../src/kvm/probe.ts';
import { ENDING, ScratchVm } from '../../../src/kvm/scratch-vm.ts';
import { assistInstruction } from '../../../src/vcpu/assist/index.ts';
import { buildCpuid, parseCpuModel, topologyOf } from '../../../src/vcpu/cpuid/index.ts';

let vm: ScratchVm;
/** Mnemonics that KVM left to the assist. */
const assisted: string[] = [];
beforeAll(() => {
  vm = new ScratchVm();
});
afterAll(() => vm[Symbol.dispose]());

/** Runs code at CPL 0 to its end; RSI points at zeroes. @returns the first four words it wrote there */
function run(...code: number[]): number[] {
  let exit = vm.run(Uint8Array.of(...code, ...ENDING), 0);
  const area = new DataView(vm.vcpu.run.buffer, vm.vcpu.run.byteOffset);
  for (let tries = 0; exit === abi.KVM_EXIT_INTERNAL_ERROR && tries < 8; tries++) {
    const result = assistInstruction(vm.vcpu, vm.memory);
    expect(result).toMatchObject({ kind: 'completed' });
    assisted.push(result.mnemonic);
    vm.vcpu.enter();
    exit = area.getUint32(abi.KVM_RUN_EXIT_REASON, true);
  }
  expect(abi.exitReasonName(exit)).toBe('MMIO');
  return vm.result();
}

test('cmpxchg16b', () => {
  // mov ebx,5; mov ecx,7; xor eax,eax; xor edx,edx; lock cmpxchg16b [rsi]
  const setup = [0xbb, 5, 0, 0, 0, 0xb9, 7, 0, 0, 0, 0x31, 0xc0, 0x31, 0xd2];

  expect(run(...setup, 0xf0, 0x48, 0x0f, 0xc7, 0x0e)).toEqual([5, 0, 7, 0]);
});

test('fwait and pause', () => {
  // fwait; pause; mov dword [rsi],9
  expect(run(0x9b, 0xf3, 0x90, 0xc7, 0x06, 9, 0, 0, 0)).toEqual([9, 0, 0, 0]);
});

test('vector instructions see each other\u2019s registers', () => {
  // mov eax,0x01020304; movd xmm1,eax; pshufd xmm2,xmm1,0; paddb xmm2,xmm2; pxor xmm1,xmm2; movdqu [rsi],xmm1
  const code = [
    ...[0xb8, 4, 3, 2, 1],
    ...[0x66, 0x0f, 0x6e, 0xc8],
    ...[0x66, 0x0f, 0x70, 0xd1, 0],
    ...[0x66, 0x0f, 0xfc, 0xd2],
    ...[0x66, 0x0f, 0xef, 0xca],
    ...[0xf3, 0x0f, 0x7f, 0x0e],
  ];

  expect(run(...code)).toEqual([0x01020304 ^ 0x02040608, 0x02040608, 0x02040608, 0x02040608]);
});

test('popcnt', () => {
  // mov eax,0xf0f0; popcnt ecx,eax; mov [rsi],ecx
  expect(run(0xb8, 0xf0, 0xf0, 0, 0, 0xf3, 0x0f, 0xb8, 0xc8, 0x89, 0x0e)).toEqual([8, 0, 0, 0]);
});

test('lar and verr', () => {
  // mov ecx,0x10; lar eax,ecx; mov [rsi],eax; verr cx; setz [rsi+4]
  const code = [0xb9, 0x10, 0, 0, 0, 0x0f, 0x02, 0xc1, 0x89, 0x06, 0x0f, 0x00, 0xe1, 0x0f, 0x94, 0x46, 4];

  expect(run(...code)).toEqual([0xaf9b00, 1, 0, 0]);
});

test.each(['host', 'x86-64-v1', 'x86-64-v2', 'x86-64-v3'])('KVM takes the CPUID table of %s', (model) => {
  const topology = topologyOf(4, { sockets: 1, cores: 2, threads: 2 });
  const { entries } = buildCpuid(parseCpuModel(model), vm.vm.supportedCpuid(), {
    apicId: 0,
    topology,
    tscKhz: 2_000_000,
  });
  using other = new ScratchVm(entries);

  const back = other.vcpu.get('cpuid');

  const signature = back.find((entry) => entry.function === 0x40000000);
  expect(signature?.ebx).toBe(0x4b4d564b);
  expect(back.find((entry) => entry.function === 0xb && entry.index === 1)?.ebx).toBe(4);
});

test('a software KVM leaves instructions to the assist, hardware none', () => {
  expect(assisted.length > 0).toBe(probeKvm().software);
});
