/**
 * The surroundings of a guest in protected mode without paging: GDT, IDT and a handler that names each exception and goes
 * on where the guest said. It begins in real mode at 0x7C00.
 */
const NAMES = '#DE #DB NMI #BP #OF #BR #UD #NM #DF m9 #TS #NP #SS #GP #PF m15 #MF #AC #MC #XM'.split(' ');
const WITH_ERROR = new Set([8, 10, 11, 12, 13, 14, 17]);
const STUBS = NAMES.map(
  (_, vector) => `.balign 16\n${WITH_ERROR.has(vector) ? '' : 'push 0\n'}push ${vector}\njmp exception`,
).join('\n');

/** GDT entries of a guest: selector from 0x40 on, in order. */
function descriptors(entries: readonly string[]): string {
  return entries.map((entry) => `.quad ${entry}`).join('\n');
}

/**
 * A guest in 32-bit protected mode.
 * @param body its code; runs into the end, which prints a full stop and halts
 * @param entries descriptors of its own as 64-bit numbers, selectors from 0x40 on
 */
export function protected32(body: string, entries: readonly string[] = []): string {
  return `
.set CODE, 0x08; .set DATA, 0x10; .set USERCODE, 0x1b; .set USERDATA, 0x23; .set TSS, 0x28; .set CODE16, 0x30
.set REAL16, 0x38
.macro puts text:req
  call print
  .asciz "\\text"
.endm
.macro hex what:req
  push \\what
  call print_hex
.endm
.macro try insn:vararg
  mov dword ptr [resume], offset try_\\@
  \\insn
  puts "ok "
try_\\@:
.endm
.macro catch label:req
  mov dword ptr [resume], offset \\label
.endm
  cli; xor ax, ax; mov ds, ax; mov ss, ax; mov sp, 0x7c00
  lgdt [gdtr]
  mov eax, cr0; or al, 1; mov cr0, eax
  ljmp CODE, offset start32
.code32
start32:
  mov eax, DATA; mov ds, ax; mov es, ax; mov ss, ax; mov esp, offset kernel_stack
  mov edi, offset idt; mov eax, offset stubs; mov ecx, ${NAMES.length}
1: mov [edi], ax; mov word ptr [edi + 2], CODE; mov word ptr [edi + 4], 0x8e00
  mov edx, eax; shr edx, 16; mov [edi + 6], dx
  add edi, 8; add eax, 16; dec ecx; jnz 1b
  lidt [idtr]
  mov eax, offset tss; mov [gdt + TSS + 2], ax; shr eax, 16; mov [gdt + TSS + 4], al
  mov eax, TSS; ltr ax
${body}
  jmp end
print:
  xchg esi, [esp]
  push eax
1: mov al, cs:[esi]; inc esi
  test al, al; jz 2f
  out 0xe9, al
  jmp 1b
2: pop eax
  xchg esi, [esp]
  ret
print_hex:
  push eax; push ecx; push edx
  mov edx, [esp + 16]
  mov ecx, 32
1: sub ecx, 4; jz 2f
  mov eax, edx; shr eax, cl; jz 1b
2: mov eax, edx; shr eax, cl; and eax, 15
  add al, 0x30; cmp al, 0x3a; jb 3f; add al, 0x27
3: out 0xe9, al
  sub ecx, 4; jns 2b
  mov al, 0x20; out 0xe9, al
  pop edx; pop ecx; pop eax
  ret 4
exception: # vector, error code, EIP, CS, EFLAGS, from outside also ESP, SS
  cli
  push eax; push ecx; push esi; push ds
  mov eax, DATA; mov ds, eax
  dec dword ptr [patience]; js end
  mov esi, [esp + 16]
  lea esi, [names + esi * 4]
  mov ecx, 3
1: mov al, [esi]; inc esi; out 0xe9, al; dec ecx; jnz 1b
  puts ":"
  push dword ptr [esp + 20]; call print_hex
  mov eax, [esp + 24]; mov [fault_eip], eax
  mov eax, [esp + 28]; mov [fault_cs], eax
  mov eax, [esp + 32]; mov [fault_flags], eax
  mov [handler_esp], esp
  pop ds; pop esi; pop ecx; pop eax
  push 2; popf
  test byte ptr [esp + 18], 2; jnz 2f
  test byte ptr [esp + 12], 3; jnz 2f
  add esp, 20
  jmp cs:[resume]
2: mov esp, offset kernel_stack - 0x100
  push DATA; pop ds
  jmp [resume]
end:
  puts "."
  hlt
.balign 16
stubs:
${STUBS}
.balign 16
gdt: .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00cffb000000ffff, 0x00cff3000000ffff
  .quad 0x0000890000000067, 0x00009b000000ffff, 0x000093000000ffff
${descriptors(entries)}
gdt_end:
gdtr: .word gdt_end - gdt - 1; .long gdt
idtr: .word 8 * 32 - 1; .long idt
resume: .long end
patience: .long 64
fault_eip: .long 0
fault_cs: .long 0
fault_flags: .long 0
handler_esp: .long 0
names: ${NAMES.map((name) => `.balign 4\n.ascii "${name}"`).join('\n')}
.balign 16
tss: .long 0, kernel_stack, DATA; .fill 92, 1, 0
.balign 16
idt: .fill 256, 1, 0
.fill 2048, 1, 0
kernel_stack:
.fill 2048, 1, 0
user_stack:
.code16
`;
}
