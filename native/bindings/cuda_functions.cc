#include "bindings/cuda_functions.h"

#include "bindings/async_task.h"
#include "bindings/device_twin.h"
#include "device/library.h"

namespace smoe {
namespace {

// What keeps a backend or a device from being used, as binding.d.ts spells it.
const char* problem_name(cu::CudaError error) {
  switch (error) {
    case cu::CudaError::NoDriver:
      return "driver";
    case cu::CudaError::NoDevice:
      return "device";
    case cu::CudaError::Unsupported:
      return "capability";
    case cu::CudaError::DeviceLost:
      return "lost";
    default:
      return "failed";
  }
}

struct Problem {
  const char* name = nullptr;  // null: none
  std::string why;

  Problem() = default;
  Problem(const char* what, std::string text) : name(what), why(std::move(text)) {}
  Problem(cu::CudaError error, const cu::CudaRuntime& runtime) {
    if (error == cu::CudaError::None) return;
    name = problem_name(error);
    why = runtime.last_error();
  }
  void set_on(Napi::Object object) const {
    if (name == nullptr) return;
    object.Set("problem", name);
    object.Set("why", why);
  }
};

// On the op queue: the first look at a device starts the driver and makes a context, which takes its time.
class InfoTask : public AsyncTask {
 public:
  explicit InfoTask(int only) : only_(only) {}

 protected:
  Status run() override {
    const CudaLibrary& library = cuda_library();
    path_ = library.path;
    if (library.table == nullptr) {
      problem_ = Problem("library", library.why);
      return {};
    }
    const cu::CudaRuntime& runtime = library.table->runtime;
    kind_ = runtime.kind;
    problem_ = Problem(runtime.versions(&versions_), runtime);
    const int last = only_ == kHost ? versions_.devices : std::min(versions_.devices, only_ + 1);
    for (int index = only_ == kHost ? 0 : only_; index < last; index++) {
      Found found;
      found.index = index;
      found.problem = Problem(runtime.device_info(index, &found.info), runtime);
      devices_.push_back(std::move(found));
    }
    return {};
  }
  Napi::Value result(Napi::Env env) override {
    Napi::Object object = Napi::Object::New(env);
    object.Set("path", path_);
    if (kind_ != nullptr) object.Set("kind", kind_);
    problem_.set_on(object);
    object.Set("driver", versions_.driver);
    object.Set("runtime", versions_.runtime);
    object.Set("count", versions_.devices);
    Napi::Array devices = Napi::Array::New(env, devices_.size());
    for (size_t i = 0; i < devices_.size(); i++) devices[static_cast<uint32_t>(i)] = device_object(env, devices_[i]);
    object.Set("devices", devices);
    return object;
  }

 private:
  struct Found {
    int index = 0;
    cu::CudaDeviceInfo info = {};
    Problem problem;
  };

  static Napi::Object device_object(Napi::Env env, const Found& found) {
    const cu::CudaDeviceInfo& info = found.info;
    Napi::Object object = Napi::Object::New(env);
    object.Set("index", found.index);
    object.Set("name", std::string(info.name));
    object.Set("computeCapability", std::to_string(info.major) + "." + std::to_string(info.minor));
    object.Set("multiprocessors", info.sms);
    object.Set("memory", static_cast<double>(info.memory));
    object.Set("memoryFree", static_cast<double>(info.memory_free));
    found.problem.set_on(object);
    return object;
  }

  int only_;
  std::string path_;
  const char* kind_ = nullptr;
  Problem problem_;
  cu::CudaVersions versions_ = {};
  std::vector<Found> devices_;
};

}  // namespace

Napi::Value set_cuda_library_path(const Napi::CallbackInfo& info) {
  set_cuda_library(text(info.Env(), info[0], "path"));
  return info.Env().Undefined();
}

Napi::Value cuda_info(const Napi::CallbackInfo& info) {
  const int only = device_argument(info.Env(), info[0]);
  return AsyncTask::start(info.Env(), std::make_shared<InfoTask>(only), nullptr);
}

}  // namespace smoe
