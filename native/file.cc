// File descriptors: open, close, ioctl with a checked argument, eventfd.
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include "addon.h"

namespace tsv {
namespace {

// open(path: string, flags: number): fd
Napi::Value Open(const Napi::CallbackInfo& info) {
  std::string path = info[0].ToString();
  int flags = info[1].ToNumber().Int32Value();
  return OwnedFd(info.Env(), open(path.c_str(), flags | O_CLOEXEC));
}

// close(fd: number): 0
Napi::Value Close(const Napi::CallbackInfo& info) {
  int fd = info[0].ToNumber().Int32Value();
  EnvData* data = Data(info.Env());
  data->fds.erase(fd);
  int result = close(fd);
  int error = errno;
  // The kernel forgets a VM's memslots with the VM.
  for (auto it = data->pins.begin(); it != data->pins.end();) {
    it = it->first.first == fd ? data->pins.erase(it) : std::next(it);
  }
  errno = error;
  return Result(info.Env(), result);
}

// Requests whose structures end in an array, by the size of their headers. The header's own macros are wrong in C++:
// a flexible array there follows an empty struct, which has a size in C++ and none in C.
struct ListRequest {
  unsigned long request;
  size_t header;
  size_t element;
};
constexpr ListRequest kLists[] = {
    {_IOWR(KVMIO, 0x02, uint32_t), 4, sizeof(uint32_t)},               // KVM_GET_MSR_INDEX_LIST
    {_IOWR(KVMIO, 0x0a, uint32_t), 4, sizeof(uint32_t)},               // KVM_GET_MSR_FEATURE_INDEX_LIST
    {_IOWR(KVMIO, 0x05, uint64_t), 8, sizeof(kvm_cpuid_entry2)},       // KVM_GET_SUPPORTED_CPUID
    {_IOWR(KVMIO, 0x09, uint64_t), 8, sizeof(kvm_cpuid_entry2)},       // KVM_GET_EMULATED_CPUID
    {_IOW(KVMIO, 0x90, uint64_t), 8, sizeof(kvm_cpuid_entry2)},        // KVM_SET_CPUID2
    {_IOWR(KVMIO, 0x91, uint64_t), 8, sizeof(kvm_cpuid_entry2)},       // KVM_GET_CPUID2
    {_IOWR(KVMIO, 0x88, uint64_t), 8, sizeof(kvm_msr_entry)},          // KVM_GET_MSRS
    {_IOW(KVMIO, 0x89, uint64_t), 8, sizeof(kvm_msr_entry)},           // KVM_SET_MSRS
    {_IOW(KVMIO, 0x6a, uint64_t), 8, sizeof(kvm_irq_routing_entry)},   // KVM_SET_GSI_ROUTING
};

// Bytes that the kernel reads or writes behind the argument of `request`. Most requests say it in their number; those
// that end in an array say it in their header.
bool ArgumentFits(unsigned long request, const Bytes& arg) {
  size_t fixed = _IOC_SIZE(request);
  if (arg.length < fixed) return false;
  for (const ListRequest& list : kLists) {
    if (request != list.request) continue;
    uint32_t count;
    memcpy(&count, arg.data, sizeof count);
    return arg.length >= list.header + static_cast<size_t>(count) * list.element;
  }
  switch (request) {
    // These carry pointers of their own: each has a function, or is not needed.
    case KVM_SET_USER_MEMORY_REGION:
    case KVM_GET_DIRTY_LOG:
    case KVM_CLEAR_DIRTY_LOG:
    case KVM_X86_SET_MSR_FILTER:
    case _IOW(KVMIO, 0x8b, uint32_t):  // KVM_SET_SIGNAL_MASK, whose size is wrong in C++ too
      return false;
    default:
      return fixed > 0;
  }
}

// ioctl(fd: number, request: number, arg?: number | Uint8Array): result
Napi::Value Ioctl(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd = info[0].ToNumber().Int32Value();
  unsigned long request = info[1].ToNumber().Uint32Value();
  if (info.Length() > 2 && info[2].IsTypedArray()) {
    Bytes arg;
    if (!GetBytes(info, 2, &arg)) return env.Undefined();
    if (!ArgumentFits(request, arg)) return Napi::Number::New(env, -EINVAL);
    return Result(env, ioctl(fd, request, arg.data));
  }
  // A request whose number announces a structure must not be given a number: it would be taken for a pointer.
  if (_IOC_SIZE(request) != 0) return Napi::Number::New(env, -EINVAL);
  unsigned long arg = info.Length() > 2 ? static_cast<unsigned long>(info[2].ToNumber().Int64Value()) : 0;
  int result = ioctl(fd, request, arg);
  if (request == KVM_CREATE_VM || request == KVM_CREATE_VCPU) return OwnedFd(env, result);
  return Result(env, result);
}

// eventfd(initial: number): fd, non-blocking
Napi::Value EventFd(const Napi::CallbackInfo& info) {
  return OwnedFd(info.Env(), eventfd(info[0].ToNumber().Uint32Value(), EFD_CLOEXEC | EFD_NONBLOCK));
}

// eventfdWrite(fd: number, count: number): 0
Napi::Value EventFdWrite(const Napi::CallbackInfo& info) {
  return Result(info.Env(), eventfd_write(info[0].ToNumber().Int32Value(), info[1].ToNumber().Uint32Value()));
}

// eventfdRead(fd: number): count, -EAGAIN when it is zero
Napi::Value EventFdRead(const Napi::CallbackInfo& info) {
  eventfd_t value = 0;
  int result = eventfd_read(info[0].ToNumber().Int32Value(), &value);
  return result < 0 ? Result(info.Env(), result) : Napi::Number::New(info.Env(), static_cast<double>(value));
}

}  // namespace

void InitFile(Napi::Env env, Napi::Object exports) {
  exports["open"] = Napi::Function::New(env, Open);
  exports["close"] = Napi::Function::New(env, Close);
  exports["ioctl"] = Napi::Function::New(env, Ioctl);
  exports["eventfd"] = Napi::Function::New(env, EventFd);
  exports["eventfdRead"] = Napi::Function::New(env, EventFdRead);
  exports["eventfdWrite"] = Napi::Function::New(env, EventFdWrite);
}

}  // namespace tsv
