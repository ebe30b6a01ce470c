#include "bindings/runtime_functions.h"

#include "bindings/async_task.h"
#include "bindings/cancel_token_object.h"
#include "bindings/convert.h"
#include "bindings/errors.h"
#include "core/op_queue.h"
#include "core/workspace_pool.h"
#include "kernels/kernel_table.h"
#include "kernels/tuning/ceilings.h"

namespace smoe {
namespace {

#if defined(__clang__)
constexpr const char* kCompiler = "clang " __clang_version__;
#elif defined(__GNUC__)
constexpr const char* kCompiler = "gcc " __VERSION__;
#elif defined(_MSC_VER)
constexpr const char* kCompiler = "msvc";
#else
constexpr const char* kCompiler = "unknown";
#endif

// On the op queue, so that no other call of this process disturbs the measurement or is disturbed.
class CeilingsTask : public AsyncTask {
 public:
  explicit CeilingsTask(int threads) : threads_(threads) {}

 protected:
  Status run() override { return measure_ceilings(ThreadPool::process(), threads_, cancel(), &ceilings_); }
  Napi::Value result(Napi::Env env) override {
    Napi::Object object = Napi::Object::New(env);
    object.Set("threads", ceilings_.threads);
    object.Set("dramReadGBs", ceilings_.dram_read_gbs);
    object.Set("l3ReadGBs", ceilings_.l3_read_gbs);
    object.Set("fmaGflops", ceilings_.fma_gflops);
    object.Set("bf16Gflops", ceilings_.bf16_gflops);
    object.Set("int8Gops", ceilings_.int8_gops);
    object.Set("int4Gops", ceilings_.int4_gops);
    return object;
  }

 private:
  int threads_;
  Ceilings ceilings_;
};

Dtype half_dtype(napi_env env, napi_value value) {
  const Dtype dtype = float_dtype(env, value, "dtype");
  if (dtype == Dtype::F32) throw_error(env, Code::DtypeMismatch, "dtype must be 'f16' or 'bf16', got 'f32'");
  return dtype;
}

}  // namespace

Napi::Value runtime_info(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const KernelTable* table = kernels();
  int count = 0;
  const char* const* names = usable_isas(&count);
  Napi::Array usable = Napi::Array::New(env, static_cast<size_t>(count));
  for (int i = 0; i < count; i++) usable[static_cast<uint32_t>(i)] = Napi::String::New(env, names[i]);

  Napi::Object build = Napi::Object::New(env);
  build.Set("compiler", kCompiler);
  build.Set("type", SMOE_BUILD_TYPE);
  build.Set("napi", NAPI_VERSION);

  Napi::Object result = Napi::Object::New(env);
  result.Set("isa", table != nullptr ? table->isa : "");  // "": SMOE_ISA names none that is usable
  result.Set("usableIsas", usable);
  result.Set("threads", ThreadPool::process().size());
  result.Set("maxThreads", ThreadPool::process().max_size());
  result.Set("build", build);
  result.Set("workspaceBytes", static_cast<double>(WorkspacePool::process().bytes()));
  result.Set("pendingCalls", static_cast<double>(OpQueue::process().pending()));
  return result;
}

Napi::Value set_threads(const Napi::CallbackInfo& info) {
  ThreadPool& pool = ThreadPool::process();
  pool.set_limit(static_cast<int>(integer(info.Env(), info[0], "threads", 1, pool.max_size())));
  return info.Env().Undefined();
}

Napi::Value set_isa(const Napi::CallbackInfo& info) {
  const std::string isa = text(info.Env(), info[0], "isa");
  if (!force_kernels(isa.c_str())) {
    int count = 0;
    const char* const* names = usable_isas(&count);
    std::string usable;
    for (int i = 0; i < count; i++) usable += std::string(i > 0 ? ", " : "") + names[i];
    throw_error(info.Env(), Code::IsaUnavailable, "isa must be one of %s, got '%s'", usable.c_str(), isa.c_str());
  }
  return info.Env().Undefined();
}

Napi::Value measure_ceilings_async(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const int64_t threads = integer(env, info[0], "threads", 1, ThreadPool::process().max_size());
  return AsyncTask::start(env, std::make_shared<CeilingsTask>(static_cast<int>(threads)),
                          CancelTokenObject::flag_of(env, info[1]));
}

Napi::Value to_f32_array(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Dtype dtype = half_dtype(env, info[1]);
  const TypedView data = float_array(env, info[0], "data", dtype, kAnyLength);
  const NewArray result = new_array(env, napi_float32_array, data.length);
  to_f32(data.data, dtype, static_cast<size_t>(data.length), static_cast<float*>(result.data));
  return result.value;
}

Napi::Value from_f32_array(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Dtype dtype = half_dtype(env, info[1]);
  const TypedView data = float_array(env, info[0], "data", Dtype::F32, kAnyLength);
  const NewArray result = new_array(env, napi_uint16_array, data.length);
  from_f32(static_cast<const float*>(data.data), static_cast<size_t>(data.length), dtype, result.data);
  return result.value;
}

Napi::Array error_codes(Napi::Env env) {
  static const char* const names[] = {
#define SMOE_ERROR(name, text) text,
#include "core/error_codes.def"
#undef SMOE_ERROR
  };
  Napi::Array codes = Napi::Array::New(env);
  uint32_t index = 0;
  for (const char* name : names) codes[index++] = Napi::String::New(env, name);
  return codes;
}

}  // namespace smoe
