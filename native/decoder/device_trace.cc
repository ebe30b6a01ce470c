#include "decoder/device_trace.h"

#include <algorithm>

namespace smoe {

DeviceTrace::DeviceTrace(const DeviceModel& model, std::vector<LayerTrace>* traces, void* memory, int64_t first,
                         int64_t rows)
    : model_(model), traces_(traces), memory_(memory), first_(first), rows_(rows) {}

void DeviceTrace::take(DeviceArena* arena, int64_t hidden, int64_t slots, int64_t experts) {
  logits_ = arena->take<float>(rows_ * experts);
  update_ = arena->take<float>(rows_ * hidden);
  routing_.ids = arena->take<int32_t>(rows_ * slots);
  routing_.weights = arena->take<float>(rows_ * slots);
  routing_.count = arena->take<int32_t>(rows_);
}

size_t DeviceTrace::bytes_for(const DeviceModel& model, int64_t rows) {
  size_t most = 0;
  for (const DecoderLayer& layer : model.shape.layers) {
    if (layer.moe == nullptr) continue;
    const RouterConfig& router = layer.moe->config.router;
    DeviceArena measure(nullptr);
    DeviceTrace(model, nullptr, nullptr, 0, rows).take(&measure, model.shape.hidden, router.k, router.experts);
    most = std::max(most, measure.bytes());
  }
  return most;
}

template <class T>
Status DeviceTrace::copy(std::vector<T>* to, const T* from, int64_t width) {
  return model_.device->copy_out_later(to->data() + first_ * width, from,
                                       static_cast<size_t>(rows_ * width) * sizeof(T));
}

Status DeviceTrace::begin(int moe_index, DeviceMoeLayer::Rows* args) {
  trace_ = &(*traces_)[static_cast<size_t>(moe_index)];
  DeviceArena arena(memory_);
  take(&arena, model_.shape.hidden, trace_->slots, trace_->experts);
  args->router_logits = logits_;
  args->routing = routing_;
  args->update_out = update_;
  SMOE_RETURN_IF_ERROR(copy<float>(&trace_->input, args->hidden, model_.shape.hidden));
  return copy<float>(&trace_->residual_in, args->residual, model_.shape.hidden);
}

Status DeviceTrace::end(const DeviceMoeLayer::Rows& args) {
  const int64_t hidden = model_.shape.hidden;
  SMOE_RETURN_IF_ERROR(copy<float>(&trace_->router_logits, logits_, trace_->experts));
  SMOE_RETURN_IF_ERROR(copy<int32_t>(&trace_->ids, routing_.ids, trace_->slots));
  SMOE_RETURN_IF_ERROR(copy<float>(&trace_->weights, routing_.weights, trace_->slots));
  SMOE_RETURN_IF_ERROR(copy<int32_t>(&trace_->count, routing_.count, 1));
  SMOE_RETURN_IF_ERROR(copy<float>(&trace_->output, update_, hidden));
  SMOE_RETURN_IF_ERROR(copy<float>(&trace_->residual_out, args.out, hidden));
  if (trace_->momentum_out.empty()) return Status();
  return copy<float>(&trace_->momentum_out, args.state.m, hidden);
}

}  // namespace smoe
