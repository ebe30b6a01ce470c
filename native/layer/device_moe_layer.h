// A MoE layer on a CUDA device: the same five stages as moe_layer.h, as launches on a stream.
#pragma once

#include <memory>

#include "device/device.h"
#include "device/matrix.h"
#include "layer/moe_layer.h"

namespace smoe {

struct DeviceMoeWeights;

class DeviceMoeLayer {
 public:
  // Uploads the weights of a validated layer; `from` is not needed afterwards. Refuses what the kernels cannot do, by
  // name. Takes the device's lock itself, as forward() does.
  static Status create(std::shared_ptr<Device> device, const MoeLayer& from, ThreadPool& pool, const CancelFlag* cancel,
                       std::unique_ptr<DeviceMoeLayer>* out);
  ~DeviceMoeLayer();

  const std::shared_ptr<Device>& device() const;
  size_t bytes() const;          // on the device
  int64_t row_width() const;     // of the rows of enqueue(): H rounded up to a multiple of 8, zero behind H
  int activation_parts() const;  // of Rows::planes

  // Rows of a pass up to which the kernels for few rows are taken. Passes of up to so many agree with each other in
  // every bit of a row, those of more up to kDispatchMaxTokens too, and those of still more.
  // The kernels for few rows read an expert's rows anew for every row block of a matrix, from L2: sixteen rows are
  // twice the bytes of bf16 weights. From eight rows per expert on, the grouped GEMMs, which share them among 16 row
  // blocks, should be ahead: on an H200 the former took 1274 us for 64 tokens of Mixtral-8x7B, of 624 by their bytes,
  // and 303 for 64 of OLMoE, whose 512 tokens took the latter 277. Not so in exact, where
  // the latter run on older tiles. At least eight, the tokens of a decoder's graphs.
  int64_t few_rows() const;
  static int64_t few_rows(int64_t experts, int64_t k) {
    const int64_t rows = (8 * experts - 1) / k;
    return rows < 8 ? 8 : rows < cu::kDispatchMaxTokens ? rows : cu::kDispatchMaxTokens;
  }

  // Whether some expert has residual planes, of which Rows::expert_planes says how many are read; and refuses bits per
  // expert where a bit-nested expert lies decoded.
  bool nested() const;
  Status check_expert_bits() const;
  // Planes for `bits` of each of `count` experts (MoeLayer::Forward::expert_bits).
  static void planes_of_bits(const uint8_t* bits, int64_t count, int32_t* planes);

  // As MoeLayer::forward(), host memory in and out. A failure leaves out and the states undefined, the device usable
  // unless it is lost.
  Status forward(const MoeLayer::Forward& args);

  // One pass whose rows are on the device already. Launches and fills only: no allocation, no synchronisation, no host
  // read, so it can be captured. Up to max_tokens rows, of which *num_tokens are real (null: all). Above few_rows() all
  // rows must be real, and num_tokens null.
  struct Rows {
    const float* hidden = nullptr;        // [T, H] router input
    cu::Planes planes;                    // the same as planes: expert input
    const float* residual = nullptr;      // [T, H] or null
    const int32_t* num_tokens = nullptr;  // not written by the last launch before this pass
    int64_t max_tokens = 0;
    const int32_t* given_ids = nullptr;    // [T, given_slots]: given assignments, or null: route. Distinct in a token
    const float* given_weights = nullptr;  // [T, given_slots]
    int given_slots = 0;
    const int32_t* expert_planes = nullptr;  // [E] residual planes of an expert that are read, or null: all
    ResidualStep step;
    ResidualState state;             // device pointers
    float* out = nullptr;            // [T, H]; may be residual
    float* router_logits = nullptr;  // traces; null: not wanted
    cu::RoutingOut routing;          // scratch of its own where null; not written with given assignments
    float* update_out = nullptr;
    uint64_t* expert_counts = nullptr;
  };
  // Scratch of passes of up to `tokens` rows with `slots` assignments each, from the device's pool; one for a stream.
  static size_t scratch_bytes(const DeviceMoeLayer& layer, int64_t tokens, int slots);
  // `scratch` [scratch_bytes()], its first kScratchZeros bytes zero before its first use. The device is locked.
  static constexpr size_t kScratchZeros = 256;
  Status enqueue(const Rows& rows, void* scratch) const;

 private:
  DeviceMoeLayer() = default;
  std::unique_ptr<DeviceMoeWeights> weights_;
};

}  // namespace smoe
