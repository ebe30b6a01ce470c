// A MoE layer of random weights on the device, at any shape and format, and the launches of one block of it: what the
// benchmark times and the full-size checks compare. It drives kernels/cuda_table.h as the layers of the library do.
#pragma once

#include <memory>

#include "bench_device.h"
#include "device_kernels.h"

namespace smoe::bench {

struct MoeShape {
  const char* name;
  int64_t hidden, width;
  int experts, k;
};
// specs/cuda-kernels.md, section 3; routed experts only.
const std::vector<MoeShape>& bench_shapes();

struct WeightFormatSpec {
  const char* name;
  cu::AtomFormat format;
  int group;  // columns per scale; 0: no scales
  cu::ScaleType scale_type;
  bool wgmma;         // prefill on wgmma has it; on mma.sync every format
  bool int8 = false;  // int8 activations; else bf16 ones
  int planes = 0;     // residual planes; then there are zero points, too
};
const std::vector<WeightFormatSpec>& bench_formats();

// How routing is spread (spec section 3): over all experts alike, by Zipf's law, every token to the same k, or every
// token to one expert and the rest alike. An expert can have 1/k of all pairs at most, because ids are distinct.
enum class Skew : int { Uniform = 0, Zipf = 1, SameExperts = 2, OneHot = 3 };
const char* skew_name(Skew skew);

// One packed matrix per expert, all of one shape.
class ExpertStack {
 public:
  ExpertStack(BenchDevice& device, const WeightFormatSpec& format, int experts, int64_t row_blocks, int64_t cols,
              uint32_t seed);
  const cu::AtomMatrix* table() const { return table_.data(); }
  const std::vector<cu::AtomMatrix>& entries() const { return entries_; }
  static int64_t bytes_per_expert(const WeightFormatSpec& format, int64_t row_blocks, int64_t cols);

 private:
  void add_planes(BenchDevice& device, const WeightFormatSpec& format, int64_t row_blocks, int64_t cols, uint32_t seed);

  DeviceBlock<unsigned char> atoms_, scales_, zeros_;
  std::vector<ExpertStack> planes_;
  DeviceBlock<cu::AtomMatrix> plane_table_;  // [experts][planes]
  std::vector<cu::AtomMatrix> entries_;
  DeviceBlock<cu::AtomMatrix> table_;
};

struct MoeWeights {
  MoeWeights(BenchDevice& device, const MoeShape& shape, const WeightFormatSpec& format, uint32_t seed);
  ExpertStack gate_up, down;
  DeviceBlock<unsigned char> router;  // bf16 [E, H]
};

class MoeRig {
 public:
  // `sets` layers of weights, taken in turn. prefill_tokens 0: only the decode block can run.
  MoeRig(BenchDevice& device, const MoeShape& shape, const WeightFormatSpec& format, int sets, int layers,
         int64_t prefill_tokens);

  static int64_t expert_bytes(const MoeShape& shape, const WeightFormatSpec& format);
  static int64_t set_bytes(const MoeShape& shape, const WeightFormatSpec& format);
  // Scratch of a prefill, about: rows of h and y, plans.
  static int64_t prefill_bytes(const MoeShape& shape, const WeightFormatSpec& format, int64_t tokens);

  void set_skew(Skew skew);
  // New inputs of every layer, hence new routing.
  void draw(int64_t tokens, uint32_t seed);
  // K1, K2, K3 of layer `layer` for `tokens` <= 64 rows, read from row `first` of the layer's inputs.
  void decode(int layer, int tokens, int64_t first = 0);
  // P1 .. P5.
  void prefill(int layer, int64_t tokens, bool hopper, int64_t first = 0);

  // Of the last block, after a synchronize.
  std::vector<float> output(int64_t row, int64_t rows) const {
    return out_.download(row * shape_.hidden, rows * shape_.hidden);
  }
  std::vector<int32_t> ids(int64_t row, int64_t rows) const { return ids_.download(row * shape_.k, rows * shape_.k); }
  std::vector<float> weights(int64_t row, int64_t rows) const {
    return weights_.download(row * shape_.k, rows * shape_.k);
  }
  std::vector<float> input(int layer, int64_t row, int64_t rows) const;
  // Experts that the last decode blocks used, summed over the layers.
  double active_experts(int layers) const;
  const MoeWeights& set_of(int layer) const { return *sets_[static_cast<size_t>(layer) % sets_.size()]; }
  const MoeShape& shape() const { return shape_; }

 private:
  cu::Planes planes(int layer, int64_t first) const;
  int64_t input_at(int layer, int64_t first) const { return (layer * rows_ + first) * shape_.hidden; }
  RouterConfig router_config() const;
  // The maps of a block with int8 activations, from their twins with bf16 ones.
  bool decode_int8(const cu::GateUpArgs& up, const cu::DownCombineArgs& down, const float* x);
  bool prefill_int8(const cu::GroupedGemmArgs& up, const cu::GroupedGemmArgs& down, const float* x);
  bool quantize(const float* x, int64_t k, const cu::Int8Operand& to, int64_t rows, const int32_t* num_rows);
  cu::Int8Operand x_int8();
  cu::Int8Operand h_int8();

  BenchDevice& device_;
  MoeShape shape_;
  WeightFormatSpec format_;
  int layers_;
  int64_t rows_;  // of inputs per layer
  int splits_;
  Skew skew_ = Skew::Uniform;
  std::vector<std::unique_ptr<MoeWeights>> sets_;
  DeviceBlock<float> x_;
  DeviceBlock<cu::bf16> plane_;
  DeviceBlock<float> router_bias_, partials_, weights_, row_weight_, out_;
  DeviceBlock<int32_t> num_tokens_, ids_, count_, offset_, position_, token_, histogram_;
  DeviceBlock<uint32_t> tickets_;
  DeviceBlock<uint64_t> mask_;  // [layers, E]
  DeviceBlock<cu::bf16> h_, y_;
  // With int8 activations.
  DeviceBlock<uint8_t> x_codes_, h_codes_;
  DeviceBlock<cu::U32x2> x_scales_, h_scales_;
  DeviceBlock<float> h_f32_, y_f32_;
};

}  // namespace smoe::bench
