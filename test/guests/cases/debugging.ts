/** Single steps, breakpoints, and what DR6 and RF say of them (SDM vol. 3B 17.2, 17.3). */
import type { GuestCase } from '../case.ts';
import { long64 } from '../prelude64.ts';

/** A handler of #DB that prints DR6's low half, the distance of RIP from label 0 and RF, clears DR6 and returns. */
const HANDLER = `
  jmp begin
  db_handler: # vector, error code, RIP ...
  push rax; push rbx
  mov rbx, dr6; movzx ebx, bx; and ebx, 0xe00f; hex rbx
  mov rax, [rsp + 32]; sub rax, offset base; hex rax
  mov rax, [rsp + 48]; shr rax, 16; and eax, 1; hex rax
  puts "| "
  mov eax, 0xffff0ff0; mov dr6, rax
  or qword ptr [rsp + 48], 0x10000
  cmp byte ptr [stepping], 0; jne 1f
  and qword ptr [rsp + 48], ~0x100
  1: pop rbx; pop rax
  add rsp, 16
  iretq
  stepping: .byte 0
  begin: mov qword ptr [hook], offset db_handler
`;

export const DEBUGGING: readonly GuestCase[] = [
  {
    name: 'what the debug registers hold after a reset',
    mode: 'long64',
    source: long64('mov rax, dr0; hex rax; mov rax, dr6; hex rax; mov rax, dr7; hex rax'),
    output: '0 ffff0ff0 400 .',
  },
  {
    name: 'a single step after each instruction',
    mode: 'long64',
    source: long64(`${HANDLER}
      mov byte ptr [stepping], 1
      pushfq; or qword ptr [rsp], 0x100
      popfq
      base: nop
      mov eax, 5
      jmp 1f
      nop
      1: pushfq
      and qword ptr [rsp], ~0x100
      popfq
      nop`),
    // The first trap comes after the instruction behind POPF, the last after the POPF that clears TF.
    output: '4000 1 0 | 4000 6 0 | 4000 9 0 | 4000 a 0 | 4000 12 0 | 4000 13 0 | .',
  },
  {
    name: 'a single step is put off by MOV SS',
    mode: 'long64',
    source: long64(`${HANDLER}
      mov byte ptr [stepping], 1
      mov ecx, ss
      pushfq; or qword ptr [rsp], 0x100
      popfq
      base: mov ss, ecx
      nop
      nop
      pushfq
      and qword ptr [rsp], ~0x100
      popfq`),
    output: '4000 3 0 | 4000 4 0 | 4000 5 0 | 4000 d 0 | 4000 e 0 | .',
    notOnSoftwareKvm: 'its emulator traps after MOV SS',
  },
  {
    name: 'a single step after each iteration of a string instruction',
    mode: 'long64',
    source: long64(`${HANDLER}
      mov byte ptr [stepping], 1
      mov edi, 0x600000; mov ecx, 3; cld
      pushfq; or qword ptr [rsp], 0x100
      popfq
      base: rep stosb
      nop
      pushfq
      and qword ptr [rsp], ~0x100
      popfq
      hex rcx`),
    output: '4000 0 1 | 4000 0 1 | 4000 2 0 | 4000 3 0 | 4000 4 0 | 4000 c 0 | 4000 d 0 | 0 .',
    notOnSoftwareKvm: 'its emulator does two iterations at once',
  },
  {
    name: 'ICEBP',
    mode: 'long64',
    source: long64(`${HANDLER}
      base: .byte 0xf1
      nop`),
    output: '0 1 0 | .',
  },
  {
    name: 'an instruction breakpoint, and RF to go on behind it',
    mode: 'long64',
    source: long64(`${HANDLER}
      mov rax, offset 1f; mov dr1, rax
      mov eax, 0x404; mov dr7, rax
      xor ecx, ecx
      base: nop
      1: inc ecx
      cmp ecx, 3; jb 1b
      mov eax, 0x400; mov dr7, rax
      mov ecx, 2
      jmp 2f
      2: hex rcx`),
    output: '2 1 0 | 2 1 0 | 2 1 0 | 2 .',
  },
  {
    name: 'breakpoints on data',
    mode: 'long64',
    source: long64(`${HANDLER}
      mov eax, 0x600008; mov dr0, rax
      mov eax, 0x600010; mov dr3, rax
      # 0: writes of 4 bytes; 3: accesses of 8 bytes.
      mov eax, 0x400 + 1 + 0x40 + 0xd0000 + 0xb0000000; mov dr7, rax
      mov ebx, 0x600000
      base: mov eax, [rbx + 8]
      mov [rbx + 11], al
      mov [rbx + 12], al
      mov rax, [rbx + 0x17]
      push [rbx + 4]
      pop rax
      mov [rbx + 4], rax
      # The trap comes after the second element.
      lea rdi, [rbx + 4]; mov ecx, 3; cld
      rep stosd
      mov eax, 0x400; mov dr7, rax`),
    output: '1 6 0 | 8 d 0 | 1 15 0 | 1 1f 1 | .',
    notOnSoftwareKvm: 'its emulator does not look at accesses to data',
  },
  {
    name: 'general detect',
    mode: 'long64',
    source: long64(`${HANDLER}
      mov eax, 0x2400; mov dr7, rax
      base: mov rbx, dr0
      mov rax, dr7; hex rax`),
    output: '2000 0 0 | 400 .',
  },
  {
    name: 'faults push RF, traps and interrupts do not',
    mode: 'long64',
    source: long64(`
      catch 1f
      ud2
      1: mov rax, [fault_flags]; shr rax, 16; hex rax
      catch 2f
      int3
      2: mov rax, [fault_flags]; shr rax, 16; hex rax
      catch 3f
      int 0x16
      3: mov rax, [fault_flags]; shr rax, 16; hex rax`),
    output: '#UD:0 1 #BP:0 0 v22:0 0 .',
  },
  {
    name: 'debug registers refuse and reserve',
    mode: 'long64',
    source: long64(`
      mov rax, 1 << 32; try mov dr7, rax
      try mov dr6, rax
      mov eax, 0xffffffff; mov dr6, rax; mov rax, dr6; hex rax
      mov eax, 0; mov dr6, rax; mov rax, dr6; hex rax
      mov eax, 0; mov dr7, rax; mov rax, dr7; hex rax
      mov rax, cr4; and eax, ~8; mov cr4, rax
      try mov rax, dr4
      mov rax, cr4; or eax, 8; mov cr4, rax
      try mov rax, dr4
      try .byte 0x0f, 0x20, 0xc8`),
    output: '#GP:0 #GP:0 ffffefff ffff0ff0 400 ok #UD:0 #UD:0 .',
  },
];
