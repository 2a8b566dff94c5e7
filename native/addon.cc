// Entry point. Context-aware: loaded once in every thread that needs it, with data of its own in each.
#include "addon.h"

#include <unistd.h>

namespace tsv {

EnvData::~EnvData() {
  for (int fd : fds) close(fd);
}

bool GetBytes(const Napi::CallbackInfo& info, size_t index, Bytes* out) {
  napi_typedarray_type type;
  size_t length;
  void* data;
  if (info.Length() > index && info[index].IsTypedArray() &&
      napi_get_typedarray_info(info.Env(), info[index], &type, &length, &data, nullptr, nullptr) == napi_ok &&
      type == napi_uint8_array) {
    out->data = static_cast<uint8_t*>(data);
    out->length = length;
    return true;
  }
  Napi::TypeError::New(info.Env(), "argument " + std::to_string(index) + " must be a Uint8Array")
      .ThrowAsJavaScriptException();
  return false;
}

}  // namespace tsv

static Napi::Object Init(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new tsv::EnvData());
  // Counts up with every change of what is exported; the loader compares it with its own (src/kvm/native.ts).
  exports["version"] = Napi::Number::New(env, 2);
  tsv::InitFile(env, exports);
  tsv::InitKvm(env, exports);
  tsv::InitMemory(env, exports);
  tsv::InitThread(env, exports);
  tsv::InitWake(env, exports);
  return exports;
}

NODE_API_MODULE(tsvisor, Init)
