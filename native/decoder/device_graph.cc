#include "decoder/device_graph.h"

#include <utility>

namespace smoe {

Status DeviceGraph::run(const std::shared_ptr<Device>& device, const std::function<Status()>& enqueue) {
  if (std::exchange(tried_, true) && graph_ == nullptr && !refused_) capture(device, enqueue);
  if (graph_ == nullptr) return enqueue();
  return device->check(device->table().runtime.launch_graph(device->stream(), graph_), "graph of a step");
}

// What fails here is not reported: it fails again, and says why, when it is run as it is.
void DeviceGraph::capture(const std::shared_ptr<Device>& device, const std::function<Status()>& enqueue) {
  const cu::CudaRuntime& runtime = device->table().runtime;
  refused_ = true;
  if (runtime.begin_capture(device->stream()) != cu::CudaError::None) return;
  const Status recorded = enqueue();
  void* graph = nullptr;
  const cu::CudaError ended = runtime.end_capture(device->stream(), &graph);
  if (recorded.ok() && ended == cu::CudaError::None) {
    device_ = device;
    graph_ = graph;
    refused_ = false;
  } else if (graph != nullptr) {
    runtime.destroy_graph(graph);
  }
}

void DeviceGraph::drop() {
  if (graph_ != nullptr) device_->table().runtime.destroy_graph(std::exchange(graph_, nullptr));
  device_.reset();
  tried_ = refused_ = false;
}

}  // namespace smoe
