/*
 * Runs decimal adjustments on the processor, in 32-bit code to which the program jumps and from which it comes back.
 * Reads cases from standard input and writes them back changed: operation, AX, flags as SAHF has them.
 * Its code must lie below 4 GiB: -no-pie.
 */
#include <stdint.h>
#include <stdio.h>

struct test_case {
  uint16_t operation;
  uint16_t ax;
  uint16_t flags;
  uint16_t pad;
};

/*
 * uint64_t name(uint32_t ax, uint32_t flags << 8): AX, and flags in the upper half. 23h and 33h are Linux' user code. The
 * upper half of RSP does not survive 32-bit code, registers that such code cannot name do.
 */
#define OPERATION(name, bytes)            \
  uint64_t name(uint32_t, uint32_t);      \
  __asm__(".text\n" #name ":\n"           \
          "movq %rsp, %r8\n"              \
          "ljmp *1f(%rip)\n"              \
          "1: .long 2f\n"                 \
          ".word 0x23\n"                  \
          ".code32\n"                     \
          "2: movl %esi, %eax\n"          \
          "sahf\n"                        \
          "movl %edi, %eax\n"             \
          ".byte " bytes "\n"             \
          "movl %eax, %edi\n"             \
          "lahf\n"                        \
          "movzbl %ah, %eax\n"            \
          "ljmp $0x33, $3f\n"             \
          ".code64\n"                     \
          "3: movq %r8, %rsp\n"           \
          "shlq $32, %rax\n"              \
          "movl %edi, %edi\n"             \
          "orq %rdi, %rax\n"              \
          "ret\n")

OPERATION(daa, "0x27");
OPERATION(das, "0x2f");
OPERATION(aaa, "0x37");
OPERATION(aas, "0x3f");
OPERATION(aam10, "0xd4, 10");
OPERATION(aam255, "0xd4, 255");
OPERATION(aad10, "0xd5, 10");
OPERATION(aad255, "0xd5, 255");

static uint64_t (*const operations[])(uint32_t, uint32_t) = {daa, das, aaa, aas, aam10, aam255, aad10, aad255};

int main(void) {
  struct test_case t;
  while (fread(&t, sizeof t, 1, stdin) == 1) {
    uint64_t result = operations[t.operation](t.ax, (uint32_t)t.flags << 8);
    t.ax = result;
    t.flags = result >> 32;
    if (fwrite(&t, sizeof t, 1, stdout) != 1) return 4;
  }
  return 0;
}
