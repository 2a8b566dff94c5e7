// Host memory behind shared buffers: addresses, mappings over page-aligned slices, advice, memfd.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>

#include "addon.h"

namespace tsv {
namespace {

// addressOf(bytes: Uint8Array): bigint, the host virtual address of the first byte
Napi::Value AddressOf(const Napi::CallbackInfo& info) {
  Bytes bytes;
  if (!GetBytes(info, 0, &bytes)) return info.Env().Undefined();
  return Napi::BigInt::New(info.Env(), static_cast<uint64_t>(reinterpret_cast<uintptr_t>(bytes.data)));
}

// mapFixed(bytes: Uint8Array, fd: number, fileOffset: number, flags: number): 0
// Replaces the pages behind the array; fd -1 maps fresh anonymous memory.
Napi::Value MapFixed(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Bytes bytes;
  if (!GetBytes(info, 0, &bytes)) return env.Undefined();
  size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  if (bytes.length == 0 || bytes.length % page != 0 || reinterpret_cast<uintptr_t>(bytes.data) % page != 0) {
    return Napi::Number::New(env, -EINVAL);
  }
  int fd = info[1].ToNumber().Int32Value();
  off_t offset = info[2].ToNumber().Int64Value();
  int flags = info[3].ToNumber().Int32Value() | MAP_FIXED | (fd < 0 ? MAP_ANONYMOUS : 0);
  void* result = mmap(bytes.data, bytes.length, PROT_READ | PROT_WRITE, flags, fd, offset);
  return Result(env, result == MAP_FAILED ? -1 : 0);
}

// madvise(bytes: Uint8Array, advice: number): 0
Napi::Value Madvise(const Napi::CallbackInfo& info) {
  Bytes bytes;
  if (!GetBytes(info, 0, &bytes)) return info.Env().Undefined();
  return Result(info.Env(), madvise(bytes.data, bytes.length, info[1].ToNumber().Int32Value()));
}

// memfdCreate(name: string, flags: number): fd
Napi::Value MemfdCreate(const Napi::CallbackInfo& info) {
  std::string name = info[0].ToString();
  return OwnedFd(info.Env(), memfd_create(name.c_str(), info[1].ToNumber().Uint32Value() | MFD_CLOEXEC));
}

// ftruncate(fd: number, length: number): 0
Napi::Value Ftruncate(const Napi::CallbackInfo& info) {
  return Result(info.Env(), ftruncate(info[0].ToNumber().Int32Value(), info[1].ToNumber().Int64Value()));
}

// fallocate(fd: number, mode: number, offset: number, length: number): 0
Napi::Value Fallocate(const Napi::CallbackInfo& info) {
  return Result(info.Env(), fallocate(info[0].ToNumber().Int32Value(), info[1].ToNumber().Int32Value(),
                                      info[2].ToNumber().Int64Value(), info[3].ToNumber().Int64Value()));
}

}  // namespace

void InitMemory(Napi::Env env, Napi::Object exports) {
  exports["addressOf"] = Napi::Function::New(env, AddressOf);
  exports["mapFixed"] = Napi::Function::New(env, MapFixed);
  exports["madvise"] = Napi::Function::New(env, Madvise);
  exports["memfdCreate"] = Napi::Function::New(env, MemfdCreate);
  exports["ftruncate"] = Napi::Function::New(env, Ftruncate);
  exports["fallocate"] = Napi::Function::New(env, Fallocate);
}

}  // namespace tsv
