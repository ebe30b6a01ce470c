// Traces of MoE layers, filled chunk by chunk.
#pragma once

#include "decoder/decoder.h"

namespace smoe {

// One sized LayerTrace per MoE layer of `decoder`.
void size_traces(const Decoder& decoder, int64_t tokens, std::vector<LayerTrace>* traces);

// Records one chunk of one layer: begin() points the layer's optional outputs into the trace, end() copies the rest.
class TraceChunk {
 public:
  TraceChunk(LayerTrace* trace, int64_t first_token, int64_t tokens) : trace_(trace), first_(first_token), n_(tokens) {}
  void begin(MoeLayer::Forward* args);
  void end(const MoeLayer::Forward& args);

 private:
  LayerTrace* trace_;
  int64_t first_, n_;
  Routing routing_;
};

}  // namespace smoe
