// What quantizers learn from a text: for every expert the second moments of its inputs and of its own hidden units, how
// often and how strongly it was chosen, and a sample of its inputs to measure errors on.
#pragma once

#include <vector>

#include "decoder/decoder.h"
#include "formats/quantized.h"
#include "prepare/symmetric.h"

namespace smoe {

struct ExpertSums {
  OuterSum input;                    // [H]: gate and up share it. Memory: see OuterSum
  OuterSum units;                    // [I]: down
  double weight = 0;                 // sum of routing weights
  std::vector<float> sample;         // [n, H] inputs, as the expert saw them
  std::vector<float> sample_weight;  // [n] factor of the output: the routing weight, or 1 with weight_on_input
};

struct LayerSums {
  int layer = 0;      // over all decoder layers
  int moe_index = 0;  // over MoE layers
  int64_t tokens = 0;
  std::vector<ExpertSums> experts;
  std::vector<float> input_max;  // [H] largest |x| of what norm, router and experts share
  std::vector<float> sample;     // [n, H] of it
};

struct CalibrationConfig {
  int first_layer = 0,
      last_layer = -1;    // decoder layers [first, last); -1 = all. Sums of a large model: a few layers at a time
  int64_t samples = 256;  // rows kept per expert, and per layer
};

class Calibration {
 public:
  std::vector<LayerSums> layers;

  // Allocates the sums of the MoE layers in range.
  Status init(const Decoder& decoder, const CalibrationConfig& config);
  // Runs a text that begins with ids[0] and adds what it does to the sums. The bits depend on the texts and their order
  // only. A call that fails or is cancelled after the sums were touched spoils them: later calls are refused.
  Status add(const Decoder& decoder, const int32_t* ids, int64_t tokens, const KernelTable& kernels, ThreadPool& pool,
             Workspace& workspace, const CancelFlag* cancel);
  size_t bytes() const;
  bool spoiled() const { return spoiled_; }
  const LayerSums* find(int layer) const;

 private:
  int64_t samples_ = 0;
  bool spoiled_ = false;
};

// The matrices of an expert that are replaced; null keeps the original.
struct ExpertReplacement {
  const QuantizedMatrix *gate = nullptr, *up = nullptr, *down = nullptr;
};
// Mean over the sampled rows of |w (E(x) - E^(x))|^2, and of |w E(x)|^2 into `scale` (nullable). 0 without samples.
// `input_scale` [H] (null: 1): the replacements take x / input_scale, as smoothed matrices do.
Status expert_error(const MoeLayer& layer, const ExpertSums& sums, const ExpertWeights& expert,
                    const ExpertReplacement& replacement, const float* input_scale, const KernelTable& kernels,
                    ThreadPool& pool, Workspace& workspace, const CancelFlag* cancel, double* out, double* scale);

// (n_e H_e + strength * H_layer) / (n_e + strength), with H_layer the mean over all experts of the layer: few rows lean
// on the many. Only for inputs: hidden units of another expert mean something else. `strength` about K (2.4).
Status blend_with_layer(const LayerSums& layer, int64_t expert, double strength, OuterSum* out);

}  // namespace smoe
