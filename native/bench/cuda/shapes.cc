// Shapes and formats of the benchmark.
#include "moe_rig.h"

namespace smoe::bench {

const std::vector<MoeShape>& bench_shapes() {
  static const std::vector<MoeShape> shapes = {
      {"OLMoE", 2048, 1024, 64, 8},
      {"Qwen3-30B-A3B", 2048, 768, 128, 8},
      {"Mixtral-8x7B", 4096, 14336, 8, 2},
      {"DeepSeek-V3", 7168, 2048, 256, 8},
  };
  return shapes;
}

const std::vector<WeightFormatSpec>& bench_formats() {
  static const std::vector<WeightFormatSpec> formats = {
      {"bf16", cu::AtomFormat::Bf16, 0, cu::ScaleType::F32, true},
      {"w4", cu::AtomFormat::W4, 128, cu::ScaleType::F16, false},
      {"w8", cu::AtomFormat::W8, 128, cu::ScaleType::F16, false},
      {"mxfp4", cu::AtomFormat::Mxfp4, 32, cu::ScaleType::E8m0, false},
      {"f8", cu::AtomFormat::F8, 128, cu::ScaleType::F32, false},
      {"t2", cu::AtomFormat::T2, 128, cu::ScaleType::F16, false},
      {"wn", cu::AtomFormat::T2, 128, cu::ScaleType::F16, false, false, 2},
      {"w4a8", cu::AtomFormat::W4, 128, cu::ScaleType::F16, false, true},
      {"w8a8", cu::AtomFormat::W8, 128, cu::ScaleType::F16, false, true},
      {"t2a8", cu::AtomFormat::T2, 128, cu::ScaleType::F16, false, true},
  };
  return formats;
}

const char* skew_name(Skew skew) {
  static const char* const names[] = {"uniform", "zipf", "same experts", "one hot expert"};
  return names[static_cast<int>(skew)];
}

}  // namespace smoe::bench
