#include "bindings/env_data.h"

namespace smoe {

EnvData& create_env_data(Napi::Env env) {
  auto* data = new EnvData;
  env.SetInstanceData<EnvData>(data);
  // Hooks run last-in first-out. The ThreadSafeFunction inside LiveTasks registers its own in this constructor, so ours
  // runs before it: when the environment goes down the tasks are drained while everything they touch still exists.
  data->tasks = std::make_shared<LiveTasks>(env);
  env.AddCleanupHook([tasks = data->tasks.get()] { tasks->shut_down(); });
  return *data;
}

}  // namespace smoe
