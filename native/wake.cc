// Threads that wake each other: futexes in shared memory, and an eventfd watched by an event loop. Plain N-API: these are
// called for every access that a vCPU hands over.
#include <linux/futex.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <uv.h>

#include "addon.h"

namespace tsv {
namespace {

// The word of an Int32Array; null when there is no such word.
uint32_t* Word(napi_env env, napi_value array, napi_value index) {
  napi_typedarray_type type;
  size_t length;
  void* data;
  uint32_t at;
  bool ok = napi_get_typedarray_info(env, array, &type, &length, &data, nullptr, nullptr) == napi_ok &&
            type == napi_int32_array && napi_get_value_uint32(env, index, &at) == napi_ok && at < length;
  return ok ? static_cast<uint32_t*>(data) + at : nullptr;
}

napi_value Int32(napi_env env, long result) {
  napi_value value;
  napi_create_int32(env, result < 0 ? -errno : static_cast<int32_t>(result), &value);
  return value;
}

long Futex(uint32_t* word, int op, int32_t value) {
  if (word == nullptr) {
    errno = EINVAL;
    return -1;
  }
  return syscall(SYS_futex, word, op, value, nullptr, nullptr, 0);
}

// futexWait(words: Int32Array, index: number, value: number): 0, -EAGAIN when the word is another, -EINTR
napi_value FutexWait(napi_env env, napi_callback_info info) {
  size_t argc = 3;
  napi_value argv[3];
  napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr);
  int32_t value = 0;
  napi_get_value_int32(env, argv[2], &value);
  return Int32(env, Futex(Word(env, argv[0], argv[1]), FUTEX_WAIT_PRIVATE, value));
}

// futexWake(words: Int32Array, index: number): how many threads were woken, at most one
napi_value FutexWake(napi_env env, napi_callback_info info) {
  size_t argc = 2;
  napi_value argv[2];
  napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr);
  return Int32(env, Futex(Word(env, argv[0], argv[1]), FUTEX_WAKE_PRIVATE, 1));
}

// An eventfd that an event loop watches.
struct Watch {
  uv_poll_t poll;
  int fd;
  napi_env env;
  napi_ref callback;
  napi_async_context context;
  napi_async_cleanup_hook_handle cleanup;
};

void OnReadable(uv_poll_t* poll, int, int) {
  Watch* watch = static_cast<Watch*>(poll->data);
  eventfd_t count;
  eventfd_read(watch->fd, &count);
  napi_handle_scope scope;
  napi_value callback, self;
  napi_open_handle_scope(watch->env, &scope);
  napi_get_reference_value(watch->env, watch->callback, &callback);
  napi_get_global(watch->env, &self);
  napi_make_callback(watch->env, watch->context, self, callback, 0, nullptr, nullptr);
  napi_close_handle_scope(watch->env, scope);
}

// The event loop lets go of a handle only in its next turn; it must have before the environment ends.
void CloseWatch(napi_async_cleanup_hook_handle, void* data) {
  Watch* watch = static_cast<Watch*>(data);
  auto* handle = reinterpret_cast<uv_handle_t*>(&watch->poll);
  if (uv_is_closing(handle)) return;
  uv_poll_stop(&watch->poll);
  uv_close(handle, [](uv_handle_t* closed) {
    Watch* gone = static_cast<Watch*>(closed->data);
    close(gone->fd);
    napi_remove_async_cleanup_hook(gone->cleanup);
    delete gone;
  });
}

napi_value Unwatch(napi_env env, napi_callback_info info) {
  void* data;
  napi_get_cb_info(env, info, nullptr, nullptr, nullptr, &data);
  Watch* watch = static_cast<Watch*>(data);
  if (!uv_is_closing(reinterpret_cast<uv_handle_t*>(&watch->poll))) {
    napi_delete_reference(env, watch->callback);
    napi_async_destroy(env, watch->context);
    CloseWatch(nullptr, watch);
  }
  return nullptr;
}

// watchEvent(callback: () => void): { fd: number, close(): void }. Calls back after each burst of eventfdWrite(fd, 1);
// does not keep the event loop alive. close() may be called once.
napi_value WatchEvent(napi_env env, napi_callback_info info) {
  size_t argc = 1;
  napi_value argv[1];
  napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr);
  int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) return Int32(env, fd);
  uv_loop_t* loop;
  napi_get_uv_event_loop(env, &loop);
  Watch* watch = new Watch{};
  watch->fd = fd;
  watch->env = env;
  watch->poll.data = watch;
  uv_poll_init(loop, &watch->poll, fd);
  uv_poll_start(&watch->poll, UV_READABLE, OnReadable);
  uv_unref(reinterpret_cast<uv_handle_t*>(&watch->poll));
  napi_value name, result, value;
  napi_create_reference(env, argv[0], 1, &watch->callback);
  napi_create_string_utf8(env, "tsvisor:event", NAPI_AUTO_LENGTH, &name);
  napi_async_init(env, nullptr, name, &watch->context);
  napi_add_async_cleanup_hook(env, CloseWatch, watch, &watch->cleanup);
  napi_create_object(env, &result);
  napi_create_int32(env, fd, &value);
  napi_set_named_property(env, result, "fd", value);
  napi_create_function(env, "close", NAPI_AUTO_LENGTH, Unwatch, watch, &value);
  napi_set_named_property(env, result, "close", value);
  return result;
}

// signalEvent(fd: number): 0
napi_value SignalEvent(napi_env env, napi_callback_info info) {
  size_t argc = 1;
  napi_value argv[1];
  int32_t fd = -1;
  napi_get_cb_info(env, info, &argc, argv, nullptr, nullptr);
  napi_get_value_int32(env, argv[0], &fd);
  return Int32(env, eventfd_write(fd, 1));
}

}  // namespace

void InitWake(Napi::Env env, Napi::Object exports) {
  auto add = [&](const char* name, napi_callback function) {
    napi_value value;
    napi_create_function(env, name, NAPI_AUTO_LENGTH, function, nullptr, &value);
    exports[name] = Napi::Value(env, value);
  };
  add("futexWait", FutexWait);
  add("futexWake", FutexWake);
  add("watchEvent", WatchEvent);
  add("signalEvent", SignalEvent);
}

}  // namespace tsv
