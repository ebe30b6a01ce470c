// A decoder's weights on a device.
#pragma once

#include <memory>

#include "decoder/decoder.h"
#include "device/matrix.h"
#include "layer/device_moe_layer.h"

namespace smoe {

struct DeviceNorm {
  cu::RowNorm kind = cu::RowNorm::Rms;
  float eps = 0;
  DeviceBuffer weight, bias;

  size_t bytes() const { return weight.bytes() + bias.bytes(); }
};

struct DeviceAttention {
  DeviceMatrix qkv, o;  // q, k and v below each other
  DeviceBuffer qkv_bias, o_bias, q_norm, k_norm, sinks;

  size_t bytes() const;
};

// latent.h; the maps of the heads side by side.
struct DeviceLatent {
  DeviceMatrix q_a, q_b, kv_a, key_up, value_up, o;
  DeviceBuffer q_a_bias, kv_a_bias, o_bias, q_norm, kv_norm;

  size_t bytes() const;
};

// One expert that every row goes to.
struct DeviceDense {
  DeviceMatrix up;     // gate and up by 8 + 8 rows, or up alone
  DeviceBuffer table;  // its AtomMatrix
  DeviceMatrix down;
  DeviceBuffer gate_bias, up_bias, down_bias;
  ActivationSpec activation;
  bool glu = true, bf16_only = false;
  int64_t width = 0;  // of a row of units: padded with units that are 0

  size_t bytes() const;
};

struct DeviceLayer {
  DeviceNorm attention_norm, ffn_norm;
  DeviceBuffer inv_freq;
  DeviceAttention attention;
  DeviceLatent latent;  // or this, with a kv_rank
  std::unique_ptr<DeviceMoeLayer> moe;
  std::unique_ptr<DeviceDense> dense;  // or this

  size_t bytes() const;
};

struct DeviceEnds {
  DeviceMatrix embedding, output;  // output empty: tied
  DeviceNorm final_norm;

  size_t bytes() const { return embedding.bytes() + output.bytes() + final_norm.bytes(); }
};

// Of validated weights; what the kernels cannot take is refused. Both take the device's lock for each piece.
Status upload_ends(Device& device, const Decoder& from, ThreadPool& pool, const CancelFlag* cancel, DeviceEnds* out);
Status upload_layer(const std::shared_ptr<Device>& device, const DecoderLayer& from, size_t index, Precision precision,
                    ThreadPool& pool, const CancelFlag* cancel, DeviceLayer* out);

}  // namespace smoe
