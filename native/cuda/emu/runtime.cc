// CudaRuntime over emulated devices: host processes without a GPU run the kernels as they are. Copies and launches
// happen at once, inside the call. SMOE_CUDA_EMU_DEVICES: how many GPUs (1); they share nothing.
#include "cuda/runtime.h"

#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "cuda/emu/device.h"
#include "cuda/emu/world.h"
#include "cuda/launch_stream.h"

namespace smoe::cu {
namespace {
using emu::Device;
using emu::EmulatedGpu;
using emu::GlobalBuffer;
using emu::strikes;
using emu::World;
using emu::world;

using Graph = std::vector<std::function<CudaError(struct EmulatedStream&)>>;

struct EmulatedStream {
  EmulatedStream(int on, EmulatedGpu* its) : index(on), gpu(its), device(&its->device) {}
  int index;
  EmulatedGpu* gpu;
  Device device;
  bool capturing = false, spoiled = false;
  Graph recorded;
};

std::string& error_text() {
  static thread_local std::string text;
  return text;
}
int& captures_of_this_thread() {
  static thread_local int count = 0;
  return count;
}

CudaError fail(CudaError error, std::string text) {
  error_text() = std::move(text);
  return error;
}

CudaError lose(EmulatedGpu& gpu, const std::string& why) {
  gpu.lost = why;
  return fail(CudaError::DeviceLost, why);
}

CudaError check_gpu(EmulatedGpu& gpu) {
  return gpu.lost.empty() ? CudaError::None : fail(CudaError::DeviceLost, gpu.lost);
}

CudaError find_gpu(World& w, int device, EmulatedGpu** out) {
  if (w.no_driver) return fail(CudaError::NoDriver, "emulated: no CUDA driver is installed");
  if (w.no_device || device < 0 || static_cast<size_t>(device) >= w.gpus.size()) {
    return fail(CudaError::NoDevice, "emulated: device " + std::to_string(device) + " does not exist");
  }
  *out = w.gpus[static_cast<size_t>(device)].get();
  if (w.old_device) return fail(CudaError::Unsupported, "emulated: compute capability 7.5, at least 8.0 is needed");
  return check_gpu(**out);
}

const char* last_error() { return error_text().c_str(); }

CudaError versions(CudaVersions* out) {
  World& w = world();
  const std::lock_guard<std::mutex> guard(w.lock);
  *out = {};
  out->runtime = 13000;
  if (w.no_driver) return fail(CudaError::NoDriver, "emulated: no CUDA driver is installed");
  out->driver = 13000;
  if (w.no_device || w.gpus.empty()) return fail(CudaError::NoDevice, "emulated: no CUDA device");
  out->devices = static_cast<int>(w.gpus.size());
  return CudaError::None;
}

CudaError device_info(int device, CudaDeviceInfo* out) {
  World& w = world();
  const std::lock_guard<std::mutex> guard(w.lock);
  *out = {};
  EmulatedGpu* gpu = nullptr;
  const CudaError error = find_gpu(w, device, &gpu);
  if (error != CudaError::None && error != CudaError::Unsupported) return error;
  std::strcpy(out->name, "emulated GPU");
  out->major = w.old_device ? 7 : 9;
  out->minor = w.old_device ? 5 : 0;
  out->sms = 4;
  out->memory = w.memory;
  out->memory_free = w.memory > gpu->in_use ? w.memory - gpu->in_use : 0;
  out->l2 = size_t{4} << 20;
  return error;
}

CudaError allocate(int device, size_t bytes, void** out) {
  World& w = world();
  const std::lock_guard<std::mutex> guard(w.lock);
  *out = nullptr;
  EmulatedGpu* gpu = nullptr;
  const CudaError error = find_gpu(w, device, &gpu);
  if (error != CudaError::None) return error;
  if (captures_of_this_thread() > 0) return fail(CudaError::Launch, "emulated: an allocation while capturing");
  bytes += bytes == 0;
  const bool full = gpu->in_use > w.memory || bytes > w.memory - gpu->in_use;
  GlobalBuffer* buffer = nullptr;
  if (!strikes(&w.allocations_left) && !full) buffer = gpu->device.memory.allocate(bytes, false, "device memory");
  if (buffer == nullptr) return fail(CudaError::OutOfMemory, "emulated: out of memory");
  buffer->copied_in = true;
  gpu->in_use += bytes;
  gpu->buffers[buffer->data] = buffer;
  *out = buffer->data;
  return CudaError::None;
}

void release(int device, void* memory) {
  World& w = world();
  const std::lock_guard<std::mutex> guard(w.lock);
  if (memory == nullptr || device < 0 || static_cast<size_t>(device) >= w.gpus.size()) return;
  EmulatedGpu& gpu = *w.gpus[static_cast<size_t>(device)];
  const auto found = gpu.buffers.find(memory);
  if (found == gpu.buffers.end()) return;
  gpu.in_use -= found->second->bytes;
  gpu.device.memory.release(found->second);
  gpu.buffers.erase(found);
}

CudaError allocate_host(size_t bytes, void** out) {
  World& w = world();
  const std::lock_guard<std::mutex> guard(w.lock);
  *out = nullptr;
  if (w.no_driver) return fail(CudaError::NoDriver, "emulated: no CUDA driver is installed");
  if (!strikes(&w.allocations_left)) *out = std::malloc(bytes == 0 ? 1 : bytes);
  return *out != nullptr ? CudaError::None : fail(CudaError::OutOfMemory, "emulated: out of pinned memory");
}

void release_host(void* memory) { std::free(memory); }

CudaError create_stream(int device, void** out) {
  World& w = world();
  const std::lock_guard<std::mutex> guard(w.lock);
  *out = nullptr;
  EmulatedGpu* gpu = nullptr;
  const CudaError error = find_gpu(w, device, &gpu);
  if (error != CudaError::None) return error;
  *out = new EmulatedStream(device, gpu);
  return CudaError::None;
}

void destroy_stream(int, void* stream) {
  EmulatedStream* const mine = static_cast<EmulatedStream*>(stream);
  if (mine != nullptr && mine->capturing) --captures_of_this_thread();
  delete mine;
}

// Runs the work, or records it while the stream is captured. Recorded work runs with the lock held, so it takes none.
CudaError give(void* stream, std::function<CudaError(EmulatedStream&)> work) {
  const std::lock_guard<std::mutex> guard(world().lock);
  EmulatedStream& mine = *static_cast<EmulatedStream*>(stream);
  const CudaError lost = check_gpu(*mine.gpu);
  if (lost != CudaError::None) return lost;
  if (!mine.capturing) return work(mine);
  mine.recorded.push_back(std::move(work));
  return CudaError::None;
}

// The buffer that holds all of these bytes, or null.
GlobalBuffer* holder(EmulatedStream& stream, const void* address, size_t bytes, size_t* offset) {
  GlobalBuffer* const buffer = stream.device.memory.find(address);
  const unsigned char* const p = static_cast<const unsigned char*>(address);
  if (buffer == nullptr || p < buffer->data) return nullptr;
  *offset = static_cast<size_t>(p - buffer->data);
  return *offset <= buffer->bytes && bytes <= buffer->bytes - *offset ? buffer : nullptr;
}

CudaError outside(EmulatedStream& stream, const char* what, const void* address, size_t bytes) {
  return fail(CudaError::Launch,
              std::string("emulated: ") + what + ": " + stream.device.memory.describe(address, bytes));
}

CudaError copy_in(void* stream, void* to_device, const void* from_host, size_t bytes) {
  if (bytes == 0) return CudaError::None;
  return give(stream, [=](EmulatedStream& on) {
    size_t offset = 0;
    GlobalBuffer* const buffer = holder(on, to_device, bytes, &offset);
    if (buffer == nullptr) return outside(on, "copy_in outside every buffer", to_device, bytes);
    std::memcpy(to_device, from_host, bytes);
    on.device.memory.mark_written(buffer, offset, bytes);
    return CudaError::None;
  });
}

CudaError copy_out(void* stream, void* to_host, const void* from_device, size_t bytes) {
  if (bytes == 0) return CudaError::None;
  return give(stream, [=](EmulatedStream& on) {
    size_t offset = 0;
    if (holder(on, from_device, bytes, &offset) == nullptr) {
      return outside(on, "copy_out outside every buffer", from_device, bytes);
    }
    std::memcpy(to_host, from_device, bytes);
    return CudaError::None;
  });
}

CudaError fill(void* stream, void* memory, int byte, size_t bytes) {
  if (bytes == 0) return CudaError::None;
  return give(stream, [=](EmulatedStream& on) {
    size_t offset = 0;
    GlobalBuffer* const buffer = holder(on, memory, bytes, &offset);
    if (buffer == nullptr) return outside(on, "fill outside every buffer", memory, bytes);
    std::memset(memory, byte, bytes);
    on.device.memory.mark_written(buffer, offset, bytes);
    return CudaError::None;
  });
}

CudaError synchronize(void* stream) {
  World& w = world();
  const std::lock_guard<std::mutex> guard(w.lock);
  EmulatedStream& mine = *static_cast<EmulatedStream*>(stream);
  if (strikes(&w.synchronizes_left)) return lose(*mine.gpu, "emulated: an illegal memory access was encountered");
  if (mine.capturing) {
    mine.spoiled = true;
    return fail(CudaError::Launch, "emulated: synchronize of a stream that is being captured");
  }
  return check_gpu(*mine.gpu);
}

// What a launch left behind: a refused shape leaves the device as it was, every other fault loses it.
CudaError outcome(EmulatedStream& stream) {
  if (stream.device.report().ok()) return CudaError::None;
  const std::string text = stream.device.report().text();
  if (stream.device.report().kind != emu::Fault::BadLaunch) return lose(*stream.gpu, text);
  stream.device.clear();
  return fail(CudaError::Launch, text);
}

CudaError begin_capture(void* stream) {
  const std::lock_guard<std::mutex> guard(world().lock);
  EmulatedStream& mine = *static_cast<EmulatedStream*>(stream);
  const CudaError lost = check_gpu(*mine.gpu);
  if (lost != CudaError::None) return lost;
  if (mine.capturing) return fail(CudaError::Launch, "emulated: the stream is being captured already");
  mine.capturing = true;
  mine.spoiled = false;
  mine.recorded.clear();
  ++captures_of_this_thread();
  mine.device.recorder = [&mine](emu::RecordedLaunch launch) {
    mine.recorded.push_back([again = std::move(launch)](EmulatedStream& on) {
      on.device.launch(again);
      return outcome(on);
    });
  };
  return CudaError::None;
}

CudaError end_capture(void* stream, void** graph) {
  const std::lock_guard<std::mutex> guard(world().lock);
  *graph = nullptr;
  EmulatedStream& mine = *static_cast<EmulatedStream*>(stream);
  if (!mine.capturing) return fail(CudaError::Launch, "emulated: the stream is not being captured");
  mine.capturing = false;
  mine.device.recorder = nullptr;
  --captures_of_this_thread();
  const CudaError lost = check_gpu(*mine.gpu);
  if (lost != CudaError::None) return lost;
  if (mine.spoiled) return fail(CudaError::Launch, "emulated: the capture was invalidated");
  *graph = new Graph(std::move(mine.recorded));
  mine.recorded.clear();
  return CudaError::None;
}

CudaError launch_graph(void* stream, void* graph) {
  World& w = world();
  const std::lock_guard<std::mutex> guard(w.lock);
  EmulatedStream& mine = *static_cast<EmulatedStream*>(stream);
  const CudaError lost = check_gpu(*mine.gpu);
  if (lost != CudaError::None) return lost;
  if (mine.capturing) return fail(CudaError::Launch, "emulated: a graph launched into a capture");
  if (strikes(&w.launches_left)) return lose(*mine.gpu, "emulated: unspecified launch failure");
  mine.device.options = w.options;
  for (const auto& work : *static_cast<Graph*>(graph)) {
    const CudaError error = work(mine);
    if (error != CudaError::None) return error;
  }
  return CudaError::None;
}

void destroy_graph(void* graph) { delete static_cast<Graph*>(graph); }

}  // namespace

// The lock is taken here and given back in left_stream: the launch between them runs the engine.
CudaError enter_stream(void* stream, Stream* out) {
  World& w = world();
  EmulatedStream& mine = *static_cast<EmulatedStream*>(stream);
  w.lock.lock();
  CudaError error = check_gpu(*mine.gpu);
  if (error == CudaError::None && !mine.capturing && strikes(&w.launches_left)) {
    error = lose(*mine.gpu, "emulated: unspecified launch failure");
  }
  if (error != CudaError::None) {
    w.lock.unlock();
    return error;
  }
  mine.device.options = w.options;
  *out = &mine.device;
  return CudaError::None;
}

CudaError left_stream(void* stream, int code) {
  const std::lock_guard<std::mutex> guard(world().lock, std::adopt_lock);
  CudaError error = outcome(*static_cast<EmulatedStream*>(stream));
  // A launcher's own refusal, such as sizes that no template covers.
  if (error == CudaError::None && code != 0) error = fail(CudaError::Launch, "emulated: the launch was refused");
  return error;
}

const CudaRuntime& cuda_runtime() {
  static const CudaRuntime runtime = {
      "emulation",   last_error,   versions,      device_info,    allocate,     release,
      allocate_host, release_host, create_stream, destroy_stream, copy_in,      copy_out,
      fill,          synchronize,  begin_capture, end_capture,    launch_graph, destroy_graph,
  };
  return runtime;
}

}  // namespace smoe::cu
