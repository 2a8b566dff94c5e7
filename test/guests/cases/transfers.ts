/** Exceptions and how they are delivered, system calls, returns and far transfers (SDM vol. 3A 5.8, 6; vol. 2). */
import type { GuestCase } from '../case.ts';
import { long64 } from '../prelude64.ts';

/** Writes a system descriptor of 16 bytes to GDT entry SPARE: type, DPL and P, and a target of a call gate. */
const callGate = (target: string, selector: string, access: number) => `
  mov rax, offset ${target}
  mov [gdt + SPARE], ax; mov word ptr [gdt + SPARE + 2], ${selector}
  mov word ptr [gdt + SPARE + 4], ${access << 8}; shr rax, 16; mov [gdt + SPARE + 6], ax
  mov qword ptr [gdt + SPARE + 8], 0`;
const FAR_SPARE = `.balign 8\nspare: .quad 0; .word SPARE`;

export const TRANSFERS: readonly GuestCase[] = [
  {
    name: 'what an exception pushes, with and without a stack of its own',
    mode: 'long64',
    source: long64(`
      mov rsp, offset kernel_stack - 8
      catch 1f
      0: ud2
      1: mov rax, [fault_rip]; sub rax, offset 0b; hex rax
      hex [fault_cs]
      mov rax, [fault_rsp]; sub rax, offset kernel_stack; hex rax
      mov rax, [handler_rsp]; sub rax, offset kernel_stack; hex rax
      ist 6, 1
      catch 2f
      ud2
      2: mov rax, [handler_rsp]; sub rax, offset ist1; hex rax
      mov rax, [fault_rsp]; sub rax, offset kernel_stack; hex rax`),
    output: '#UD:0 0 8 fffffffffffffff8 ffffffffffffffa0 #UD:0 ffffffffffffffb0 fffffffffffffff8 .',
  },
  {
    name: 'faults while an event is delivered become a double fault',
    mode: 'long64',
    source: long64(`
      ist 8, 1
      mov byte ptr [idt + 14 * 16 + 5], 0
      try mov rax, [V]
      mov word ptr [idt + 13 * 16 + 2], 0x7f8
      try mov ds, [bad]
      mov word ptr [idt + 13 * 16 + 2], CODE64
      mov rbp, rsp; mov rsp, V + 0x800
      mov byte ptr [idt + 14 * 16 + 5], 0x8e
      try push rax
      mov rsp, rbp
      jmp end
      bad: .word 0x7f8`),
    output: '#DF:0 #DF:0 #DF:0 .',
  },
  {
    name: 'a fault while a double fault is delivered is the end',
    mode: 'long64',
    source: long64(`
      puts "before"
      mov byte ptr [idt + 8 * 16 + 5], 0
      mov byte ptr [idt + 13 * 16 + 5], 0
      mov byte ptr [idt + 11 * 16 + 5], 0
      mov ds, [bad]
      puts "after"
      hlt
      bad: .word 0x7f8`),
    output: 'before',
    ends: 'triple-fault',
  },
  {
    name: 'a handler can fault itself, on the same stack',
    mode: 'long64',
    source: long64(`
      mov qword ptr [hook], offset handler
      catch 1f
      ud2
      1: jmp end
      handler: mov qword ptr [hook], 0
      puts "in "
      mov rax, [V]`),
    output: 'in #PF@400000 :0 .',
  },
  {
    name: 'selectors and gates that are not good, and the error codes that say so',
    mode: 'long64',
    source: long64(`
      mov eax, 0x7f8; try mov ds, ax
      mov eax, SPARE; try mov es, ax
      mov eax, CODE64; try mov ss, ax
      mov eax, 3; try mov ss, ax
      xor eax, eax; try mov ss, ax
      mov eax, DATA; try mov ss, ax
      mov eax, 0x7f8; try ltr ax
      mov eax, TSS; try ltr ax
      mov eax, DATA; try lldt ax
      mov byte ptr [gdt + DATA + 5], 0x13
      mov eax, DATA; try mov ds, ax
      try mov ss, ax`),
    output: '#GP:7f8 #GP:50 #GP:8 #GP:0 ok ok #GP:7f8 #GP:40 #GP:10 #NP:10 #SS:10 .',
  },
  {
    name: 'gates whose handler cannot be entered',
    mode: 'long64',
    source: long64(`
      mov word ptr [idt + 6 * 16 + 2], SPARE
      try ud2
      mov word ptr [idt + 6 * 16 + 2], CODE32
      try ud2
      mov word ptr [idt + 6 * 16 + 2], 0
      try ud2
      mov word ptr [idt + 6 * 16 + 2], CODE64
      mov byte ptr [idt + 6 * 16 + 5], 0x0e
      try ud2
      mov word ptr [idtr], 16 * 6 + 14; lidt [idtr]
      ist 8, 0
      try int 6`),
    output: '#GP:51 #GP:19 #GP:1 #NP:33',
    ends: 'triple-fault',
    notOnSoftwareKvm: 'its error codes are 0',
  },
  {
    name: 'IRET to user code and back by exceptions',
    mode: 'long64',
    source: long64(
      `
      catch 1f; user u1
      1: hex [fault_cs]; mov rax, [fault_rip]; sub rax, offset u1; hex rax
      mov rax, [fault_rsp]; sub rax, offset user_stack; hex rax
      mov rax, [handler_rsp]; sub rax, offset kernel_stack; hex rax
      catch 2f; user u2
      2: catch 3f; user u3
      3: catch 4f; user u4
      4:`,
      `u1: hlt
       u2: cli
       u3: mov rax, cr0
       u4: mov eax, 0x10; mov ds, eax`,
    ),
    output: '#GP:0 33 0 0 ffffffffffffffb0 #GP:0 #GP:0 #GP:10 .',
  },
  {
    name: 'IRET refuses what it must',
    mode: 'long64',
    source: long64(`
      mov rbx, rsp
      .macro frame cs, ss, rip="offset 0f"
        push \\ss; push rbx; push 2; push \\cs
        mov rax, \\rip; push rax
      .endm
      frame 0x7f8, DATA; try iretq
      mov rsp, rbx; frame USER64, DATA; try iretq
      mov rsp, rbx; frame CODE64, USERDATA; try iretq
      mov rsp, rbx; frame CODE64, DATA, 0x800000000000; try iretq
      mov rsp, rbx; frame 0, DATA; try iretq
      mov rsp, rbx; push 0x4002; popfq
      frame CODE64, DATA; try iretq
      0: push 2; popfq
      mov rsp, rbx
      frame CODE64, 0, "offset 5f"; iretq
      5: mov eax, ss; hex rax`),
    output: '#GP:7f8 #GP:10 #GP:28 #GP:0 #GP:0 #GP:0 0 .',
  },
  {
    name: 'IRET to a segment of data',
    mode: 'long64',
    source: long64('push DATA; push rsp; push 2; push DATA; push offset end; try iretq; add rsp, 40'),
    output: '#GP:10 .',
    notOnSoftwareKvm: 'its error code is 0',
  },
  {
    name: 'compatibility mode and back',
    mode: 'long64',
    source: long64(
      `
      catch 1f; user u32, 2, USER32
      1: hex [fault_cs]; hex rcx; hex rdx
      catch 2f
      push CODE32; push offset k32; retfq
      .code32
      k32: mov ecx, -1; inc ecx; mov eax, cs; hlt_here: ud2
      .code64
      2: hex [fault_cs]; hex rax`,
      `.code32
      u32: mov ecx, 0x12345678; lea edx, [ecx + ecx * 8]; dec edx; push edx; pop edx; ud2
      .code64`,
    ),
    output: '#UD:0 23 12345678 a3d70a37 #UD:0 18 18 .',
  },
  {
    name: 'SYSCALL and SYSRET',
    mode: 'long64',
    source: long64(
      `
      wrmsr64 0xc0000081, 0x0020000800000000
      wrmsr64 0xc0000082, "offset entry"
      wrmsr64 0xc0000084, 0x40300
      catch 1f; user u1, 0x202
      1: hex [fault_cs]; hex rcx; jmp end
      entry: mov r8, rsp
      mov rsp, offset kernel_stack - 0x100
      mov r9, r11; mov r10, rcx; pushfq; pop rbx
      hex rbx; hex r9; sub r10, offset u1; hex r10
      mov eax, cs; hex rax; mov eax, ss; hex rax
      sub r8, offset user_stack; hex r8
      mov rsp, offset user_stack; mov r11, 0x246; mov rcx, offset u2
      sysretq`,
      `u1: stc; sub rax, rax; stc; syscall
       ud2
       u2: mov ecx, ss; ud2`,
    ),
    output: '47 247 7 8 10 0 #UD:0 33 2b .',
  },
  {
    name: 'SYSRET to an address that is not canonical faults in the kernel',
    mode: 'long64',
    source: long64(`
      wrmsr64 0xc0000081, 0x0020000800000000
      mov rcx, 0x800000000000; mov r11, 2
      try sysretq
      hex [fault_cs]`),
    output: '#GP:0 8 .',
    notOnKvm: 'CPL is 3 already when it faults on AMD',
  },
  {
    name: 'SYSENTER and SYSEXIT',
    mode: 'long64',
    source: long64(
      `
      try sysenter
      wrmsr64 0x174, 8
      wrmsr64 0x175, "offset kernel_stack - 0x200"
      wrmsr64 0x176, "offset entry"
      catch 1f; user u1, 0x3202
      1: hex [fault_cs]; hex rdx; jmp end
      entry: pushfq; pop rax; and eax, 0x200; hex rax
      mov eax, cs; hex rax; mov rax, rsp; sub rax, offset kernel_stack; hex rax
      mov rdx, 0x800000000000; mov rcx, rsp; try sysexitq
      catch 1b
      mov rdx, offset u2; mov rcx, offset user_stack; sysexitq`,
      `u1: sysenter
       u2: mov edx, ss; ud2`,
    ),
    output: '#GP:0 0 8 fffffffffffffe00 #GP:0 #UD:0 2b 33 .',
    notOnKvm: 'AMD does not have it in long mode, nor has the emulator of KVM in software',
  },
  {
    name: 'far transfers within and through call gates',
    mode: 'long64',
    source: long64(
      `
      push CODE64; push offset 1f; retfq
      1: puts "a "
      ${callGate('gate', 'CODE64', 0xec)}
      far_call spare
      puts "c "
      catch 2f; user u1
      2: hex [fault_cs]
      ${callGate('gate', 'CODE64', 0x8c)}
      catch 3f; user u1
      3: ${callGate('gate', 'DATA', 0xec)}
      catch 4f; user u1
      4: ${callGate('gate', 'CODE64', 0x6c)}
      catch 5f; user u1
      5: jmp end
      gate: puts "b"; mov eax, cs; hex rax; mov eax, ss; hex rax
      retfq`,
      `u1: far_call spare
       hlt
       ${FAR_SPARE}`,
    ),
    output: 'a b8 10 c b8 0 #GP:0 33 #GP:50 #GP:10 #NP:50 .',
    notOnSoftwareKvm: 'its emulator refuses call gates',
  },
  {
    name: 'task switches are refused in long mode',
    mode: 'long64',
    source: long64(
      `
      try far_jmp to_tss
      ${callGate('end', 'TSS', 0xe5)}
      try far_call spare
      mov byte ptr [idt + 6 * 16 + 5], 0x85
      try ud2
      push 0x4002; popfq
      try iretq
      jmp end
      to_tss: .quad 0; .word TSS`,
      FAR_SPARE,
    ),
    output: '#GP:40 #GP:50 #GP:33 #GP:0 .',
    notOnSoftwareKvm: 'its emulator does not know far transfers through the GDT',
  },
  {
    name: 'code that is written is executed as written, through any address',
    mode: 'long64',
    source: long64(`
      call 1f; hex rax
      mov byte ptr [1f + 1], 2
      call 1f; hex rax
      mov rbx, offset 1f; and ebx, 0xfff
      mov rax, offset 1f; and rax, -4096; or rax, 3; mov [PT2], rax; invlpg [V]
      mov byte ptr [V + rbx + 1], 3
      call 1f; hex rax
      lea rbx, [rip + 2f]
      mov byte ptr [rbx + 1], 9
      2: mov al, 8
      movzx eax, al; hex rax
      jmp end
      1: mov al, 1; movzx eax, al; ret`),
    output: '1 2 3 9 .',
  },
  {
    name: 'an instruction across two pages, of which the second changes',
    mode: 'long64',
    source: long64(`
      map "V", "FRAME + 3"
      map "V+0x1000", "FRAME+0x1003"
      mov dword ptr [V + 0xffe], 0x000005b8; mov dword ptr [V + 0x1002], 0xc300
      mov rbx, V + 0xffe
      call rbx; hex rax
      mov dword ptr [FRAME + 0x2000], 0x0000; mov dword ptr [FRAME + 0x2002], 0xc307
      map "V+0x1000", "FRAME+0x2003"
      call rbx; hex rax
      mov byte ptr [FRAME + 0x2000], 9
      call rbx; hex rax
      map "V+0x1000", "0"
      try call rbx`),
    output: '5 7000005 7000905 #PF@401000 :10 .',
  },
];
