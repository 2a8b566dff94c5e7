/** Real instruction sequences, by mode: what random code is grown from. */
import { assemble, CODE16 } from '../support/assemble.ts';
import type { Mode } from './guest-image.ts';
import type { Random } from './support.ts';

const ANY = `
  in al, dx
  in eax, dx
  out dx, al
  out dx, eax
  rep insb
  rep outsb
  rep outsd
  in al, 0x61
  out 0x80, al
  cld; mov ecx, 300; rep movsb
  std; mov ecx, 100; rep stosd
  repne scasb
  repe cmpsd
  pushf; or byte ptr [esp + 1], 1; popf
  pushf; pop eax; popf
  cli
  sti
  sti; hlt
  hlt
  int3
  int 0x80
  int 3
  .byte 0xf1
  ud2
  cpuid
  mov eax, 0xd; xor ecx, ecx; cpuid
  rdtsc
  rdtscp
  rdpmc
  rdmsr
  wrmsr
  mov ecx, 0x1b; rdmsr; wrmsr
  mov ecx, 0x10; rdmsr; wrmsr
  mov ecx, 0x6e0; xor edx, edx; mov eax, 1000; wrmsr
  mov ecx, 0xc0000082; mov eax, 0x10000; xor edx, edx; wrmsr
  mov ecx, 0xc0000080; rdmsr; xor eax, 0x101; wrmsr
  mov ecx, 0x4b564d01; mov eax, 0x30001; xor edx, edx; wrmsr
  invd
  wbinvd
  clts
  lmsw ax
  smsw ax
  lgdt [ebx]
  lidt [ebx]
  sgdt [ebx]
  sidt [ebx]
  invlpg [ebx]
  ltr ax
  lldt ax
  str eax
  sldt eax
  verr ax
  verw ax
  lar eax, ebx
  lsl eax, ebx
  mov ds, ax
  mov es, ax
  mov ss, ax
  mov fs, bx
  mov gs, cx
  lss esp, [ebx]
  lfs eax, [ebx]
  monitor
  mwait
  vmcall
  vmmcall
  vmxoff
  sysenter
  .byte 0x0f, 0x35
  syscall
  rsm
  xgetbv
  xsetbv
  xsave [ebx]
  xrstor [ebx]
  fxsave [ebx]
  fxrstor [ebx]
  fninit; fldpi; fsin; fstp qword ptr [ebx]
  fwait
  emms
  ldmxcsr [ebx]
  movaps xmm0, [ebx]; addps xmm0, xmm1; movups [ebx], xmm0
  pshufb xmm0, xmm1
  crc32 eax, ebx
  popcnt eax, ebx
  movbe eax, [ebx]
  cmpxchg8b [ebx]
  lock cmpxchg8b [edi]
  lock xadd [ebx], eax
  lock inc dword ptr [edi]
  xchg [ebx], eax
  mov [ebx], eax
  mov eax, [ebx + ecx * 4]
  add [edi], esi
  mov byte ptr [ebx], 1
  push eax; pop ebx
  call 1f; 1: ret
  enter 16, 3; leave
  div ebx
  idiv cl
  bound eax, [ebx]
  vaddps ymm0, ymm1, ymm2
  vpxor ymm3, ymm3, ymm3; vmovdqu [ebx], ymm3
  vzeroall
  andn eax, ebx, ecx
  pext eax, ebx, ecx
  rdrand eax
  rdseed eax
  stac
  clac
  clflush [ebx]
  prefetcht0 [ebx]
  lfence; mfence; sfence
  pause
  nop; nop; nop
  mov ecx, 5; 1: dec ecx; jnz 1b
  jmp 1f; .byte 0xff; 1: nop
  mov eax, cr0; mov cr0, eax
  mov eax, cr0; xor eax, 0x60000000; mov cr0, eax
  mov eax, cr0; and eax, 0x7ffffffe; mov cr0, eax
  mov eax, cr4; mov cr4, eax
  mov eax, cr4; xor eax, 0x20; mov cr4, eax
  mov eax, cr3; mov cr3, eax
  mov cr3, eax
  mov eax, dr7; mov dr7, eax
  mov eax, 0x10000; mov dr0, eax; mov eax, 0x403; mov dr7, eax
  mov eax, 0xd0000000; mov ebx, [eax]; mov [eax + 4], ebx
  mov esi, 0xd0000000; mov edi, 0x30000; mov ecx, 40; rep movsd
  mov edi, 0xd0000000; mov ecx, 33; rep stosb
  mov eax, 0xfee00000; mov ebx, [eax + 0x20]; mov dword ptr [eax + 0xf0], 0x1ff
  mov eax, 0xfee00300; mov dword ptr [eax], 0xc4500
  mov eax, 0xfee00380; mov dword ptr [eax], 1000
  mov eax, 0xfec00000; mov dword ptr [eax], 0x10; mov dword ptr [eax + 16], 0x21
`;

const ONLY: Readonly<Record<Mode, string>> = {
  real: `
  mov eax, cr0; or al, 1; mov cr0, eax
  lgdt [0x800]; mov eax, cr0; or al, 1; mov cr0, eax; .byte 0xea; .word 0, 0x10
  .byte 0x9a; .word 0, 0x1000
  int 0x10
  into
  aam 0
  daa
  lds bx, [si]
  jmp bx
  retf
  iret
  mov ax, 0xffff; mov ds, ax; mov al, [0x10]; mov [0xffff], ax
  pusha; popa
`,
  protected: `
  int 0x20
  into
  .byte 0xea; .long 0x10000; .word 0x10
  .byte 0xea; .long 0; .word 0x30
  .byte 0x9a; .long 0x10000; .word 0x2b
  pushf; or dword ptr [esp], 0x20000; popf
  pushf; push 0x10; push 0x10000; iret
  retf
  les eax, [ebx]
  .byte 0xd6
  arpl ax, bx
  mov eax, 0x100000; mov cr3, eax; mov eax, cr0; or eax, 0x80000000; mov cr0, eax
  mov eax, cr4; or eax, 0x10; mov cr4, eax
`,
  long: `
  swapgs
  sysretq
  .byte 0x48, 0x0f, 0x35
  iretq
  push 0x18; push rsp; pushf; push 0x10; push rbx; iretq
  push 0x23; push 0x1f000; pushf; push 0x2b; push 0x10000; iretq
  lretq
  cmpxchg16b [rbx]
  lock cmpxchg16b [rdi]
  mov rax, cr8; mov cr8, rax
  mov rax, cr4; or rax, 0x40000; mov cr4, rax; xor ecx, ecx; xgetbv; xsetbv
  rdfsbase rax; wrgsbase rax
  rdpid rax
  invpcid rax, [rbx]
  mov rax, 0x800000000000; mov rbx, [rax]
  mov rax, cr3; mov rbx, [rax]; mov qword ptr [rax + 8], rbx
  mov rax, 0x100000; mov qword ptr [rax], 0
  mov rax, cr0; btr rax, 31; mov cr0, rax
  movabs al, [0x123456789abcdef0]
  xsaves [rbx]
  xsavec64 [rbx]
  xrstors [rbx]
  mov dx, 0xf4; mov al, 1
  str ax; ltr ax
  mov ecx, 0xc0000102; rdmsr; wrmsr
  mov ecx, 0xc0000103; rdmsr
  mov ecx, 0x830; mov eax, 0xc4500; xor edx, edx; wrmsr
`,
  user: `
  syscall
  mov rax, 0x10000; jmp rax
  cmpxchg16b [rbx]
  mov rax, 0x800000000000; mov rbx, [rax]
  mov rax, 0xd0000000; mov ebx, [rax]; mov [rax], bl
  rdpid rax
  rdfsbase rax
  iretq
  lretq
  push 0x23; push rsp; pushf; push 0x2b; push 0x10000; iretq
  pushf; or qword ptr [rsp], 0x100; popf; nop; nop
  vpaddd ymm0, ymm1, ymm2
  movabs rax, [0x4000000000]
`,
};

/** Bytes kept of each sequence. */
const SLOT = 32;

function build(mode: Mode): Uint8Array[] {
  const lines = [...ANY.split('\n'), ...ONLY[mode].split('\n')]
    .map((line) => line.trim())
    .filter((line) => line !== '');
  const head = mode === 'real' ? CODE16 : mode === 'protected' ? '.code32\n' : '';
  const wide = mode === 'long' || mode === 'user';
  const source = lines
    // The same lines serve all modes: 64-bit code has no 32-bit push, and no BOUND.
    .filter((line) => !(wide && /^(bound|les)/.test(line)))
    .map((line) => (wide ? line.replaceAll(/\b(push|pop) e/g, '$1 r').replaceAll('[esp', '[rsp') : line))
    .map((line) =>
      wide ? line.replaceAll(/\[e(bx|di|ax)/g, '[r$1').replaceAll('ecx * 4]', 'rcx * 4]') : line,
    )
    .map((line) => (wide ? controlRegister64(line) : line))
    .map((line) => `${line}\n.balign ${SLOT}, 0xcc`)
    .join('\n');
  const bytes = assemble(head + source);
  const sequences: Uint8Array[] = [];
  for (let at = 0; at + SLOT <= bytes.length; at += SLOT) sequences.push(trim(bytes.slice(at, at + SLOT)));
  return sequences;
}

/** Moves to and from control and debug registers have 64-bit operands only. */
function controlRegister64(line: string): string {
  return /\b[cd]r\d/.test(line) ? line.replaceAll(/\be(ax|bx)\b/g, 'r$1') : line;
}

function trim(slot: Uint8Array): Uint8Array {
  let end = slot.length;
  while (end > 1 && slot[end - 1] === 0xcc) end--;
  return slot.slice(0, end);
}

const built = new Map<Mode, Uint8Array[]>();

/** The sequences of a mode. */
export function sequences(mode: Mode): readonly Uint8Array[] {
  let found = built.get(mode);
  if (found === undefined) {
    found = build(mode);
    built.set(mode, found);
  }
  return found;
}

const APIC_PAGE = 0xfee0_0000;

/** Any register of the local APIC gets any value, by its page or as an MSR; now and then it changes its mode. */
function programApic(random: Random): number[] {
  const le32 = (value: number) => [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24];
  // mov ecx, msr; mov edx, high; mov eax, low; wrmsr
  const wrmsr = (msr: number, high: number, low: number) => [
    0xb9,
    ...le32(msr),
    0xba,
    ...le32(high),
    0xb8,
    ...le32(low),
    0x0f,
    0x30,
  ];
  const register = random.below(0x40);
  // Vectors, delivery modes and shorthands, or anything.
  const value = random.chance(60) ? random.u32() & 0xf_c7ff : random.evil32();
  if (random.chance(10)) return wrmsr(0x1b, 0, (APIC_PAGE | (random.below(4) << 10) | 0x100) >>> 0);
  if (random.chance(40)) return wrmsr(0x800 + register, random.below(4), value);
  const address = APIC_PAGE + register * 16 + (random.chance(5) ? random.below(16) : 0);
  // mov eax, address; mov [eax], value, or mov ebx, [eax]
  return [0xb8, ...le32(address), ...(random.chance(80) ? [0xc7, 0x00, ...le32(value)] : [0x8b, 0x18])];
}

/** Random code: bytes, or sequences with some bytes changed, doubled and dropped. */
export function makeCode(mode: Mode, random: Random): Uint8Array {
  if (random.chance(15)) return random.bytes(16 + random.below(240));
  const known = sequences(mode);
  const code: number[] = [];
  const apic = (mode === 'long' || mode === 'protected') && random.chance(20);
  for (let n = 1 + random.below(24); n > 0; n--) {
    if (apic && random.chance(70)) {
      code.push(...programApic(random));
      continue;
    }
    const sequence = [...random.pick(known)];
    if (random.chance(30)) sequence[random.below(sequence.length)] ^= 1 << random.below(8);
    if (random.chance(10)) sequence.splice(random.below(sequence.length), 1);
    if (random.chance(15)) sequence.unshift(random.pick([0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x2e, 0x64, 0x48]));
    if (random.chance(10)) sequence.push(...random.bytes(random.below(8)));
    code.push(...sequence);
  }
  // Back to the start, mostly.
  if (random.chance(70)) code.push(0xe9, ...distance(-(code.length + (mode === 'real' ? 3 : 5)), mode));
  return Uint8Array.from(code);
}

function distance(by: number, mode: Mode): number[] {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setInt32(0, by, true);
  return [...bytes.subarray(0, mode === 'real' ? 2 : 4)];
}
