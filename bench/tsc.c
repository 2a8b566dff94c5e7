/* Prints how fast this processor's time stamp counter runs, kHz: QEMU's tcg gives it to guests as it is. */
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC_RAW, &t);
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}

int main(void) {
  int64_t start = now();
  uint64_t ticks = __rdtsc();
  while (now() - start < 100000000) {
  }
  ticks = __rdtsc() - ticks;
  printf("%.0f\n", ticks * 1e6 / (now() - start));
  return 0;
}
