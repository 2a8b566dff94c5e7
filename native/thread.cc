// Threads: their ids, the signal that kicks one out of KVM_RUN, and the host CPUs they may run on.
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "addon.h"

namespace tsv {
namespace {

// Real-time signals are queued and nobody else in a Node process uses them; libc keeps the first two for itself.
int KickSignal() { return SIGRTMIN + 5; }

// gettid(): number
Napi::Value Gettid(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(syscall(SYS_gettid)));
}

// enableKick(): 0. Installs the empty handler, without SA_RESTART so that KVM_RUN returns EINTR.
Napi::Value EnableKick(const Napi::CallbackInfo& info) {
  struct sigaction action = {};
  action.sa_handler = [](int) {};
  sigemptyset(&action.sa_mask);
  int result = sigaction(KickSignal(), &action, nullptr);
  if (result == 0) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, KickSignal());
    pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  }
  return Result(info.Env(), result);
}

// kick(tid: number): 0
Napi::Value Kick(const Napi::CallbackInfo& info) {
  return Result(info.Env(), syscall(SYS_tgkill, getpid(), info[0].ToNumber().Int32Value(), KickSignal()));
}

// setAffinity(tid: number, cpus: number[]): 0. tid 0 is the calling thread.
Napi::Value SetAffinity(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!info[1].IsArray()) return Napi::Number::New(env, -EINVAL);
  Napi::Array cpus = info[1].As<Napi::Array>();
  cpu_set_t set;
  CPU_ZERO(&set);
  for (uint32_t i = 0; i < cpus.Length(); i++) {
    uint32_t cpu = cpus.Get(i).ToNumber().Uint32Value();
    if (cpu >= CPU_SETSIZE) return Napi::Number::New(env, -EINVAL);
    CPU_SET(cpu, &set);
  }
  return Result(env, sched_setaffinity(info[0].ToNumber().Int32Value(), sizeof set, &set));
}

// getAffinity(tid: number): number[] | -errno
Napi::Value GetAffinity(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  cpu_set_t set;
  CPU_ZERO(&set);
  int result = sched_getaffinity(info[0].ToNumber().Int32Value(), sizeof set, &set);
  if (result < 0) return Result(env, result);
  Napi::Array cpus = Napi::Array::New(env);
  uint32_t length = 0;
  for (uint32_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (CPU_ISSET(cpu, &set)) cpus[length++] = Napi::Number::New(env, cpu);
  }
  return cpus;
}

}  // namespace

void InitThread(Napi::Env env, Napi::Object exports) {
  exports["gettid"] = Napi::Function::New(env, Gettid);
  exports["enableKick"] = Napi::Function::New(env, EnableKick);
  exports["kick"] = Napi::Function::New(env, Kick);
  exports["setAffinity"] = Napi::Function::New(env, SetAffinity);
  exports["getAffinity"] = Napi::Function::New(env, GetAffinity);
}

}  // namespace tsv
