// Shared by all files of the shim. The shim holds no policy: each function is one system call, checked only for
// what could corrupt the process (pointers and lengths), answering its result or -errno.
#pragma once

#include <napi.h>

#include <cerrno>
#include <cstdint>
#include <map>
#include <set>
#include <utility>

namespace tsv {

// What one JavaScript environment (the main thread or one worker) holds. Freed with the environment.
class EnvData {
 public:
  ~EnvData();

  // File descriptors opened by this environment and not closed yet.
  std::set<int> fds;
  // Arrays that the kernel holds the address of, by (vm fd, memslot).
  std::map<std::pair<int, uint32_t>, Napi::ObjectReference> pins;
};

inline EnvData* Data(Napi::Env env) { return env.GetInstanceData<EnvData>(); }

// -errno or the call's result, as JavaScript number.
inline Napi::Value Result(Napi::Env env, long result) {
  return Napi::Number::New(env, result < 0 ? -errno : result);
}

// Remembers an fd returned by a system call so that it is closed with the environment at the latest.
inline Napi::Value OwnedFd(Napi::Env env, int fd) {
  if (fd < 0) return Napi::Number::New(env, -errno);
  Data(env)->fds.insert(fd);
  return Napi::Number::New(env, fd);
}

// A Uint8Array argument's bytes.
struct Bytes {
  uint8_t* data = nullptr;
  size_t length = 0;
};

// Throws a TypeError into JavaScript (pending exception) when the argument is not a Uint8Array.
bool GetBytes(const Napi::CallbackInfo& info, size_t index, Bytes* out);

void InitFile(Napi::Env env, Napi::Object exports);
void InitKvm(Napi::Env env, Napi::Object exports);
void InitMemory(Napi::Env env, Napi::Object exports);
void InitThread(Napi::Env env, Napi::Object exports);
void InitWake(Napi::Env env, Napi::Object exports);

}  // namespace tsv
