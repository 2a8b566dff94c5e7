/*
 * Runs x87 instructions on the processor. Reads cases from standard input, executes each, writes them back changed.
 * The layout of a case is that of struct below; hardware.ts has the same offsets.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

struct test_case {
  uint8_t fx[512];
  uint8_t memory[128];
  uint8_t code[16];
  uint64_t rflags;
  uint64_t rax;
  uint8_t environment[32];
  uint32_t signal;
  uint32_t pad[7];
} __attribute__((aligned(64)));

static uint8_t *page;
static struct test_case *current;

/* Skips the instruction: what the handler returns to is the code's own RET. */
static void on_signal(int number, siginfo_t *info, void *context) {
  greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
  (void)info;
  if (current->signal != 0 || (uint64_t)regs[REG_RIP] - (uint64_t)page >= 4096) _exit(3);
  current->signal = number;
  uint64_t *stack = (uint64_t *)regs[REG_RSP];
  regs[REG_RIP] = stack[0];
  regs[REG_RSP] += 8;
}

static void run(struct test_case *t) {
  current = t;
  memcpy(page, t->code, 16);
  __asm__ volatile(
      "fxrstor64 (%[t])\n\t"
      "lea 512(%[t]), %%rsi\n\t"
      "mov 664(%[t]), %%rax\n\t"
      "pushq 656(%[t])\n\t"
      "popfq\n\t"
      "call *%[page]\n\t"
      "pushfq\n\t"
      "popq 656(%[t])\n\t"
      "mov %%rax, 664(%[t])\n\t"
      "fxsave64 (%[t])\n\t"
      "fnstenv 672(%[t])\n\t"
      "fninit\n\t"
      :
      : [t] "r"(t), [page] "r"(page)
      : "rax", "rsi", "memory", "cc");
}

int main(void) {
  page = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return 2;
  struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
  sigaction(SIGFPE, &action, 0);
  sigaction(SIGILL, &action, 0);
  size_t size = 0, room = 1 << 20;
  uint8_t *cases = aligned_alloc(64, room);
  size_t got;
  while ((got = fread(cases + size, 1, room - size, stdin)) > 0) {
    size += got;
    if (size == room) {
      uint8_t *larger = aligned_alloc(64, room * 2);
      memcpy(larger, cases, size);
      free(cases);
      cases = larger;
      room *= 2;
    }
  }
  for (size_t at = 0; at + sizeof(struct test_case) <= size; at += sizeof(struct test_case))
    run((struct test_case *)(cases + at));
  return fwrite(cases, 1, size, stdout) == size ? 0 : 4;
}
