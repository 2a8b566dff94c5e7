/** Page faults of each kind, page sizes, accessed and dirty bits (SDM vol. 3A 4). */
import type { GuestCase } from '../case.ts';
import { long64 } from '../prelude64.ts';

const CR4_BITS = (bits: string) => `mov rax, cr4; or eax, ${bits}; mov cr4, rax`;

export const PAGING: readonly GuestCase[] = [
  {
    name: 'pages that are not present',
    mode: 'long64',
    source: long64(`
      try mov rax, [V]
      try mov [V + 8], rax
      try add qword ptr [V + 16], 1
      mov rbx, V + 0x18
      try jmp rbx
      try push [V + 0x20]`),
    // Instruction fetches are told apart: NXE is set.
    output: '#PF@400000 :0 #PF@400008 :2 #PF@400010 :2 #PF@400018 :10 #PF@400020 :0 .',
  },
  {
    name: 'read-only pages with and without CR0.WP',
    mode: 'long64',
    source: long64(`
      map "V", "FRAME + 1"
      try mov rax, [V]
      try mov [V], rax
      mov rax, cr0; and eax, ~0x10000; mov cr0, rax
      try mov [V], rax
      mov rax, cr0; or eax, 0x10000; mov cr0, rax
      try mov [V], rax`),
    output: 'ok #PF@400000 :3 ok #PF@400000 :3 .',
  },
  {
    name: 'user accesses to pages of each kind',
    mode: 'long64',
    source: long64(
      `
      map "V", "FRAME + 3"
      map "V+0x1000", "FRAME + 5"
      map "V+0x2000", "FRAME+7"
      catch 1f; user u1
      1: catch 2f; user u2
      2: catch 3f; user u3
      3: catch 4f; user u4
      4: catch 5f; user u5
      5:`,
      `u1: mov rax, [V]
      u2: mov rax, [V + 0x1000]; mov [V + 0x1000], rax
      u3: mov rax, [V + 0x2000]; mov [V + 0x2000], rax; ud2
      u4: mov rax, [V + 0x3000]
      u5: jmp V`,
    ),
    output: '#PF@400000 :5 #PF@401000 :7 #UD:0 #PF@403000 :4 #PF@400000 :15 .',
  },
  {
    name: 'no-execute pages',
    mode: 'long64',
    source: long64(`
      mov byte ptr [FRAME], 0xc3
      map "V", "(1 << 63) + FRAME + 3"
      try mov rax, [V]
      try call V
      map "V", "FRAME + 3"
      try call V`),
    output: 'ok #PF@400000 :11 ok .',
  },
  {
    name: 'reserved bits of entries',
    mode: 'long64',
    source: long64(`
      map "V", "(1 << 51) + FRAME + 3"
      try mov rax, [V]
      mov qword ptr [0x202010], 0x402083; mov rax, cr3; mov cr3, rax
      try mov [V], rax
      mov qword ptr [0x202010], 0x204007
      mov ecx, 0xc0000080; rdmsr; and eax, ~0x800; wrmsr
      map "V", "(1 << 63) + FRAME + 3"
      try mov rax, [V]`),
    output: '#PF@400000 :9 #PF@400000 :b #PF@400000 :9 .',
  },
  {
    name: 'SMEP',
    mode: 'long64',
    source: long64(`
      mov byte ptr [FRAME], 0xc3
      map "V", "FRAME + 7"
      try call V
      ${CR4_BITS('0x100000')}
      try call V
      try mov rax, [V]`),
    output: 'ok #PF@400000 :11 ok .',
  },
  {
    name: 'SMAP',
    mode: 'long64',
    source: long64(`
      map "V", "FRAME + 7"
      map "V+0x1000", "FRAME+0x1003"
      try mov rax, [V]
      ${CR4_BITS('0x200000')}
      try mov rax, [V]
      try mov [V], rax
      stac
      try mov [V], rax
      clac
      try mov rax, [V]
      try mov rax, [V + 0x1000]`),
    output: 'ok #PF@400000 :1 #PF@400000 :3 ok #PF@400000 :1 ok .',
  },
  {
    name: 'accessed and dirty bits',
    mode: 'long64',
    source: long64(`
      map "V", "FRAME + 3"
      mov rax, [PT2]; hex rax
      mov rax, [V]
      mov rax, [PT2]; hex rax
      mov [V], rax
      mov rax, [PT2]; hex rax
      mov rax, [0x202010]; hex rax`),
    output: '700003 700023 700063 204027 .',
  },
  {
    name: 'pages of 1 GiB',
    mode: 'long64',
    source: long64(`
      mov qword ptr [0x201008], 0x83
      mov rax, 0x123456789; mov [FRAME+0x120], rax
      mov rax, [0x40000000 + FRAME+0x120]; hex rax
      mov rax, [0x201008]; hex rax
      mov qword ptr [0x201010], 0x2083
      try mov rax, [0x80000000]`),
    output: '123456789 a3 #PF@80000000 :9 .',
    notOnSoftwareKvm: 'it has no pages of 1 GiB',
  },
  {
    name: 'an access across pages writes all or nothing',
    mode: 'long64',
    source: long64(`
      map "V", "FRAME + 3"
      mov rax, -1
      try mov [V + 0xffc], rax
      mov rbx, [V + 0xff8]; hex rbx
      map "V+0x1000", "FRAME+0x3003"
      try mov [V + 0xffc], rax
      mov rbx, [FRAME+0xff8]; hex rbx
      mov rbx, [FRAME+0x3000]; hex rbx`),
    output: '#PF@401000 :2 0 ok ffffffff00000000 ffffffff .',
    notOnSoftwareKvm: 'its emulator writes page by page',
  },
  {
    name: 'INVLPG and CR3 make changed entries count',
    mode: 'long64',
    source: long64(`
      mov qword ptr [FRAME], 1; mov qword ptr [FRAME+0x1000], 2
      map "V", "FRAME + 3"
      mov rax, [V]; hex rax
      map "V", "FRAME+0x1003"
      mov rax, [V]; hex rax
      mov qword ptr [PT2], FRAME + 3
      mov rax, cr3; mov cr3, rax
      mov rax, [V]; hex rax`),
    output: '1 2 1 .',
  },
  {
    name: 'addresses that are not canonical',
    mode: 'long64',
    source: long64(`
      ist 12, 1; ist 13, 1; ist 14, 1
      mov rbx, 0x800000000000; mov rbp, rbx
      try mov rax, [rbx]
      try mov [rbx], rax
      try mov rax, [rbp]
      try mov rax, [rbx + 0x7fffffff]
      mov r8, rsp
      mov rsp, rbx
      try push rax
      mov rsp, r8
      mov rbp, rbx
      try leave
      mov rsp, r8
      try call [rbx]`),
    output: '#GP:0 #GP:0 #SS:0 #GP:0 #PF@7ffffffffff8 :2 #SS:0 #GP:0 .',
  },
  {
    name: 'accesses that leave the canonical addresses in their middle',
    mode: 'long64',
    source: long64(`
      ist 12, 1; ist 13, 1; ist 14, 1
      mov rbx, 0x7ffffffffffc; mov rbp, rbx
      try mov rax, [rbx]
      try mov rax, [rbp]
      try mov [rbx], rax
      mov r8, rsp; mov rsp, rbx
      try pop rax
      mov rsp, r8`),
    output: '#GP:0 #SS:0 #GP:0 #SS:0 .',
    notOnSoftwareKvm: 'its emulator translates the first page before it looks at the second',
  },
];
