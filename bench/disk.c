/*
 * Loads a disk without the page cache and says how fast it was. It runs in the guest: static, without threads.
 *
 *   disk DEVICE MILLISECONDS
 *
 * Each test prints "begin NAME", when that is out of the console does its work for so long, and prints
 * "end NAME OPERATIONS BYTES NANOSECONDS FLUSHING", the last of which is the time in fdatasync(). At the end comes "done".
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define LARGE (1 << 20)
#define SMALL 4096
#define DEPTH 16

static int fd;
static uint64_t size;
static int64_t duration;
static char* buffers;
static aio_context_t aio;

static void check(int ok, const char* what) {
  if (ok) return;
  perror(what);
  exit(1);
}

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/** xorshift64: the same places in every run. */
static uint64_t random_state = 88172645463325252ull;
static uint64_t place(unsigned bytes) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state % (size / bytes) * bytes;
}

static void transfer(int is_write, unsigned bytes, uint64_t at) {
  ssize_t done = is_write ? pwrite(fd, buffers, bytes, at) : pread(fd, buffers, bytes, at);
  check(done == (ssize_t)bytes, is_write ? "pwrite" : "pread");
}

/** One after the other. @return operations */
static uint64_t sequential(int is_write) {
  uint64_t count = 0;
  for (int64_t end = now() + duration; now() < end; count++) transfer(is_write, LARGE, count * LARGE % size);
  return count;
}

static uint64_t at_random(int is_write) {
  uint64_t count = 0;
  for (int64_t end = now() + duration; now() < end; count++) transfer(is_write, SMALL, place(SMALL));
  return count;
}

/** DEPTH requests under way at once; each that is done is followed by another. */
static uint64_t deep(int is_write) {
  struct iocb requests[DEPTH], *ready[DEPTH];
  struct io_event events[DEPTH];
  uint64_t count = 0;
  int waiting = DEPTH, under_way = 0;
  for (int i = 0; i < DEPTH; i++) ready[i] = &requests[i];
  for (int64_t end = now() + duration; now() < end || under_way > 0;) {
    for (int i = 0; i < waiting; i++) {
      memset(ready[i], 0, sizeof *ready[i]);
      ready[i]->aio_fildes = fd;
      ready[i]->aio_lio_opcode = is_write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
      ready[i]->aio_buf = (uintptr_t)(buffers + (ready[i] - requests) * SMALL);
      ready[i]->aio_nbytes = SMALL;
      ready[i]->aio_offset = place(SMALL);
    }
    if (waiting > 0) check(syscall(SYS_io_submit, aio, waiting, ready) == waiting, "io_submit");
    under_way += waiting;
    int done = syscall(SYS_io_getevents, aio, 1, DEPTH, events, NULL);
    check(done > 0, "io_getevents");
    for (int i = 0; i < done; i++) {
      check(events[i].res == SMALL, "an asynchronous request");
      ready[i] = (struct iocb*)(uintptr_t)events[i].obj;
    }
    count += done;
    under_way -= done;
    waiting = now() < end ? done : 0;
  }
  return count;
}

/** Nanoseconds in fdatasync(). */
static int64_t flush_time;
static uint64_t flushes(int is_write) {
  uint64_t count = 0;
  flush_time = 0;
  /* What the tests before have written. */
  check(fdatasync(fd) == 0, "fdatasync");
  for (int64_t end = now() + duration; now() < end; count++) {
    transfer(is_write, SMALL, place(SMALL));
    int64_t start = now();
    check(fdatasync(fd) == 0, "fdatasync");
    flush_time += now() - start;
  }
  return count;
}

static void test(const char* name, uint64_t (*load)(int), int is_write, unsigned bytes) {
  printf("begin %s\n", name);
  fflush(stdout);
  tcdrain(1);
  int64_t start = now();
  uint64_t count = load(is_write);
  int64_t took = now() - start;
  printf("end %s %llu %llu %lld %lld\n", name, (unsigned long long)count, (unsigned long long)count * bytes,
         (long long)took, (long long)flush_time);
  fflush(stdout);
}

int main(int argc, char** argv) {
  check(argc == 3, "usage: disk DEVICE MILLISECONDS");
  duration = atoi(argv[2]) * 1000000ll;
  fd = open(argv[1], O_RDWR | O_DIRECT);
  check(fd >= 0 && ioctl(fd, BLKGETSIZE64, &size) == 0, argv[1]);
  check(posix_memalign((void**)&buffers, SMALL, LARGE) == 0, "memory");
  for (int i = 0; i < LARGE; i++) buffers[i] = i * 31;
  check(syscall(SYS_io_setup, DEPTH, &aio) == 0, "io_setup");
  test("read-1M", sequential, 0, LARGE);
  test("write-1M", sequential, 1, LARGE);
  test("read-4K", at_random, 0, SMALL);
  test("write-4K", at_random, 1, SMALL);
  test("read-4K-deep", deep, 0, SMALL);
  test("write-4K-deep", deep, 1, SMALL);
  test("flush", flushes, 1, SMALL);
  puts("done");
  fflush(stdout);
  tcdrain(1);
  return 0;
}
