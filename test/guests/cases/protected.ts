/** Segments with limits, rings, gates and the modes without paging (SDM vol. 3A 3.4, 5; vol. 3B 21). */
import type { GuestCase } from '../case.ts';
import { protected32 } from '../prelude32.ts';

const NO_IRET = 'IRET of 32-bit guests does not work there';

export const PROTECTED: readonly GuestCase[] = [
  {
    name: 'limits of segments',
    mode: 'real',
    source: protected32(
      `
      mov eax, 0x40; mov fs, ax
      try mov al, fs:[0xfff]
      try mov al, fs:[0x1000]
      try mov eax, fs:[0xffd]
      try mov fs:[0xffc], eax
      mov eax, 0x48; mov fs, ax
      try mov al, fs:[0]
      try mov fs:[0], al
      mov eax, 0x50; mov fs, ax
      try mov al, fs:[0xfff]
      try mov al, fs:[0x1000]
      try mov al, fs:[0xffffffff]
      mov eax, 0x58; mov fs, ax
      try mov al, fs:[0xffff]
      try mov al, fs:[0x10000]
      mov eax, 0x60; try mov fs, ax
      mov eax, 0x68; mov fs, ax
      try mov al, fs:[0]
      try mov fs:[4], al
      try mov cs:[0x600], al
      xor eax, eax; mov fs, ax
      try mov al, fs:[0]
      mov eax, 0x40; mov ss, ax; mov esp, 0xffc
      try pop ebx
      mov esp, 0xffd
      catch 1f
      mov eax, DATA
      mov bl, ss:[esp + 2]
      1: mov ss, ax; mov esp, offset kernel_stack`,
      [
        '0x0040930000000fff', // 40: 4 KiB
        '0x0040910000000fff', // 48: read only
        '0x0040970000000fff', // 50: expand down, 32 bits
        '0x0000970000000fff', // 58: expand down, 16 bits
        '0x0040990000000fff', // 60: execute only
        '0x00409b0000000fff', // 68: code, readable
      ],
    ),
    output: 'ok #GP:0 #GP:0 ok ok #GP:0 #GP:0 ok ok ok #GP:0 #GP:60 ok #GP:0 #GP:0 #GP:0 ok .',
  },
  {
    name: 'LAR, LSL, VERR and VERW',
    mode: 'real',
    source: protected32(
      `
      .macro look selector
        mov eax, \\selector; mov ebx, -1; mov ecx, -1
        lar ebx, eax; lsl ecx, eax; hex ebx; hex ecx
        verr ax; setz dl; verw ax; setz dh; movzx edx, dx; hex edx
      .endm
      look CODE
      look 0x40
      look 0x48
      look 0x50
      look TSS
      look 0x7f8
      look 0
      look 0x43`,
      ['0x0040930000000fff', '0x00008e0000000000', '0x0000ec0000000000'],
    ),
    output:
      'cf9b00 ffffffff 1 409300 fff 101 ffffffff ffffffff 0 ec00 ffffffff 0 8b00 67 0 ffffffff ffffffff 0 ffffffff ffffffff 0 ffffffff ffffffff 0 .',
  },
  {
    name: 'segment registers by moves, the stack and far pointers',
    mode: 'real',
    source: protected32(
      `
      mov eax, 0x40; mov fs, eax
      mov ebx, -1; mov ebx, fs; hex ebx
      mov ebx, -1; mov bx, fs; hex ebx
      mov dword ptr [word], -1; mov [word], fs; hex [word]
      push fs; pop eax; movzx eax, ax; hex eax
      push 0x48; pop gs; mov eax, gs; hex eax
      push gs; pop es; mov eax, es; hex eax
      push 0x40; pop ss; mov eax, ss; hex eax
      lfs ecx, [far48]; hex ecx; mov eax, fs; hex eax
      lgs cx, [far40]; hex ecx; mov eax, gs; hex eax
      les ecx, [far48]; mov eax, es; hex eax
      lss esp, [stack]; mov eax, ss; hex eax; mov eax, esp; sub eax, offset kernel_stack; hex eax
      lds ecx, [far48]; mov eax, ds; mov ecx, DATA; mov ds, ecx; hex eax
      mov ecx, 0x77; try lfs ecx, [bad]
      hex ecx; mov eax, fs; hex eax
      try pop cs:[word]
      push 0x7f8; try pop fs
      jmp end
      word: .long 0
      far48: .long 0x12345678; .word 0x48
      far40: .word 0x9abc; .word 0x40
      stack: .long kernel_stack - 16; .word 0x48
      bad: .long 1; .word 0x7f8`,
      ['0x00cf93000000ffff', '0x00cf93000000ffff'],
    ),
    output:
      '40 ffff0040 ffff0040 40 48 48 40 12345678 48 12349abc 40 48 48 fffffff0 48 #GP:7f8 77 48 #GP:0 #GP:7f8 .',
  },
  {
    name: 'operands and addresses of 16 bits in 32-bit code',
    mode: 'real',
    source: protected32(
      `
      .macro depth
        mov eax, esp; sub eax, offset kernel_stack; hex eax
      .endm
      mov esp, offset kernel_stack
      mov eax, 0x11112222; push ax; depth; pop bx; movzx ebx, bx; hex ebx; depth
      callw 1f
      jmp 2f
      1: depth; movzx eax, word ptr [esp]; sub eax, offset 1b; hex eax
      .byte 0x66; ret
      2: depth
      .byte 0x66, 0x9a; .word far16, CODE; depth
      .byte 0x66, 0x68; .word 0x77; .byte 0x66, 0x9a; .word drop16, CODE; depth
      stc; .byte 0x66; pushf; movzx eax, word ptr [esp]; and eax, 1; hex eax; clc; .byte 0x66; popf; setc al; movzx eax, al; hex eax; depth
      mov eax, 0x11112222; .byte 0x66; pusha; depth; xor eax, eax; .byte 0x66; popa; hex eax; depth
      .byte 0x66; push fs; depth; .byte 0x66; pop fs; depth
      mov ecx, 0x10002; 3: .byte 0x67; loop 3b; hex ecx
      .byte 0x67; jecxz 4f; hex 0xbad; 4:
      mov byte ptr [0x6120], 0x5a; mov ebx, 0x16000; mov esi, 0x20120; xor eax, eax
      mov al, [bx + si]; hex eax
      mov dword ptr [0x6120], 0x44332211; mov esi, 0x16120; cld; .byte 0x67; lodsb; movzx eax, al; hex eax; hex esi
      mov edi, 0x16123; mov ecx, 0x30003; .byte 0x67; rep stosb; hex edi; hex ecx
      jmp end
      far16: depth; .byte 0x66; retf
      drop16: depth; .byte 0x66; retf 2`,
    ),
    output:
      'fffffffe 2222 0 fffffffe fffffffe 0 fffffffc 0 fffffffa 0 1 1 0 fffffff0 2222 0 fffffffe 0 10000 5a 11 16121 16126 30000 .',
  },
  {
    name: 'ENTER and LEAVE with operands of 16 bits on a stack of 32 bits',
    mode: 'real',
    source: protected32(`
      mov esp, offset kernel_stack; mov ebp, 0x1234; .byte 0x66; enter 4, 0
      mov eax, esp; sub eax, offset kernel_stack; hex eax
      mov eax, ebp; sub eax, offset kernel_stack; hex eax
      .byte 0x66; leave; mov eax, esp; sub eax, offset kernel_stack; hex eax; hex ebp`),
    output: 'fffffffa fffffffe 0 1234 .',
    notOnSoftwareKvm: 'its emulator pushes as many bits as the stack has',
  },
  {
    name: 'gates of 16 bits',
    mode: 'real',
    source: protected32(
      `
      mov eax, offset through; mov [idt + 0x1e * 8], ax; mov word ptr [idt + 0x1e * 8 + 2], CODE
      mov word ptr [idt + 0x1e * 8 + 4], 0x8600; mov word ptr [idt + 0x1e * 8 + 6], 0x5555
      mov [gdt + 0x40], ax; mov word ptr [gdt + 0x42], CODE; mov word ptr [gdt + 0x44], 0x8400
      mov esp, offset kernel_stack; stc
      int 0x1e; 1: mov esp, offset kernel_stack
      mov dword ptr [next], offset 2f
      lcall 0x40, 0x12345678; 2: jmp end
      through: mov ebx, esp; sub ebx, offset kernel_stack; hex ebx
      movzx eax, word ptr [esp + 2]; hex eax
      movzx eax, word ptr [esp]; sub eax, offset 1b; hex eax
      pushfd; pop eax; and eax, 0x201; hex eax
      jmp [next]
      next: .long 1b`,
      ['0'],
    ),
    output: 'fffffffa 8 0 1 fffffffc 8 16 1 .',
    notOnSoftwareKvm: 'its emulator has no call gates',
  },
  {
    name: 'BOUND and INTO',
    mode: 'real',
    source: protected32(`
      mov eax, -5; try bound eax, [limits]
      mov eax, -6; try bound eax, [limits]
      mov eax, 9; try bound eax, [limits]
      mov eax, 10; try bound eax, [limits]
      mov ax, 3; try bound ax, [limits16]
      mov ax, 4; try bound ax, [limits16]
      xor eax, eax; try into
      mov al, 0x7f; inc al; try into
      jmp end
      limits: .long -5, 9
      limits16: .word 3, 3`),
    output: 'ok #BR:0 ok #BR:0 ok #BR:0 ok #OF:0 .',
    notOnSoftwareKvm: 'its emulator does not know BOUND',
  },
  {
    name: 'ARPL',
    mode: 'real',
    source: protected32(`
      mov eax, 0x41; mov ebx, 3; arpl ax, bx; setz cl; movzx ecx, cl; hex ecx; hex eax
      mov eax, 0x43; mov ebx, 1; arpl ax, bx; setz cl; movzx ecx, cl; hex ecx; hex eax`),
    output: '1 43 0 43 .',
    notOnSoftwareKvm: 'its emulator does not know it',
  },
  {
    name: 'user code, its exceptions, and call gates inward with parameters',
    mode: 'real',
    source: protected32(
      `
      mov eax, offset gate; mov [gdt + 0x40], ax; mov word ptr [gdt + 0x42], CODE
      mov word ptr [gdt + 0x44], 0xec02
      catch 1f
      push USERDATA; push offset user_stack; push USERCODE; push offset u1; retf
      1: hex [fault_cs]
      catch 2f
      push USERDATA; push offset user_stack; push USERCODE; push offset u2; retf
      2: jmp end
      u1: mov eax, USERDATA; mov ds, eax; mov es, eax
      mov eax, CODE; hlt
      u2: mov eax, USERDATA; mov ds, eax
      push 0x11; push 0x22
      lcall 0x43, 0
      mov ecx, cs; mov edx, esp; sub edx, offset user_stack
      hlt
      gate: puts "gate "
      mov eax, cs; hex eax; mov eax, ss; hex eax
      mov eax, esp; sub eax, offset kernel_stack; hex eax
      hex [esp + 8]
      hex [esp + 12]
      hex [esp + 20]
      retf 8`,
      ['0'],
    ),
    output: '#GP:0 1b gate 8 10 ffffffe8 22 11 23 #GP:0 .',
    notOnSoftwareKvm: 'its emulator refuses call gates',
  },
  {
    name: 'conforming code keeps the privilege',
    mode: 'real',
    source: protected32(
      `
      catch 1f
      push USERDATA; push offset user_stack; push USERCODE; push offset u1; retf
      1: hex [fault_cs]
      catch 2f
      push USERDATA; push offset user_stack; push USERCODE; push offset u2; retf
      2: jmp end
      u1: ljmp 0x40, offset u3
      u3: hlt
      u2: ljmp CODE, offset u3`,
      ['0x00cf9f000000ffff'],
    ),
    output: '#GP:0 43 #GP:8 .',
    notOnSoftwareKvm: 'its emulator does not know conforming code',
  },
  {
    name: 'task switches are refused',
    mode: 'real',
    source: protected32(
      `
      try ljmp 0x40, 0
      try lcall 0x48, 0
      mov word ptr [idt + 6 * 8 + 2], 0x40; mov byte ptr [idt + 6 * 8 + 5], 0x85
      try ud2
      mov eax, 0x50; try ltr ax
      mov eax, TSS; try ltr ax
      mov eax, 0x40; try lldt ax`,
      ['0x0000890000000067', '0x0000850000400000', '0x0000090000000067'],
    ),
    output: '#GP:40 #GP:48 #GP:41 #NP:50 #GP:28 #GP:40 .',
    notOnKvm: 'KVM switches tasks',
  },
  {
    name: 'the limit of the code segment',
    mode: 'real',
    source: protected32(
      `
      mov eax, offset tiny; mov [gdt + 0x42], ax; shr eax, 16; mov [gdt + 0x44], al
      catch 1f
      ljmp 0x40, 0
      1: mov eax, [fault_eip]; hex eax
      catch 2f
      ljmp 0x40, 4
      2: mov eax, [fault_eip]; hex eax
      catch 3f
      ljmp 0x40, 8
      3: mov eax, [fault_eip]; sub eax, offset 2b; hex eax
      jmp end
      tiny: nop; nop; nop; nop; nop; .byte 0xb8; .long 0; nop`,
      ['0x00409b0000000007'],
    ),
    output: '#GP:0 5 #GP:0 5 #GP:0 15 .',
    notOnSoftwareKvm: 'its emulator does not look at the limit of code',
  },
  {
    name: 'back to real mode, and interrupts there',
    mode: 'real',
    source: protected32(`
      lidt [real_idt]
      ljmp CODE16, offset p16
      .code16
      p16: mov ax, REAL16; mov ds, ax; mov es, ax; mov ss, ax
      mov eax, cr0; and al, 0xfe; mov cr0, eax
      ljmp 0, offset real
      real: xor ax, ax; mov ds, ax; mov es, ax; mov ss, ax; mov sp, 0x7000
      mov word ptr [6 * 4], offset handler; mov word ptr [6 * 4 + 2], ax
      mov word ptr [0x21 * 4], offset handler; mov word ptr [0x21 * 4 + 2], ax
      int 0x21
      nop
      ud2
      mov al, 0x2e; out 0xe9, al
      hlt
      handler: mov al, 0x69; out 0xe9, al
      mov bp, sp; mov bx, [bp]; cmp word ptr [bx], 0x0b0f; jne 1f
      add word ptr [bp], 2
      1: iret
      real_idt: .word 0x3ff; .long 0
      .code32`),
    output: 'ii.',
  },
  {
    name: 'virtual-8086 mode',
    mode: 'real',
    source: protected32(`
      .macro v86 label, flags
        push 0; push 0; push 0; push 0; push 0; push 0x7000; push \\flags; push 0; push offset \\label
        iret
      .endm
      catch 1f; v86 v1, 0x20002
      1: hex [fault_cs]; mov eax, [fault_flags]; and eax, 0x20000; hex eax
      catch 2f; v86 v2, 0x20002
      2: catch 3f; v86 v3, 0x20002
      3: catch 4f; v86 v4, 0x23002
      4: catch 5f; v86 v5, 0x23002
      5: hex ecx
      jmp end
      .code16
      v1: mov ax, 0x700; mov ds, ax; mov al, [0x10]; hlt
      v2: cli
      v3: int 0x21
      v4: cli; sti; pushf; popf; ud2
      v5: mov ax, 0x123; mov es, ax; xor bx, bx; mov cx, cs; mov ecx, 7; lar eax, eax
      .code32`),
    output: '#GP:0 0 20000 #GP:0 #GP:0 #UD:0 #UD:0 7 .',
    notOnSoftwareKvm: NO_IRET,
  },
];
