// Self-attention of one layer on a device: what attention.cc and latent_attention.cc do.
#pragma once

#include "decoder/device_kv_cache.h"
#include "decoder/device_pass.h"
#include "decoder/device_weights.h"

namespace smoe {

struct DeviceAttentionArgs {
  const AttentionConfig* config = nullptr;
  const DeviceLayer* weights = nullptr;
  const DeviceKvShape* cache = nullptr;
  size_t layer = 0;
  Precision precision = Precision::Fast;
  cu::Planes input;    // [rows, H] normed, of attention_parts()
  float* x = nullptr;  // [rows, H] the output is added
};

// Planes of the activations of a layer's attention. Latent attention has three in fast precision too
// (latent_attention.cc says why).
int attention_parts(const AttentionConfig& config, Precision precision);

// Scratch for `rows` rows.
size_t attention_bytes(const AttentionConfig& config, Precision precision, int64_t rows, int sms);
Status enqueue_attention(const DevicePass& pass, const DeviceAttentionArgs& args, DeviceArena scratch);

// What the two files share. Keys and values of the layer in the cache:
cu::KvPages kv_pages(const DevicePass& pass, const DeviceAttentionArgs& args);
cu::RopeArgs rope_args(const DeviceAttentionArgs& args, bool interleaved);
// Into how many parts the keys of a row are divided, so that one row keeps the whole device busy. The order in which
// they are added depends on it, so it may depend on the layer and the device alone: neither on the number of rows nor
// on how many keys there are.
int attend_splits(const AttentionConfig& config, int sms);
// Floats of AttendArgs::partial; 0 for many rows.
int64_t partial_floats(const AttentionConfig& config, int64_t rows, int sms);
// Fills in what follows from pass and layer, and launches.
Status enqueue_attend(const DevicePass& pass, const DeviceAttentionArgs& args, cu::AttendArgs attend);
// x += o * attended + bias.
Status enqueue_output(const DevicePass& pass, const DeviceAttentionArgs& args, const DeviceMatrix& o,
                      const DeviceBuffer& bias, const cu::Planes& attended);

size_t latent_attention_bytes(const AttentionConfig& config, int64_t rows, int sms);
Status enqueue_latent_attention(const DevicePass& pass, const DeviceAttentionArgs& args, DeviceArena scratch);

}  // namespace smoe
