// The weights of a MoE layer on a device.
#pragma once

#include <memory>
#include <vector>

#include "device/device.h"
#include "device/matrix.h"
#include "layer/device_moe_layer.h"

namespace smoe {

// Experts of one width; narrower ones are padded with zero rows and columns.
struct DeviceFfn {
  int experts = 0;
  int64_t width = 0;            // a multiple of 8; plain MLP: of 16
  bool all_bf16 = true;         // every matrix is AtomFormat::Bf16
  bool no_codes = true;         // every matrix is of bf16 parts
  bool int8 = false;            // multiplied by int8 activations
  bool nested = false;          // some matrix has residual planes
  bool decoded_nested = false;  // some bit-nested matrix (wn) could not be kept as one, and lies decoded
  std::vector<int> groups;      // int8: of the columns of gate and up, each once; of down
  std::vector<int> down_groups;
  std::vector<DeviceMatrix> gate_up, down;  // plain MLP: up alone
  DeviceBuffer gate_up_table, down_table;   // AtomMatrix [experts]
  DeviceBuffer gate_bias, up_bias;          // [experts, width] or empty
  DeviceBuffer down_bias;                   // [experts, H] or empty

  size_t bytes() const;
};

struct DeviceMoeWeights {
  std::shared_ptr<Device> device;
  MoeLayerConfig config;
  int64_t hidden = 0;   // H rounded up to a multiple of 8, which the router's kernels need
  int parts = 1;        // planes of activations
  DeviceBuffer router;  // [E, H] row by row
  bool router_f32 = false;
  DeviceBuffer router_bias, select_bias;  // [E] or empty
  DeviceFfn experts;
  DeviceFfn shared;          // 0 or 1
  DeviceBuffer shared_gate;  // [1, H] row by row, or empty
  bool shared_gate_f32 = false;
  DeviceBuffer zero_ids;  // [kDispatchMaxTokens]: every token's assignment to the shared expert

  size_t bytes() const;
  // Bf16 matrices and one plane: the kernels that know nothing else may be taken.
  bool bf16_only(const DeviceFfn& ffn) const { return parts == 1 && ffn.all_bf16; }

  int64_t few_rows() const {
    const RouterConfig& router = config.router;
    return parts == 1 ? DeviceMoeLayer::few_rows(router.experts, router.k) : cu::kDispatchMaxTokens;
  }
};

Status upload_moe_weights(std::shared_ptr<Device> device, const MoeLayer& from, ThreadPool& pool,
                          const CancelFlag* cancel, DeviceMoeWeights* out);

}  // namespace smoe
