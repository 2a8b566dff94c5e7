/*
 * Runs XSAVE and XRSTOR on the processor. Reads cases from standard input, executes each, writes them back changed.
 * The layout of a case is that of struct below; xsave.test.ts has the same offsets.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

struct test_case {
  /* The state before and after, as FXSAVE has it. */
  uint8_t fx[512];
  /* What XRSTOR loads, or what XSAVE stores to. */
  uint8_t area[576];
  uint32_t requested;
  uint32_t restores;
  uint32_t signal;
  uint32_t pad[13];
} __attribute__((aligned(64)));

static sigjmp_buf fault;

static void on_signal(int number) { siglongjmp(fault, number); }

static void run(struct test_case *t) {
  int number = sigsetjmp(fault, 1);
  if (number != 0) {
    t->signal = number;
    return;
  }
  __asm__ volatile(
      "fxrstor64 (%[t])\n\t"
      "cmpl $0, 1092(%[t])\n\t"
      "jne 1f\n\t"
      "xsave64 512(%[t])\n\t"
      "jmp 2f\n\t"
      "1: xrstor64 512(%[t])\n\t"
      "2: fxsave64 (%[t])\n\t"
      "fninit\n\t"
      :
      : [t] "r"(t), "a"(t->requested), "d"(0)
      : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
        "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

int main(void) {
  signal(SIGSEGV, on_signal);
  static struct test_case t;
  while (fread(&t, sizeof t, 1, stdin) == 1) {
    run(&t);
    if (fwrite(&t, sizeof t, 1, stdout) != 1) return 4;
  }
  return 0;
}
