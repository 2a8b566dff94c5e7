/**
 * What this host's KVM can really do. A KVM without VT-x/AMD-V behind it (a software KVM) offers the same ioctls but
 * emulates the guest's kernel mode, slowly and not every instruction: found out by trying, not by names.
 */
import { buildCpuid, CPU_FEATURES, featureNames, parseCpuModel, topologyOf } from '../vcpu/cpuid/index.ts';
import type { CpuidEntry } from '../vcpu/state.ts';
import { KVM_EXIT_MMIO } from './abi/index.ts';
import { ENDING, ScratchVm } from './scratch-vm.ts';
import { KvmSystem } from './system.ts';

/**
 * One instruction for each CPU feature whose presence makes a kernel execute it in kernel mode. Operands: RSI points
 * at zeroed memory, RCX is 0. It must run without a fault.
 */
const INSTRUCTIONS: Readonly<Record<string, readonly number[]>> = {
  pni: [0xf2, 0x0f, 0x7c, 0xc1], // haddps xmm0, xmm1
  ssse3: [0x66, 0x0f, 0x38, 0x00, 0xc1], // pshufb xmm0, xmm1
  sse4_1: [0x66, 0x0f, 0x38, 0x17, 0xc1], // ptest xmm0, xmm1
  sse4_2: [0xf2, 0x0f, 0x38, 0xf1, 0xc1], // crc32 eax, ecx
  popcnt: [0xf3, 0x0f, 0xb8, 0xc1], // popcnt eax, ecx
  aes: [0x66, 0x0f, 0x38, 0xdc, 0xc1], // aesenc xmm0, xmm1
  pclmulqdq: [0x66, 0x0f, 0x3a, 0x44, 0xc1, 0x00], // pclmulqdq xmm0, xmm1, 0
  movbe: [0x0f, 0x38, 0xf0, 0x06], // movbe eax, [rsi]
  cx16: [0x48, 0x0f, 0xc7, 0x0e], // cmpxchg16b [rsi]
  rdtscp: [0x0f, 0x01, 0xf9],
  rdpid: [0xf3, 0x0f, 0xc7, 0xf8], // rdpid rax
  rdrand: [0x0f, 0xc7, 0xf0], // rdrand eax
  rdseed: [0x0f, 0xc7, 0xf8], // rdseed eax
  smap: [0x0f, 0x01, 0xca], // clac
  invpcid: [0x66, 0x0f, 0x38, 0x82, 0x06], // invpcid rax, [rsi]
  fsgsbase: [0xf3, 0x48, 0x0f, 0xae, 0xc0], // rdfsbase rax
  xsave: [0x0f, 0xae, 0x26], // xsave [rsi]
  avx: [0xc5, 0xf8, 0x57, 0xc0], // vxorps xmm0, xmm0, xmm0
  // Without the feature these two are BSR and BSF, which leave EAX alone when the source is 0; a fault tells them apart:
  // lzcnt/tzcnt eax, ecx; mov al, [rax*8 - 0x100 + rsi], an address beyond the map unless EAX is 32.
  abm: [0xb8, 0, 0, 0, 0x40, 0xf3, 0x0f, 0xbd, 0xc1, 0x8a, 0x84, 0xc6, 0, 0xff, 0xff, 0xff],
  bmi1: [0xb8, 0, 0, 0, 0x40, 0xf3, 0x0f, 0xbc, 0xc1, 0x8a, 0x84, 0xc6, 0, 0xff, 0xff, 0xff],
  adx: [0x66, 0x0f, 0x38, 0xf6, 0xc1], // adcx eax, ecx
  sha_ni: [0x0f, 0x38, 0xc8, 0xc1], // sha1nexte xmm0, xmm1
  clflushopt: [0x66, 0x0f, 0xae, 0x3e], // clflushopt [rsi]
  clwb: [0x66, 0x0f, 0xae, 0x36], // clwb [rsi]
  monitor: [0x0f, 0x01, 0xc8], // monitor
};

/** Kernel-mode speed, in million instructions a second, below which a KVM is taken to be software. */
const SOFTWARE_MIPS = 50;

/** What {@link probeKvm} found. */
export interface KvmProbe {
  /** Kernel-mode code is emulated: a stock kernel takes minutes, not seconds, to boot. */
  readonly software: boolean;
  /** Speed of a guest loop in million instructions a second. */
  readonly kernelMips: number;
  /** The same in user mode. */
  readonly userMips: number;
  /** CPU features whose instructions this KVM cannot run in kernel mode. */
  readonly lacking: readonly string[];
  /** SYSCALL from user mode arrives in the kernel's code with user privilege. */
  readonly syscallUnfinished: boolean;
  /** CPU features that guests see whatever their CPUID table says. */
  readonly forced: readonly string[];
}

let cached: KvmProbe | undefined;

/**
 * Probes the host's KVM, once for each process; takes some milliseconds on a software KVM. What not every machine needs
 * to know (`userMips`, `forced`) is found out when it is asked for.
 * @throws the errors of KvmSystem.open
 */
export function probeKvm(): KvmProbe {
  if (cached !== undefined) return cached;
  using vm = new ScratchVm();
  const kernelMips = speed(vm, 0);
  const software = kernelMips < SOFTWARE_MIPS;
  let userMips: number | undefined;
  let forced: string[] | undefined;
  cached = {
    software,
    kernelMips,
    get userMips() {
      userMips ??= userSpeed();
      return userMips;
    },
    // Hardware runs kernel mode itself; KVM's emulator is then not asked.
    lacking: software ? Object.keys(INSTRUCTIONS).filter((feature) => !knows(vm, feature)) : [],
    syscallUnfinished: software && !syscallWorks(vm),
    get forced() {
      forced ??= software ? forcedFeatures() : [];
      return forced;
    },
  };
  return cached;
}

function userSpeed(): number {
  using vm = new ScratchVm();
  return speed(vm, 3);
}

function knows(vm: ScratchVm, feature: string): boolean {
  return vm.run(Uint8Array.from([...INSTRUCTIONS[feature], ...ENDING])) === KVM_EXIT_MMIO;
}

/** True when SYSCALL raises the privilege level. */
function syscallWorks(vm: ScratchVm): boolean {
  // At LSTAR: mov eax, cs; mov [rsi], eax. The code before it is the system call itself.
  const handler = [0x8c, 0xc8, 0x89, 0x06, ...ENDING];
  vm.run(Uint8Array.from([0x0f, 0x05, ...handler]), 3, 0n, { lstar: 2 });
  const [cs] = vm.result();
  return (cs & 3) === 0 && cs !== 0;
}

/** A VM whose CPUID table has none of the optional features: what its guest sees all the same. */
function forcedFeatures(): string[] {
  using system = KvmSystem.open();
  const { entries } = buildCpuid(parseCpuModel('x86-64-v1'), system.supportedCpuid(), {
    apicId: 0,
    topology: topologyOf(1),
  });
  using vm = new ScratchVm(entries);
  const leaves = new Set([...CPU_FEATURES.values()].map(({ leaf, index }) => `${leaf}:${index}`));
  const seen = [...leaves].map((key) => {
    const [leaf, index] = key.split(':').map(Number);
    return cpuid(vm, leaf, index);
  });
  const given = new Set(featureNames(entries));
  return featureNames(seen).filter((name) => !given.has(name));
}

/** Executes CPUID in the guest's kernel mode. */
function cpuid(vm: ScratchVm, leaf: number, index: number): CpuidEntry {
  const imm32 = (value: number) => [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff);
  const code = [
    ...[0xb8, ...imm32(leaf)], // mov eax, leaf
    ...[0xb9, ...imm32(index)], // mov ecx, index
    ...[0x0f, 0xa2], // cpuid
    ...[0x89, 0x06, 0x89, 0x5e, 4, 0x89, 0x4e, 8, 0x89, 0x56, 12], // mov [rsi...], eax ebx ecx edx
    ...ENDING,
  ];
  vm.run(Uint8Array.from(code));
  const [eax, ebx, ecx, edx] = vm.result();
  return { function: leaf, index, flags: 0, eax, ebx, ecx, edx };
}

/** dec rcx; jnz: two instructions for each count. */
const LOOP = Uint8Array.from([0x48, 0xff, 0xc9, 0x75, 0xfb, ...ENDING]);
/** Long enough that the exit does not count. */
const ENOUGH_MS = 1;
/** The best of some samples: others on the host can only slow one down. */
const SAMPLES = 3;

function speed(vm: ScratchVm, cpl: 0 | 3): number {
  const time = (count: number) => {
    const start = performance.now();
    vm.run(LOOP, cpl, BigInt(count));
    return performance.now() - start;
  };
  time(1);
  let count = 500;
  let ms = time(count);
  while (ms < ENOUGH_MS && count < 1e9) {
    count *= 4;
    ms = time(count);
  }
  for (let i = 1; i < SAMPLES; i++) ms = Math.min(ms, time(count));
  return (2 * count) / (ms * 1000);
}
