# fixtures/virtio/driver.s as a PVH kernel (Xen docs/misc/pvh.pandoc), with a list of reads of a disk. Sections: .text at
# 1 MiB, .requests at REQUESTS, .headers at HEADERS. Parameters, besides the driver's: LENGTH, bytes of each read; DEPTH,
# how many are under way; SECTORS, where the reads may begin; COUNT, how many there are, a multiple of DEPTH.
.intel_syntax noprefix

.set HEADERS, 0x500000
.set BUFFERS, 0x600000

.section .note, "a"
  .long 4, 8, 18              # XEN_ELFNOTE_PHYS32_ENTRY
  .asciz "Xen"
  .quad entry

.section .requests, "aw"
.set i, 0
.rept COUNT
  .word 0, 3
  .long (i % DEPTH) == DEPTH - 1
  .quad HEADERS + i * 32
  .long 16, 0
  .quad BUFFERS + i * 4096
  .long LENGTH, 2
  .quad HEADERS + i * 32 + 16
  .long 1, 2
  .set i, i + 1
.endr
  .word 0xffff

# Without a pattern, the same each time.
.section .headers, "aw"
.set i, 0
.set random, 1
.rept COUNT
  .set random, (random * 1664525 + 1013904223) & 0xffffffff
  .long 0, 0
  .quad ((random >> 8) % SECTORS) / 8 * 8
  .quad 0, 0
  .set i, i + 1
.endr

.text
.global entry
.code64
  jmp driver_start
.code32
entry:
  cld
  lgdt [boot_gdtr]
  mov edi, 0x1000             # tables of the low 4 GiB in pages of 2 MiB, which the driver replaces by its own
  xor eax, eax
  mov ecx, 0x6000 / 4
  rep stosd
  mov dword ptr [0x1000], 0x2007
  mov edi, 0x2000
  mov eax, 0x3007
1: mov [edi], eax
  add edi, 8
  add eax, 0x1000
  cmp eax, 0x7007
  jne 1b
  mov edi, 0x3000
  mov eax, 0xe7
1: mov [edi], eax
  add edi, 8
  add eax, 0x200000
  cmp edi, 0x7000
  jne 1b
  mov eax, 0x1000
  mov cr3, eax
  mov eax, cr4
  or eax, 0x20
  mov cr4, eax
  mov ecx, 0xc0000080
  rdmsr
  or eax, 0x100
  wrmsr
  mov eax, cr0
  or eax, 0x80000000
  mov cr0, eax
  .byte 0xea
  .long driver_start
  .word 8
.balign 8
boot_gdt: .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
boot_gdtr: .word boot_gdtr - boot_gdt - 1
  .long boot_gdt
.code64
driver_start:
.include "driver.s"
