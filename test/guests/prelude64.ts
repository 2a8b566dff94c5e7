/**
 * The surroundings of a guest in 64-bit mode: descriptor tables, page tables with supervisor and user pages, a handler
 * that names each exception and goes on where the guest said, and printing to port 0xE9.
 *
 * ```
 * 0x100000  the program, user code and stack at its end in user pages
 * 0x200000  PML4, PDPT, PD, PT of the first 2 MiB, PT2 of VA 0x400000 to 0x5FFFFF (empty)
 * 0x600000  2 MiB of RAM, the frames that guests map elsewhere
 * ```
 */

/** Selectors: what SYSCALL and SYSRET need with IA32_STAR at 0x0020_0008. */
export const SELECTORS = `
.set CODE64, 0x08; .set DATA, 0x10; .set CODE32, 0x18
.set USER32, 0x23; .set USERDATA, 0x2b; .set USER64, 0x33
.set TSS, 0x40; .set SPARE, 0x50
.set PT2, 0x204000; .set FRAME, 0x700000; .set V, 0x400000
`;

const MACROS = `
.macro puts text:req
  call print
  .asciz "\\text"
.endm
.macro hex what:req
  push \\what
  call print_hex
.endm
# Carries an instruction out: "ok", or the exception.
.macro try insn:vararg
  mov qword ptr [resume], offset try_\\@
  \\insn
  puts "ok "
try_\\@:
.endm
# As try, but what comes behind the instruction is up to the guest: the exception goes on at the label.
.macro catch label:req
  mov qword ptr [resume], offset \\label
.endm
# Maps a page of 0x400000 to 0x5FFFFF.
.macro map va:req, entry:req
  push rax
  mov rax, \\entry
  mov [PT2 + (\\va - 0x400000) / 512], rax
  invlpg [\\va]
  pop rax
.endm
# Goes on at a label of the user code.
.macro user label:req, flags=2, cs=USER64
  push USERDATA
  push offset user_stack
  push \\flags
  push \\cs
  push offset \\label
  iretq
.endm
# Far transfers with REX.W by a pointer in memory.
.macro far_call at:req
  .byte 0x48, 0xff, 0x1c, 0x25
  .long \\at
.endm
.macro far_jmp at:req
  .byte 0x48, 0xff, 0x2c, 0x25
  .long \\at
.endm
# An exception gets a stack of the interrupt stack table.
.macro ist vector:req, number:req
  mov byte ptr [idt + \\vector * 16 + 4], \\number
.endm
.macro wrmsr64 index:req, value:req
  mov ecx, \\index
  mov rax, \\value
  mov rdx, rax
  shr rdx, 32
  wrmsr
.endm
`;

const NAMES =
  '#DE #DB NMI #BP #OF #BR #UD #NM #DF m9 #TS #NP #SS #GP #PF m15 #MF #AC #MC #XM v20 v21 v22 v23 v24 v25 v26 v27 v28 v29 v30 v31'.split(
    ' ',
  );
const WITH_ERROR = new Set([8, 10, 11, 12, 13, 14, 17]);

const STUBS = NAMES.map(
  (_, vector) => `.balign 16\n${WITH_ERROR.has(vector) ? '' : 'push 0\n'}push ${vector}\njmp exception`,
).join('\n');
const NAME_TABLE = NAMES.map((name) => `.balign 4\n.ascii "${name}"`).join('\n');

const START = `
  lgdt [gdtr]
  mov edi, 0x200000; xor eax, eax; mov ecx, 0x5000 / 4; rep stosd
  mov qword ptr [0x200000], 0x201007
  mov qword ptr [0x201000], 0x202007
  mov qword ptr [0x202000], 0x203007
  mov qword ptr [0x202008], 0x200083
  mov qword ptr [0x202010], 0x204007
  mov qword ptr [0x202018], 0x600083
  mov edi, 0x203000; mov rax, 3
1: cmp rax, offset user_start; jb 2f
  cmp rax, offset user_end; jae 2f
  or rax, 4
2: mov [rdi], rax
  and rax, -5
  add rdi, 8; add rax, 0x1000
  cmp edi, 0x204000; jb 1b
  mov ecx, 0xc0000080; rdmsr; or eax, 0x801; wrmsr
  mov rax, cr0; or eax, 0x10000; mov cr0, rax
  mov eax, 0x200000; mov cr3, rax
  mov rsp, offset kernel_stack
  push CODE64; push offset 3f; retfq
3: mov eax, DATA; mov ss, ax; mov ds, ax; mov es, ax
  mov rdi, offset idt; mov rax, offset stubs; mov ecx, 32
4: mov [rdi], ax; mov word ptr [rdi + 2], CODE64; mov word ptr [rdi + 4], 0x8e00
  mov rdx, rax; shr rdx, 16; mov [rdi + 6], dx; mov qword ptr [rdi + 8], 0
  add rdi, 16; add rax, 16; dec ecx; jnz 4b
  lidt [idtr]
  mov rax, offset tss
  mov [gdt + TSS + 2], ax; shr rax, 16; mov [gdt + TSS + 4], al; mov [gdt + TSS + 7], ah
  mov eax, TSS; ltr ax
`;

const RUNTIME = `
print: # text behind the call
  xchg rsi, [rsp]
  push rax
1: lodsb
  test al, al; jz 2f
  out 0xe9, al
  jmp 1b
2: pop rax
  xchg rsi, [rsp]
  ret
print_hex: # a quadword on the stack, without leading zeros
  push rax; push rcx; push rdx
  mov rdx, [rsp + 32]
  mov ecx, 64
1: sub ecx, 4; jz 2f
  mov rax, rdx; shr rax, cl; jz 1b
2: mov rax, rdx; shr rax, cl; and eax, 15
  add al, 0x30; cmp al, 0x3a; jb 3f; add al, 0x27
3: out 0xe9, al
  sub ecx, 4; jns 2b
  mov al, 0x20; out 0xe9, al
  pop rdx; pop rcx; pop rax
  ret 8
exception: # vector, error code, RIP, CS, RFLAGS, RSP, SS
  cmp qword ptr [hook], 0; je 1f
  jmp [hook]
1: dec dword ptr [patience]; js end
  push rax; push rcx; push rsi
  mov rsi, [rsp + 24]
  lea rsi, [names + rsi * 4]
  mov ecx, 3; cld
2: lodsb; out 0xe9, al; dec ecx; jnz 2b
  mov rax, [rsp + 40]; mov [fault_rip], rax
  mov rax, [rsp + 48]; mov [fault_cs], rax
  mov rax, [rsp + 56]; mov [fault_flags], rax
  mov rax, [rsp + 64]; mov [fault_rsp], rax
  mov [handler_rsp], rsp
  cmp qword ptr [rsp + 24], 14; jne 3f
  puts "@"
  mov rax, cr2; push rax; call print_hex
3: mov rax, [rsp + 32]
  puts ":"
  push rax; call print_hex
  pop rsi; pop rcx; pop rax
  push 2; popfq
  test byte ptr [rsp + 24], 3; jz 4f
  mov rsp, offset kernel_stack - 0x800
  jmp 5f
4: mov rsp, [rsp + 40]
5: jmp [resume]
end:
  puts "."
  hlt
`;

const DATA = `
.balign 16
gdt: .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff
  .quad 0x00cffb000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff, 0
  .quad 0x0000890000000067, 0, 0, 0, 0, 0, 0, 0
gdtr: .word gdtr - gdt - 1; .quad gdt
idtr: .word 16 * 256 - 1; .quad idt
.balign 8
resume: .quad end
patience: .quad 64
hook: .quad 0
fault_rip: .quad 0
fault_cs: .quad 0
fault_flags: .quad 0
fault_rsp: .quad 0
handler_rsp: .quad 0
.balign 16
tss: .long 0; .quad kernel_stack, 0, 0, 0; .quad ist1, ist2, 0, 0, 0, 0, 0; .quad 0; .word 0, 104
.fill 32, 1, 0
.balign 16
idt: .fill 4096, 1, 0
.fill 4096, 1, 0
kernel_stack:
.fill 1024, 1, 0
ist1:
.fill 1024, 1, 0
ist2:
names: ${NAME_TABLE}
`;

/**
 * A guest in 64-bit mode at CPL 0.
 * @param body its code; runs into the end, which prints a full stop and halts
 * @param userCode code in pages of the user
 */
export function long64(body: string, userCode = ''): string {
  return `${SELECTORS}${MACROS}${START}
${body}
  jmp end
${RUNTIME}
.balign 16
stubs:
${STUBS}
${DATA}
.balign 4096
user_start:
${userCode}
.balign 4096
.fill 4096, 1, 0
user_stack:
user_end:
`;
}
