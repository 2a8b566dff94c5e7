/** Real mode: 16-bit stacks, addresses and strings that wrap, the vector table, far transfers (SDM vol. 3B 21.1). */
import type { GuestCase } from '../case.ts';

/** A guest in real mode with its data segment and stack at 0x20000 and the vector table in ES. */
function real(body: string): string {
  return `
.macro hex what:req
  push \\what
  call print_hex
.endm
.macro puts text:req
  push si
  call 1f
  .asciz "\\text"
1: pop si
2: mov al, cs:[si]; inc si
  test al, al; jz 3f
  out 0xe9, al
  jmp 2b
3: pop si
.endm
.macro vector number:req, label:req
  mov word ptr es:[\\number * 4], offset \\label; mov word ptr es:[\\number * 4 + 2], 0
.endm
  cli; cld; xor ax, ax; mov es, ax
  mov ax, 0x2000; mov ds, ax; mov ss, ax; mov sp, 0x8000
${body}
  puts "."
  hlt
print_hex:
  pusha
  mov bp, sp
  mov dx, [bp + 18]
  mov cx, 16
1: sub cx, 4; jz 2f
  mov ax, dx; shr ax, cl; jz 1b
2: mov ax, dx; shr ax, cl; and al, 15
  add al, 0x30; cmp al, 0x3a; jb 3f; add al, 0x27
3: out 0xe9, al
  sub cx, 4; jns 2b
  mov al, 0x20; out 0xe9, al
  popa
  ret 2
`;
}

export const REAL: readonly GuestCase[] = [
  {
    name: 'stacks that wrap, and what is pushed',
    mode: 'real',
    source: real(`
      mov sp, 2; push 0x1234; push 0x5678
      mov ax, [0xfffe]; mov bx, sp
      mov sp, 0x8000
      hex ax; hex bx; hex [0]
      push sp; pop ax; hex ax
      mov dword ptr [0x100], 0; push 0x4321; pop word ptr [0x100]; hex [0x100]; hex [0x102]
      # push 0x12345678
      .byte 0x66, 0x68; .long 0x12345678; pop ax; pop bx; hex ax; hex bx
      mov bp, 0x1111; enter 6, 0; hex bp; hex sp; leave; hex bp; hex sp
      mov eax, 0x11112222; mov ecx, 0x33334444; pusha; mov bx, sp; hex [bx + 14]; hex [bx + 6]; hex bx
      xor ax, ax; popa; hex ax; hex sp
      pushad; mov bx, sp; hex bx; hex [bx + 30]; popad; hex sp`),
    output:
      '5678 fffe 1234 8000 4321 0 5678 1234 7ffe 7ff8 1111 8000 2222 8000 7ff0 2222 8000 7fe0 1111 8000 .',
  },
  {
    name: 'ENTER with levels',
    mode: 'real',
    source: real(`
      mov bp, 0x200; mov word ptr [0x1fe], 0xabcd; enter 2, 2
      mov ax, [bp - 2]; hex ax; mov ax, [bp - 4]; hex ax; hex bp; hex sp; leave; hex bp; hex sp`),
    output: 'abcd 7ffe 7ffe 7ff8 200 8000 .',
    notOnSoftwareKvm: 'its emulator knows level 0 only',
  },
  {
    name: 'addresses and strings that wrap',
    mode: 'real',
    source: real(`
      mov bx, 0xfff0; mov si, 0x20; mov byte ptr [0x10], 0x5a
      movzx ax, byte ptr [bx + si]; hex ax; lea ax, [bx + si + 0x7fff]; hex ax
      mov ax, ds; mov es, ax
      mov byte ptr [0xffff], 0x11; mov byte ptr [0], 0x22; mov esi, 0x1234ffff; mov di, 0x100; mov ecx, 0x50002
      rep movsb
      hex [0x100]; hex si; hex di; hex cx; shr esi, 16; hex si; shr ecx, 16; hex cx
      mov al, 0x33; mov di, 0xffff; mov cx, 2; rep stosb; hex di; movzx ax, byte ptr [0]; hex ax
      std; mov di, 0; mov cx, 3; mov al, 0x33; repe scasb; cld; hex di; hex cx
      mov ecx, 0x10002; 1: loop 1b; hex cx; shr ecx, 16; hex cx
      mov ecx, 0x10000; jcxz 2f; hex 0xbad; 2: jecxz 3f; puts "ecx "; 3:
      mov ebx, 0x100; mov ecx, 2; mov dword ptr [0x108], 0x99887766; mov eax, [ebx + ecx * 4]; hex ax; shr eax, 16; hex ax
      mov bx, 0x108; mov al, 2; xlatb; xor ah, ah; hex ax`),
    output: '5a 800f 2211 1 102 0 1234 5 1 33 fffd 0 0 1 ecx 7766 9988 88 .',
  },
  {
    name: 'descriptor tables with bases of 24 and 32 bits',
    mode: 'real',
    source: real(`
      .macro stored insn
        .byte 0x66; \\insn [0x210]; hex [0x210]; hex [0x212]; hex [0x214]
      .endm
      mov word ptr [0x200], 0x1f; mov dword ptr [0x202], 0xaa123456
      lgdt [0x200]; stored sgdt
      .byte 0x66; lgdt [0x200]; stored sgdt
      lidt [0x200]; stored sidt
      .byte 0x66; lidt [0x200]; stored sidt`),
    output: '1f 3456 12 1f 3456 aa12 1f 3456 12 1f 3456 aa12 .',
  },
  {
    name: 'interrupts, faults and far transfers',
    mode: 'real',
    source: real(`
      vector 0x40, on_int; vector 13, on_fault; vector 0, on_fault; vector 6, on_fault
      sti; stc; int 0x40; pushf; pop ax; and ax, 0x201; hex ax; cli
      mov word ptr cs:[resume], offset 1f; mov bx, 0xffff; f0: mov ax, [bx]
      1: mov word ptr cs:[resume], offset 2f; mov bx, 0; f1: div bx
      2: mov word ptr cs:[resume], offset 3f; f2: ud2
      3: mov ebx, 0x10000; mov word ptr cs:[resume], offset 4f; f3: mov al, [ebx]
      4: lcall 0x7c0, offset far_code - 0x7c00
      mov word ptr [0x300], offset far_code; mov word ptr [0x302], 0; lcall [0x300]
      push 0x11; push 0x22; lcall 0, offset far_drop; hex sp
      ljmp 0x700, offset behind - 0x7000
      behind: mov ax, cs; hex ax
      push 0; push offset back; retf
      back: mov ax, cs; hex ax
      puts "."; hlt
      on_int: mov bp, sp; hex [bp + 4]; pushf; pop ax; and ax, 0x201; hex ax; hex sp; iret
      # From the fault back to where the guest said; its offset from the label of the instruction.
      on_fault: mov bp, sp; mov ax, [bp]; sub ax, offset f0; hex ax; add sp, 6; jmp cs:[resume]
      far_code: mov ax, cs; hex ax; retf
      far_drop: retf 4
      resume: .word 0`),
    output: '247 1 7ffa 201 0 c 15 24 7c0 0 8000 700 0 .',
  },
];
