/*
 * Executes single instructions on this machine's processor, at the same addresses and with the same registers as
 * the emulation under test. Reads records from standard input and writes them back with the state after.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define CODE 0x20000000ul
#define STATE 0x30000000ul

struct record {
  uint8_t code[32];
  uint32_t length;
  uint32_t signal;
  uint64_t rflags;
  uint8_t pad[16];
  uint64_t gpr[16];
  uint8_t pad2[64];
  uint8_t memory[1024];
  uint8_t xsave[1024] __attribute__((aligned(64)));
} __attribute__((packed));
_Static_assert(sizeof(struct record) == 2304, "layout");

#define RECORD ((struct record *)STATE)
/* Offsets from STATE: rflags 40, registers 64, xsave 1280; behind the record the saved stack and the code pointer. */
asm(".text\n"
    "run:\n"
    "push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp, 0x30001000\n"
    "mov $7, %eax\nxor %edx, %edx\nxrstor64 0x30000500\n"
    "push 0x30000028\npopf\n"
    "mov 0x30000040, %rax\nmov 0x30000048, %rcx\nmov 0x30000050, %rdx\nmov 0x30000058, %rbx\n"
    "mov 0x30000060, %rsp\nmov 0x30000068, %rbp\nmov 0x30000070, %rsi\nmov 0x30000078, %rdi\n"
    "mov 0x30000080, %r8\nmov 0x30000088, %r9\nmov 0x30000090, %r10\nmov 0x30000098, %r11\n"
    "mov 0x300000a0, %r12\nmov 0x300000a8, %r13\nmov 0x300000b0, %r14\nmov 0x300000b8, %r15\n"
    "jmp *0x30001008\n"
    "finish:\n"
    "mov %rax, 0x30000040\nmov %rcx, 0x30000048\nmov %rdx, 0x30000050\nmov %rbx, 0x30000058\n"
    "mov %rsp, 0x30000060\nmov %rbp, 0x30000068\nmov %rsi, 0x30000070\nmov %rdi, 0x30000078\n"
    "mov %r8, 0x30000080\nmov %r9, 0x30000088\nmov %r10, 0x30000090\nmov %r11, 0x30000098\n"
    "mov %r12, 0x300000a0\nmov %r13, 0x300000a8\nmov %r14, 0x300000b0\nmov %r15, 0x300000b8\n"
    "mov 0x30001000, %rsp\n"
    "pushf\npop 0x30000028\n"
    "mov $7, %eax\nxor %edx, %edx\nxsave64 0x30000500\n"
    "cld\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\nret\n");
extern void run(void);
extern char finish[];

static sigjmp_buf escape;

static void on_signal(int number) { siglongjmp(escape, number); }

int main(void) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
  uint8_t *code = mmap((void *)CODE, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, flags, -1, 0);
  uint8_t *state = mmap((void *)STATE, 8192, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (code == MAP_FAILED || state == MAP_FAILED) return 1;
  static uint8_t stack[65536];
  sigaltstack(&(stack_t){.ss_sp = stack, .ss_size = sizeof stack}, 0);
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK | SA_NODEFER};
  const int caught[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
  for (unsigned i = 0; i < sizeof caught / sizeof *caught; i++) sigaction(caught[i], &action, 0);

  static struct record record;
  while (fread(&record, sizeof record, 1, stdin) == 1) {
    if (record.length > 15) return 2;
    memcpy(state, &record, sizeof record);
    *(uint64_t *)(state + 0x1008) = CODE;
    memcpy(code, record.code, record.length);
    uint8_t *at = code + record.length;
    const uint8_t jump[] = {0xff, 0x25, 0, 0, 0, 0};
    uint64_t target = (uint64_t)finish;
    memcpy(at, jump, sizeof jump);
    memcpy(at + sizeof jump, &target, sizeof target);
    int number = sigsetjmp(escape, 1);
    if (number == 0) run();
    RECORD->signal = number;
    if (fwrite(state, sizeof record, 1, stdout) != 1) return 3;
  }
  return 0;
}
