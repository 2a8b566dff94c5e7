/** Paging outside of long mode: two levels with large pages, and PAE (SDM vol. 3A 4.3, 4.4). */
import type { GuestCase } from '../case.ts';
import { protected32 } from '../prelude32.ts';

/** Zeroes pages at 0x100000, where the tables are. */
const CLEAR = 'mov edi, 0x100000; xor eax, eax; mov ecx, 0x4000; rep stosd';
const PAGING_ON =
  'mov eax, 0x100000; mov cr3, eax; mov eax, cr0; or eax, 0x80010000; mov cr0, eax; jmp 1f; 1:';

export const PAGING32: readonly GuestCase[] = [
  {
    name: 'two levels, with large pages and without',
    mode: 'real',
    source: protected32(`
      ${CLEAR}
      mov dword ptr [0x100000], 0x101003
      mov edi, 0x101000; mov eax, 3; mov ecx, 1024; 2: stosd; add eax, 0x1000; loop 2b
      mov dword ptr [0x100004], 0x83
      mov dword ptr [0x10000c], 0x200083
      mov dword ptr [0x101000 + 0x200 * 4], 0
      mov dword ptr [0x101000 + 0x201 * 4], 0x300001
      mov dword ptr [0x101000 + 0x202 * 4], 0x300003
      mov eax, cr4; or al, 0x10; mov cr4, eax
      ${PAGING_ON}
      mov dword ptr [0x300010], 0x1234
      try mov eax, [0x200000]
      mov eax, cr2; hex eax
      try mov eax, [0x201010]
      hex eax
      try mov [0x201010], eax
      mov eax, [0x700010]; hex eax
      try mov eax, [0xc00000]
      try mov eax, [0x800000]
      mov dword ptr [0x202020], 5
      hex [0x101000 + 0x202 * 4]
      hex [0x100004]
      hex [0x100000]`),
    output: '#PF:0 200000 ok 1234 #PF:3 1234 #PF:9 #PF:0 300063 a3 101023 .',
    notOnSoftwareKvm: 'it has no paging outside of long mode',
  },
  {
    name: 'PAE, with no-execute pages and bad pointers to directories',
    mode: 'real',
    source: protected32(`
      ${CLEAR}
      mov dword ptr [0x100000], 0x101001
      mov dword ptr [0x101000], 0x83
      mov dword ptr [0x101008], 0x200083; mov dword ptr [0x10100c], 0x80000000
      mov dword ptr [0x101010], 0x102003
      mov dword ptr [0x102000], 0x300001
      mov dword ptr [0x102008], 0x300003; mov dword ptr [0x10200c], 0x00080000
      mov dword ptr [0x110000], 0x101003
      mov byte ptr [0x200000], 0xc3
      mov eax, cr4; or al, 0x20; mov cr4, eax
      mov ecx, 0xc0000080; rdmsr; or eax, 0x800; wrmsr
      ${PAGING_ON}
      try mov al, [0x200000]
      mov ebx, 0x200000; try call ebx
      try mov [0x400000], eax
      try mov al, [0x401000]
      try mov al, [0x40000000]
      mov eax, 0x110000; try mov cr3, eax
      mov eax, cr3; hex eax
      mov ecx, 0xc0000080; rdmsr; and eax, ~0x800; wrmsr
      try mov al, [0x200000]`),
    output: 'ok #PF:11 #PF:3 #PF:9 #PF:0 #GP:0 100000 #PF:9 .',
    notOnSoftwareKvm: 'it has no paging outside of long mode',
  },
];
