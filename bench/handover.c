/*
 * What the host's kernel needs to wake a thread that sleeps on a futex: two threads that hand a word back and forth.
 * For a line with a number on standard input it makes so many round trips, and answers with a line of their
 * nanoseconds: there and back, there and back, ...
 */
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static _Atomic uint32_t word;
static uint64_t arrived;

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}

static void hand_over(uint32_t value) {
  atomic_store(&word, value);
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void wait_for(uint32_t value) {
  uint32_t seen;
  while ((seen = atomic_load(&word)) != value) syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void* owner(void* unused) {
  for (;;) {
    wait_for(1);
    arrived = now();
    hand_over(0);
  }
  return unused;
}

int main(void) {
  int count;
  pthread_t thread;
  if (pthread_create(&thread, NULL, owner, NULL) != 0) return 2;
  while (scanf("%d", &count) == 1) {
    for (int i = 0; i < count; i++) {
      uint64_t start = now();
      hand_over(1);
      wait_for(0);
      uint64_t end = now();
      printf("%llu %llu ", (unsigned long long)(arrived - start), (unsigned long long)(end - arrived));
      // Both threads come to rest, as they do while a guest runs.
      usleep(20);
    }
    putchar('\n');
    fflush(stdout);
  }
  return 0;
}
