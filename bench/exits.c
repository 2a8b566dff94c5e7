/*
 * The exit round trip without anything around it: the same VM and the same guest code as bench/exits.mjs, the plain
 * loop of KVM_RUN, a switch over the exit reason and an answer.
 *
 *   exits CPUID SREGS REGS RAM [threaded]
 *
 * The files hold struct kvm_cpuid2, kvm_sregs, kvm_regs and the guest's RAM from address 0. With `threaded` each
 * access is answered by a second thread, which is woken by a futex and wakes by a futex.
 *
 * A line "command" (a number) on standard input is what the guest's next read of GO gives; the answer is a line with
 * the nanoseconds until it reads GO again, or "exit N" when it ended with KVM_EXIT_N instead.
 */
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define GO 0xd0000800u

enum { IDLE, REQUEST, DONE };

static _Atomic uint32_t mailbox = IDLE;
static void* mailbox_data;
static unsigned mailbox_size;
static int mailbox_is_write;
static volatile uint32_t last_written;

static void check(int ok, const char* what) {
  if (ok) return;
  perror(what);
  exit(2);
}

static void* file(const char* path, size_t* size) {
  int fd = open(path, O_RDONLY);
  struct stat st;
  check(fd >= 0 && fstat(fd, &st) == 0, path);
  void* data = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  check(data != MAP_FAILED && read(fd, data, st.st_size) == st.st_size, path);
  *size = st.st_size;
  close(fd);
  return data;
}

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}

/* The device: takes what is written, answers a constant. */
static void device(void* data, unsigned size, int is_write) {
  uint32_t value = 0x12345678;
  if (is_write) {
    memcpy(&value, data, size);
    last_written = value;
  } else {
    memcpy(data, &value, size);
  }
}

static void futex(int op, uint32_t value) { syscall(SYS_futex, &mailbox, op, value, NULL, NULL, 0); }

static void* device_thread(void* unused) {
  for (;;) {
    uint32_t state;
    while ((state = atomic_load(&mailbox)) != REQUEST) futex(FUTEX_WAIT_PRIVATE, state);
    device(mailbox_data, mailbox_size, mailbox_is_write);
    atomic_store(&mailbox, DONE);
    futex(FUTEX_WAKE_PRIVATE, 1);
  }
  return unused;
}

static void hand_over(void* data, unsigned size, int is_write) {
  mailbox_data = data;
  mailbox_size = size;
  mailbox_is_write = is_write;
  atomic_store(&mailbox, REQUEST);
  futex(FUTEX_WAKE_PRIVATE, 1);
  while (atomic_load(&mailbox) != DONE) futex(FUTEX_WAIT_PRIVATE, REQUEST);
  atomic_store(&mailbox, IDLE);
}

int main(int argc, char** argv) {
  check(argc >= 5, "usage: exits CPUID SREGS REGS RAM [threaded]");
  size_t size;
  int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  check(kvm >= 0, "/dev/kvm");
  int vm = ioctl(kvm, KVM_CREATE_VM, 0);
  check(vm >= 0, "KVM_CREATE_VM");
  check(ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000) == 0, "KVM_SET_TSS_ADDR");
  int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
  check(vcpu >= 0, "KVM_CREATE_VCPU");
  struct kvm_run* run = mmap(NULL, ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
  check(run != MAP_FAILED, "mmap of kvm_run");
  check(ioctl(vcpu, KVM_SET_CPUID2, file(argv[1], &size)) == 0, "KVM_SET_CPUID2");
  check(ioctl(vcpu, KVM_SET_SREGS, file(argv[2], &size)) == 0, "KVM_SET_SREGS");
  check(ioctl(vcpu, KVM_SET_REGS, file(argv[3], &size)) == 0, "KVM_SET_REGS");
  void* ram = file(argv[4], &size);
  struct kvm_userspace_memory_region region = {.memory_size = size, .userspace_addr = (uintptr_t)ram};
  check(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) == 0, "KVM_SET_USER_MEMORY_REGION");

  int threaded = argc > 5;
  pthread_t thread;
  if (threaded) check(pthread_create(&thread, NULL, device_thread, NULL) == 0, "pthread_create");
  void (*answer)(void*, unsigned, int) = threaded ? hand_over : device;

  uint64_t start = 0;
  for (;;) {
    check(ioctl(vcpu, KVM_RUN, 0) == 0, "KVM_RUN");
    switch (run->exit_reason) {
      case KVM_EXIT_IO:
        answer((uint8_t*)run + run->io.data_offset, run->io.size, run->io.direction == KVM_EXIT_IO_OUT);
        break;
      case KVM_EXIT_MMIO:
        if (run->mmio.phys_addr == GO) {
          uint32_t command;
          if (start != 0) printf("%llu\n", (unsigned long long)(now() - start));
          fflush(stdout);
          if (scanf("%u", &command) != 1) return 0;
          memcpy(run->mmio.data, &command, sizeof command);
          start = now();
        } else {
          answer(run->mmio.data, run->mmio.len, run->mmio.is_write);
        }
        break;
      default:
        printf("exit %u\n", run->exit_reason);
        return 0;
    }
  }
}
