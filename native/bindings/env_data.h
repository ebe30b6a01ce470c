// What belongs to one JavaScript environment. Nothing here is global: worker_threads load the addon once more each.
#pragma once

#include <napi.h>

#include <memory>

#include "bindings/async_task.h"

namespace smoe {

struct EnvData {
  // Constructors that native code calls; the other classes are constructed by JavaScript only.
  Napi::FunctionReference moe_layer, decoder, quantized_matrix;
  std::shared_ptr<LiveTasks> tasks;

  // Hands a native object to the constructor that runs next. Passing it as a napi External argument would let any
  // External of another addon in.
  const napi_type_tag* pending_tag = nullptr;
  std::shared_ptr<void> pending;
};

// Makes the data of a fresh environment and registers its clean-up.
EnvData& create_env_data(Napi::Env env);
inline EnvData& env_data(Napi::BasicEnv env) { return *env.GetInstanceData<EnvData>(); }

}  // namespace smoe
