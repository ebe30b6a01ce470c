#include "decoder/trace.h"

#include <algorithm>

namespace smoe {

void size_traces(const Decoder& decoder, int64_t tokens, std::vector<LayerTrace>* traces) {
  traces->clear();
  const size_t t = static_cast<size_t>(tokens), rows = t * static_cast<size_t>(decoder.hidden);
  for (size_t layer = 0; layer < decoder.layers.size(); ++layer) {
    if (decoder.layers[layer].moe == nullptr) continue;
    const RouterConfig& router = decoder.layers[layer].moe->config.router;
    LayerTrace trace;
    trace.layer = static_cast<int>(layer);
    trace.slots = router.k;
    trace.experts = static_cast<int>(router.experts);
    for (std::vector<float>* field : {&trace.input, &trace.residual_in, &trace.output, &trace.residual_out})
      field->resize(rows);
    if (decoder.momentum.type != MomentumType::None) trace.momentum_out.resize(rows);
    trace.router_logits.resize(t * static_cast<size_t>(router.experts));
    trace.ids.resize(t * static_cast<size_t>(router.k));
    trace.weights.resize(trace.ids.size());
    trace.count.resize(t);
    traces->push_back(std::move(trace));
  }
}

void TraceChunk::begin(MoeLayer::Forward* args) {
  const int64_t h = static_cast<int64_t>(trace_->input.size() / trace_->count.size()), at = first_ * h;
  std::copy_n(args->hidden, n_ * h, trace_->input.data() + at);
  std::copy_n(args->residual, n_ * h, trace_->residual_in.data() + at);
  args->router_logits = trace_->router_logits.data() + first_ * trace_->experts;
  routing_ = {n_, trace_->slots, trace_->ids.data() + first_ * trace_->slots,
              trace_->weights.data() + first_ * trace_->slots, trace_->count.data() + first_};
  args->routing_out = &routing_;
  args->update_out = trace_->output.data() + at;
}

void TraceChunk::end(const MoeLayer::Forward& args) {
  const int64_t h = static_cast<int64_t>(trace_->input.size() / trace_->count.size()), at = first_ * h;
  std::copy_n(args.out, n_ * h, trace_->residual_out.data() + at);
  if (!trace_->momentum_out.empty()) std::copy_n(args.state.m, n_ * h, trace_->momentum_out.data() + at);
}

}  // namespace smoe
