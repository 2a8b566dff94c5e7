// The KVM requests whose structures carry pointers, and KVM_RUN, the one that must be fast.
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <vector>

#include "addon.h"

namespace tsv {
namespace {

// run(vcpuFd: number): 0 or -errno (-EINTR after a kick). Plain N-API: this is called once for every exit.
napi_value Run(napi_env env, napi_callback_info info) {
  size_t argc = 1;
  napi_value argv[1];
  int32_t fd = -1;
  napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr);
  napi_get_value_int32(env, argv[0], &fd);
  int result = ioctl(fd, KVM_RUN, 0);
  napi_value value;
  napi_create_int32(env, result < 0 ? -errno : result, &value);
  return value;
}

// setUserMemoryRegion(vmFd, slot, flags, gpa, bytes: Uint8Array): 0. An empty array deletes the slot.
Napi::Value SetUserMemoryRegion(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  int fd = info[0].ToNumber().Int32Value();
  Bytes bytes;
  if (!GetBytes(info, 4, &bytes)) return env.Undefined();
  kvm_userspace_memory_region region = {};
  region.slot = info[1].ToNumber().Uint32Value();
  region.flags = info[2].ToNumber().Uint32Value();
  region.guest_phys_addr = static_cast<uint64_t>(info[3].ToNumber().Int64Value());
  region.memory_size = bytes.length;
  region.userspace_addr = bytes.length == 0 ? 0 : reinterpret_cast<uint64_t>(bytes.data);
  int result = ioctl(fd, KVM_SET_USER_MEMORY_REGION, &region);
  if (result < 0) return Result(env, result);
  auto key = std::make_pair(fd, region.slot);
  Data(env)->pins.erase(key);
  if (bytes.length != 0) Data(env)->pins.emplace(key, Napi::Persistent(info[4].As<Napi::Object>()));
  return Napi::Number::New(env, 0);
}

// getDirtyLog(vmFd, slot, bitmap: Uint8Array): 0. The bitmap must have a bit for each page of the slot, in whole
// 64-bit words; `pages` says how many the slot has.
Napi::Value GetDirtyLog(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Bytes bitmap;
  if (!GetBytes(info, 2, &bitmap)) return env.Undefined();
  uint64_t pages = static_cast<uint64_t>(info[3].ToNumber().Int64Value());
  if (bitmap.length < (pages + 63) / 64 * 8) return Napi::Number::New(env, -EINVAL);
  kvm_dirty_log log = {};
  log.slot = info[1].ToNumber().Uint32Value();
  log.dirty_bitmap = bitmap.data;
  return Result(env, ioctl(info[0].ToNumber().Int32Value(), KVM_GET_DIRTY_LOG, &log));
}

// clearDirtyLog(vmFd, slot, firstPage, numPages, bitmap: Uint8Array): 0
Napi::Value ClearDirtyLog(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Bytes bitmap;
  if (!GetBytes(info, 4, &bitmap)) return env.Undefined();
  kvm_clear_dirty_log log = {};
  log.slot = info[1].ToNumber().Uint32Value();
  log.first_page = static_cast<uint64_t>(info[2].ToNumber().Int64Value());
  log.num_pages = info[3].ToNumber().Uint32Value();
  log.dirty_bitmap = bitmap.data;
  if (bitmap.length < (static_cast<uint64_t>(log.num_pages) + 63) / 64 * 8) return Napi::Number::New(env, -EINVAL);
  return Result(env, ioctl(info[0].ToNumber().Int32Value(), KVM_CLEAR_DIRTY_LOG, &log));
}

// setMsrFilter(vmFd, defaultDeny: boolean, ranges: {flags, base, nmsrs, bitmap: Uint8Array}[]): 0
Napi::Value SetMsrFilter(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  kvm_msr_filter filter = {};
  filter.flags = info[1].ToBoolean() ? KVM_MSR_FILTER_DEFAULT_DENY : KVM_MSR_FILTER_DEFAULT_ALLOW;
  if (!info[2].IsArray()) return Napi::Number::New(env, -EINVAL);
  Napi::Array ranges = info[2].As<Napi::Array>();
  if (ranges.Length() > KVM_MSR_FILTER_MAX_RANGES) return Napi::Number::New(env, -E2BIG);
  std::vector<std::vector<uint8_t>> bitmaps(ranges.Length());
  for (uint32_t i = 0; i < ranges.Length(); i++) {
    Napi::Object range = ranges.Get(i).As<Napi::Object>();
    filter.ranges[i].flags = range.Get("flags").ToNumber().Uint32Value();
    filter.ranges[i].base = range.Get("base").ToNumber().Uint32Value();
    filter.ranges[i].nmsrs = range.Get("nmsrs").ToNumber().Uint32Value();
    Napi::Value bitmap = range.Get("bitmap");
    if (!bitmap.IsTypedArray()) return Napi::Number::New(env, -EINVAL);
    Napi::Uint8Array bytes = bitmap.As<Napi::Uint8Array>();
    // The kernel reads whole longs.
    size_t length = (static_cast<size_t>(filter.ranges[i].nmsrs) + 63) / 64 * 8;
    if (bytes.ByteLength() < length) return Napi::Number::New(env, -EINVAL);
    bitmaps[i].assign(bytes.Data(), bytes.Data() + length);
    filter.ranges[i].bitmap = bitmaps[i].data();
  }
  return Result(env, ioctl(info[0].ToNumber().Int32Value(), KVM_X86_SET_MSR_FILTER, &filter));
}

}  // namespace

void InitKvm(Napi::Env env, Napi::Object exports) {
  napi_value run;
  napi_create_function(env, "run", NAPI_AUTO_LENGTH, Run, nullptr, &run);
  exports["run"] = Napi::Value(env, run);
  exports["setUserMemoryRegion"] = Napi::Function::New(env, SetUserMemoryRegion);
  exports["getDirtyLog"] = Napi::Function::New(env, GetDirtyLog);
  exports["clearDirtyLog"] = Napi::Function::New(env, ClearDirtyLog);
  exports["setMsrFilter"] = Napi::Function::New(env, SetMsrFilter);
}

}  // namespace tsv
