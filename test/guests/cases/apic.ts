/** The local APIC: its timer in each mode, interrupts between processors, shadows, NMIs (SDM vol. 3A 11, 6.7, 6.8). */
import type { GuestCase } from '../case.ts';
import { long64 } from '../prelude64.ts';

/** Handlers for vectors 0x40 and 0x41 that print and end the interrupt; the APIC is on. The end is port 0xF4. */
const SETUP = `
  # Interrupts are let through; the port makes KVM in software look for them.
  .macro window
    sti
    nop
    out 0xed, al
    cli
  .endm
  mov rdi, offset idt + 0x40 * 16; mov rax, offset tick
  call gate
  mov rax, offset other
  call gate
  jmp apic_on
  gate: mov [rdi], ax; mov word ptr [rdi + 2], CODE64; mov word ptr [rdi + 4], 0x8e00
  mov rdx, rax; shr rdx, 16; mov [rdi + 6], dx; mov qword ptr [rdi + 8], 0
  add rdi, 16
  ret
  tick: push rax; inc dword ptr [ticks]; mov eax, [APIC + 0xb0]; mov dword ptr [APIC + 0xb0], 0; pop rax
  iretq
  other: puts "other "
  mov dword ptr [APIC + 0xb0], 0
  iretq
  .balign 4
  ticks: .long 0
  .set APIC, 0x40200000
  apic_on: # the register page at 0xFEE00000
  mov qword ptr [0x201008], 0x205007
  mov edi, 0x205000; xor eax, eax; mov ecx, 1024; rep stosd
  mov rax, 0xfee0009b; and rax, ~0x1fffff; or rax, 0x9b
  mov qword ptr [0x205008], rax
  mov dword ptr [0x40200000 + 0xf0], 0x1ff
`;
const DONE = 'puts "."; mov al, 0; out 0xf4, al; 9: hlt; jmp 9b';

function apicCase(name: string, body: string, output: string, more: Partial<GuestCase> = {}): GuestCase {
  const source = long64(`${SETUP}\n${body}\n${DONE}`);
  return { name, mode: 'long64', source, output, hasApic: true, ends: 'exit', ...more };
}

export const APIC: readonly GuestCase[] = [
  apicCase(
    'interrupts to itself wait for IF',
    `
    mov dword ptr [APIC + 0x300], 0x44041
    puts "sent "
    mov eax, [APIC + 0x220]; hex rax
    window
    puts "behind "
    mov eax, [APIC + 0x220]; hex rax`,
    'sent 2 other behind 0 .',
  ),
  apicCase(
    'an interrupt that waits comes behind the instruction after STI',
    `
    mov dword ptr [APIC + 0x300], 0x44040
    mov qword ptr [idt + 0x40 * 16], 0
    mov rdi, offset idt + 0x40 * 16; mov rax, offset count; call gate
    xor ecx, ecx
    sti
    inc ecx
    cli
    hex rbx
    mov dword ptr [APIC + 0x300], 0x44040
    xor ecx, ecx
    sti
    nop
    inc ecx
    cli
    hex rbx
    mov dword ptr [APIC + 0x300], 0x44040
    mov edx, ss
    xor ecx, ecx
    sti
    mov ss, edx
    inc ecx
    inc ecx
    cli
    hex rbx
    mov dword ptr [APIC + 0x300], 0x44040
    xor ecx, ecx
    push 0x202; popfq
    inc ecx
    cli
    hex rbx
    jmp 1f
    count: mov ebx, ecx; mov dword ptr [APIC + 0xb0], 0
    iretq
    1:`,
    '1 0 1 0 .',
    { notOnSoftwareKvm: 'it delivers interrupts some instructions later' },
  ),
  apicCase(
    'the timer once, and again and again',
    `
    mov dword ptr [APIC + 0x3e0], 0xb
    mov dword ptr [APIC + 0x320], 0x40
    mov dword ptr [APIC + 0x380], 100000
    sti
    1: hlt
    cmp dword ptr [ticks], 1; jb 1b
    cli
    mov eax, [APIC + 0x390]; hex rax
    mov dword ptr [ticks], 0
    mov dword ptr [APIC + 0x320], 0x20040
    mov dword ptr [APIC + 0x380], 200000
    sti
    2: hlt
    cmp dword ptr [ticks], 3; jb 2b
    cli
    puts "three "
    mov dword ptr [APIC + 0x380], 0
    mov eax, [APIC + 0x390]; hex rax`,
    '0 three 0 .',
  ),
  apicCase(
    'the timer at a time of the TSC',
    `
    mov dword ptr [APIC + 0x320], 0x40040
    rdtsc; shl rdx, 32; or rax, rdx; add rax, 3000000; mov rbx, rax
    mov rdx, rax; shr rdx, 32; mov ecx, 0x6e0; wrmsr
    sti
    1: hlt
    cmp dword ptr [ticks], 1; jb 1b
    cli
    rdtsc; shl rdx, 32; or rax, rdx; cmp rax, rbx; setae al; movzx eax, al; hex rax
    mov ecx, 0x6e0; rdmsr; or eax, edx; hex rax`,
    '1 0 .',
  ),
  apicCase(
    'a masked timer and a priority hold interrupts back',
    `
    mov dword ptr [APIC + 0x80], 0x50
    mov dword ptr [APIC + 0x300], 0x44041
    window
    puts "held "
    mov dword ptr [APIC + 0x80], 0x30
    window
    mov eax, 6; mov cr8, rax
    mov dword ptr [APIC + 0x300], 0x44041
    window
    puts "held "
    xor eax, eax; mov cr8, rax
    window`,
    'held other held other .',
  ),
  apicCase(
    'an NMI waits for the IRET of the one before',
    `
    mov qword ptr [hook], offset nmi
    mov dword ptr [APIC + 0x310], 0
    mov dword ptr [APIC + 0x300], 0x4400
    mov ecx, 1000; 1: pause; loop 1b
    out 0xed, al
    puts "after"
    jmp 2f
    nmi: cmp qword ptr [rsp], 2; jne end
    add rsp, 16
    puts "in "
    inc dword ptr [ticks]; cmp dword ptr [ticks], 2; je 3f
    mov dword ptr [APIC + 0x300], 0x4400
    push rcx; mov ecx, 1000; 4: pause; loop 4b; pop rcx
    out 0xed, al
    puts "out "
    3: nop
    iretq
    2:`,
    'in out in after.',
  ),
  apicCase(
    'a second processor is started and interrupted',
    `
    mov rsi, offset trampoline; mov edi, 0x8000; mov ecx, 64; rep movsb
    mov dword ptr [APIC + 0x310], 0x1000000
    mov dword ptr [APIC + 0x300], 0x4500
    mov ecx, 1000; 1: pause; loop 1b
    mov dword ptr [APIC + 0x300], 0x4608
    2: pause; cmp word ptr [0x9000], 0x1234; jne 2b
    puts "started "
    mov word ptr [0x9000], 0x5678
    3: pause; cmp word ptr [0x9002], 0x9abc; jne 3b
    puts "answered "
    jmp 6f
    .code16
    trampoline: xor ax, ax; mov ds, ax
    mov word ptr [0x9000], 0x1234
    5: cmp word ptr [0x9000], 0x5678; jne 5b
    mov word ptr [0x9002], 0x9abc
    .byte 0xeb, 0xfe
    .code64
    6:`,
    'started answered .',
    { cpus: 2 },
  ),
  apicCase(
    'x2APIC mode, its way in and out, and what it refuses',
    `
    .macro put index, value
      mov ecx, \\index; mov rax, \\value; mov rdx, rax; shr rdx, 32; try wrmsr
    .endm
    .macro get index
      mov ecx, \\index; rdmsr; hex rax
    .endm
    mov rdi, offset idt + 0x41 * 16; mov rax, offset other2; call gate
    put 0x83f, 0x41
    put 0x1b, 0xfee00c00
    get 0x1b
    put 0x1b, 0xfee00800
    put 0x1b, 0xfee00400
    mov rax, [APIC + 0x20]; shr eax, 31; hex rax
    get 0x80f
    put 0x83f, 0x41
    window
    put 0x80b, 1
    put 0x830, 0x44041
    window
    put 0x802, 0
    mov ecx, 0x80b; try rdmsr
    mov ecx, 0x831; try rdmsr
    put 0x808, 0x100
    put 0x1b, 0xfee00000
    get 0x1b
    jmp 1f
    other2: puts "other2 "
    mov ecx, 0x80b; xor eax, eax; xor edx, edx; wrmsr
    iretq
    1:`,
    '#GP:0 ok fee00c00 #GP:0 #GP:0 1 1ff ok other2 #GP:0 ok other2 #GP:0 #GP:0 #GP:0 #GP:0 ok fee00000 .',
    { notOnSoftwareKvm: 'it has no x2APIC' },
  ),
];
