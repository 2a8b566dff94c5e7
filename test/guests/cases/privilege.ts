/** What user code may not do, control registers, MSRs and alignment (SDM vol. 3A 2.5, 2.8, 5.9; vol. 4). */
import type { GuestCase } from '../case.ts';
import { long64 } from '../prelude64.ts';

/** Executes each instruction as user code; all are told by their exceptions. */
function asUser(instructions: readonly string[], flags = '2'): { body: string; user: string } {
  const body = instructions.map((_, i) => `catch after${i}; user u${i}, ${flags}; after${i}:`).join('\n');
  const user = instructions.map((text, i) => `u${i}: ${text}; ud2`).join('\n');
  return { body, user };
}

function userCase(
  name: string,
  instructions: readonly string[],
  output: string,
  options: { setup?: string; flags?: string; data?: string; notOnSoftwareKvm?: string } = {},
): GuestCase {
  const { body, user } = asUser(instructions, options.flags);
  const { notOnSoftwareKvm } = options;
  return {
    name,
    mode: 'long64',
    source: long64(`${options.setup ?? ''}\n${body}`, `${user}\n${options.data ?? ''}`),
    output: `${output} .`,
    ...(notOnSoftwareKvm === undefined ? {} : { notOnSoftwareKvm }),
  };
}

export const PRIVILEGE: readonly GuestCase[] = [
  userCase(
    'instructions of the kernel',
    [
      'hlt',
      'cli',
      'sti',
      'clts',
      'lgdt [table]',
      'lmsw ax',
      'invlpg [table]',
      'wbinvd',
      'swapgs',
      'mov dr0, rax',
      'mov ecx, 0x10; rdmsr',
      'mov ecx, 0x10; wrmsr',
      'ltr ax',
      'lldt ax',
      'mov cr3, rax',
      'in al, dx',
    ],
    Array(16).fill('#GP:0').join(' '),
    { data: 'table: .quad 0, 0' },
  ),
  userCase(
    'UMIP',
    ['sgdt [table]', 'sidt [table]', 'sldt eax', 'str eax', 'smsw eax'],
    'ok ok ok #GP:0 #GP:0 #GP:0 #GP:0 #GP:0',
    {
      data: 'table: .quad 0, 0',
      setup: 'mov rax, cr4; or eax, 0x800; mov cr4, rax; try sgdt [0x600000]; try smsw eax; try str eax',
    },
  ),
  userCase(
    'port permissions',
    ['in al, 0x40', 'in al, 0x41', 'in ax, 0x40', 'in eax, 0x47', 'mov dx, 0x3ff; out dx, al'],
    '#UD:0 #GP:0 #GP:0 #UD:0 #GP:0',
    {
      // The map begins at 104: ports 0x41 and up to 0x3F7 but for 0x47 to 0x4F are denied, the rest lies beyond the limit.
      setup: `mov word ptr [tss + 102], 104
        mov word ptr [gdt + TSS], 104 + 16; mov byte ptr [tss + 104 + 8], 0x02
        mov byte ptr [gdt + TSS + 5], 0x89; mov eax, TSS; ltr ax`,
    },
  ),
  userCase(
    'CLI, STI and ports with I/O privilege',
    ['cli; sti; pushfq; pop rax', 'in al, 0x40'],
    '#UD:0 #UD:0',
    {
      flags: '0x3202',
      notOnSoftwareKvm: 'IOPL does not count there',
    },
  ),
  {
    name: 'POPF changes what it may',
    mode: 'long64',
    source: long64(
      `catch 1f; user u1, 0x202
      1: hex rax
      push 0x3cd5; popfq; pushfq; pop rax; hex rax; push 2; popfq`,
      'u1: push 0x247cd5; popfq; pushfq; pop rax; ud2',
    ),
    // User code keeps IF and IOPL; the kernel may change them.
    output: '#UD:0 244ed7 3cd7 .',
  },
  userCase(
    'alignment',
    [
      'mov eax, [data + 1]',
      'mov [data + 2], rax',
      'mov ax, [data + 2]',
      'mov al, [data + 3]',
      'movups xmm0, [data + 8]',
      'lea rsp, [data + 17]; push rax',
      'mov eax, [data + 0xffe - 0x1000 + 0x1000]',
    ],
    'ok #AC:0 #AC:0 #UD:0 #UD:0 #AC:0 #AC:0 #AC:0',
    {
      flags: '0x40002',
      data: '.balign 4096\ndata: .fill 8192, 1, 0',
      setup: `mov rax, cr0; or eax, 0x40000; mov cr0, rax
        mov rax, cr4; or eax, 0x600; mov cr4, rax
        pushfq; or qword ptr [rsp], 0x40000; popfq; try mov eax, [0x600001]`,
    },
  ),
  {
    name: 'segment registers by moves, the stack and far pointers',
    mode: 'long64',
    source: long64(`
      mov eax, DATA; mov fs, eax
      mov rbx, -1; mov rbx, fs; hex rbx
      mov rbx, -1; mov bx, fs; hex rbx
      mov qword ptr [place], -1; mov [place], fs; mov rax, [place]; hex rax
      push fs; pop rax; movzx eax, ax; hex rax
      push USERDATA; pop gs; mov eax, gs; hex rax
      lfs ecx, [wide]; hex rcx; mov eax, fs; hex rax
      lgs cx, [narrow]; hex rcx; mov eax, gs; hex rax
      mov ecx, 0x77; try lgs ecx, [bad]
      hex rcx; mov eax, gs; hex rax
      jmp end
      place: .quad 0
      wide: .long 0x12345678; .word USERDATA
      narrow: .word 0x9abc; .word DATA
      bad: .long 1; .word 0x7f8`),
    output: '10 ffffffffffff0010 ffffffffffff0010 10 2b 12345678 2b 12349abc 10 #GP:7f8 77 10 .',
  },
  {
    name: 'system registers stored to registers and memory',
    mode: 'long64',
    source: long64(`
      .macro stored insn:req
        mov rax, -1; \\insn eax; hex rax
        mov rax, -1; \\insn ax; hex rax
        mov qword ptr [place], -1; \\insn word ptr [place]; mov rax, [place]; hex rax
      .endm
      .macro same at:req
        lea rsi, [place]; lea rdi, [\\at]; mov ecx, 10; repe cmpsb; setz al; movzx eax, al; hex rax
      .endm
      stored sldt
      stored str
      mov rbx, cr0
      smsw eax; xor eax, ebx; movzx eax, ax; hex rax
      mov rax, -1; smsw ax; xor ax, bx; hex rax
      mov qword ptr [place], -1; smsw word ptr [place]; xor [place], bx; mov rax, [place]; hex rax
      mov eax, 8; lmsw ax; mov rax, cr0; and eax, 15; hex rax
      clts; mov rax, cr0; and eax, 15; hex rax
      mov word ptr [place], 3; lmsw word ptr [place]; mov rax, cr0; and eax, 15; hex rax
      sgdt [place]; same gdtr
      sidt [place]; same idtr
      jmp end
      .balign 16
      place: .fill 16, 1, 0`),
    output:
      '0 ffffffffffff0000 ffffffffffff0000 40 ffffffffffff0040 ffffffffffff0040 0 ffffffffffff0000 ffffffffffff0000 9 1 3 1 1 .',
  },
  {
    name: 'IA32_TSC_AUX, by the instructions that read it',
    mode: 'long64',
    source: long64(`
      wrmsr64 0xc0000103, 0x81234567
      rdtscp; hex rcx
      rdpid rax; hex rax
      mov ecx, 0xc0000103; mov eax, 1; mov edx, 1; try wrmsr`),
    output: '81234567 81234567 #GP:0 .',
    notOnSoftwareKvm: 'it refuses the MSR',
  },
  {
    name: 'ports and strings',
    mode: 'long64',
    // The port gives its own number.
    source: long64(`
      mov esi, offset text; mov edx, 0xe9; mov ecx, 3; rep outsb
      sub esi, offset text; hex rsi; hex rcx
      std; mov edi, offset place + 1; mov ecx, 2; rep insb; cld
      sub rdi, offset place; hex rdi
      movzx eax, word ptr [place]; hex rax
      mov edi, offset place; insb; sub edi, offset place; hex rdi
      jmp end
      text: .ascii "abc"
      place: .word 0`),
    output: 'abc3 0 ffffffffffffffff e9e9 1 .',
  },
  {
    name: 'INVD, RDPMC without counters, and a call to the hypervisor that it does not know',
    mode: 'long64',
    source: long64('try invd; xor ecx, ecx; try rdpmc; mov eax, 0x7777; vmcall; hex rax'),
    output: 'ok #GP:0 fffffffffffffc18 .',
    notOnSoftwareKvm: 'VMCALL never completes there',
  },
  {
    name: 'XCR0',
    mode: 'long64',
    source: long64(`
      mov rax, cr4; btr rax, 18; mov cr4, rax
      xor ecx, ecx; try xgetbv
      mov rax, cr4; bts rax, 18; mov cr4, rax
      xgetbv; hex rax; hex rdx
      mov eax, 3; xsetbv; xgetbv; hex rax
      mov eax, 2; try xsetbv
      mov eax, 1; mov edx, 1; try xsetbv
      mov eax, 1; xor edx, edx; mov ecx, 1; try xsetbv
      mov ecx, 2; try xgetbv
      mov eax, 1; cpuid; shr ecx, 27; and ecx, 1; hex rcx`),
    output: '#UD:0 1 0 3 #GP:0 #GP:0 #GP:0 #GP:0 1 .',
  },
  {
    name: 'values that control registers refuse',
    mode: 'long64',
    source: long64(`
      mov rax, cr0; mov rbx, rax; btr rax, 0; try mov cr0, rax
      mov rax, rbx; btr rax, 31; try mov cr0, rax
      mov rax, rbx; bts rax, 29; try mov cr0, rax
      mov rax, cr4; mov rbx, rax; btr rax, 5; try mov cr4, rax
      mov rax, rbx; bts rax, 31; try mov cr4, rax
      mov rax, rbx; bts rax, 12; try mov cr4, rax
      mov eax, 16; try mov cr8, rax
      mov eax, 5; try mov cr8, rax
      mov rax, cr8; hex rax
      mov rax, cr3; bts rax, 51; try mov cr3, rax
      try mov cr2, rbx`),
    output: '#GP:0 #GP:0 #GP:0 #GP:0 #GP:0 #GP:0 #GP:0 ok 5 #GP:0 ok .',
  },
  {
    name: 'reserved bits of the upper half of CR0',
    mode: 'long64',
    source: long64('mov rax, cr0; bts rax, 32; try mov cr0, rax'),
    output: '#GP:0 .',
    notOnSoftwareKvm: 'its emulator drops the upper half',
  },
  {
    name: 'PCID and INVPCID',
    mode: 'long64',
    source: long64(`
      mov rax, cr3; bts rax, 63; try mov cr3, rax
      mov rax, cr3; or rax, 5; mov cr3, rax
      mov rax, cr4; bts rax, 17; try mov cr4, rax
      mov rax, cr3; and rax, -4096; mov cr3, rax
      mov rax, cr4; bts rax, 17; try mov cr4, rax
      mov rax, cr3; bts rax, 63; or rax, 7; try mov cr3, rax
      mov rax, cr3; hex rax
      mov qword ptr [FRAME], 1; mov qword ptr [FRAME + 0x1000], 2
      map "V", "FRAME + 3"
      mov rbx, [V]
      mov qword ptr [PT2], FRAME + 0x1003
      xor eax, eax; try invpcid rax, [one]
      mov rbx, [V]; hex rbx
      mov eax, 1; try invpcid rax, [one]
      mov eax, 2; try invpcid rax, [one]
      mov eax, 3; try invpcid rax, [one]
      mov eax, 4; try invpcid rax, [one]
      xor eax, eax; try invpcid rax, [bad]
      xor eax, eax; try invpcid rax, [reserved]
      mov rax, cr0; btr rax, 31; try mov cr0, rax
      jmp end
      one: .quad 7, V
      bad: .quad 7, 0x800000000000
      reserved: .quad 0x1000, V`),
    output: '#GP:0 #GP:0 ok ok 200007 ok 2 ok ok ok #GP:0 #GP:0 #GP:0 #GP:0 .',
    notOnSoftwareKvm: 'it has no PCIDs',
  },
  {
    name: 'MSRs that hold values, refuse values, or are not there',
    mode: 'long64',
    source: long64(`
      .macro rd index
        mov ecx, \\index; try rdmsr
      .endm
      .macro wr index, value
        mov ecx, \\index; mov rax, \\value; mov rdx, rax; shr rdx, 32; try wrmsr
      .endm
      .macro rdhex index
        mov ecx, \\index; rdmsr; shl rdx, 32; or rax, rdx; hex rax
      .endm
      rd 0x12345
      wr 0x12345, 0
      wr 0xc0000082, 0x800000000000
      wr 0xc0000082, 0xffff800000000000
      rdhex 0xc0000082
      wr 0x277, 0x0000010500070406
      rdhex 0x277
      wr 0x2ff, 0xc02
      wr 0x2ff, 0xc06
      rdhex 0x2ff
      wr 0x200, 0x80000006
      wr 0x201, 0x3f80000800
      rdhex 0x201
      wr 0x250, 0x0606060606060606
      wr 0x250, 0x0206060606060606
      rdhex 0x250
      wr 0xfe, 0
      wr 0xc0000080, 0x80000d01
      wr 0xc0000102, 0x1234
      swapgs
      rdhex 0xc0000101
      rdhex 0x1b`),
    output:
      '#GP:0 #GP:0 #GP:0 ok ffff800000000000 ok 10500070406 #GP:0 ok c06 ok ok 3f80000800 ok #GP:0 606060606060606 #GP:0 #GP:0 ok 1234 fee00900 .',
  },
  {
    name: 'memory types that the PAT does not know',
    mode: 'long64',
    source: long64(`
      mov ecx, 0x277; mov eax, 0x00070402; mov edx, 0x00070406; try wrmsr
      mov eax, 0x00070406; mov edx, 0x08070406; try wrmsr`),
    output: '#GP:0 #GP:0 .',
    notOnSoftwareKvm: 'it takes them',
  },
  {
    name: 'FSGSBASE',
    mode: 'long64',
    source: long64(`
      mov rax, cr4; btr rax, 16; mov cr4, rax
      try rdfsbase rax
      mov rax, cr4; bts rax, 16; mov cr4, rax
      mov rax, 0x123456789a; try wrfsbase rax
      rdfsbase rbx; hex rbx
      mov rax, 0x800000000000; try wrgsbase rax
      mov eax, 0x600000; wrgsbase rax; rdgsbase rbx; hex rbx
      mov qword ptr [0x600008], 0x77; mov rax, gs:[8]; hex rax`),
    output: '#UD:0 ok 123456789a #GP:0 600000 77 .',
    notOnSoftwareKvm: 'CR4.FSGSBASE does not count there',
  },
];
