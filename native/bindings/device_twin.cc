#include "bindings/device_twin.h"

#include <cstring>

#include "bindings/convert.h"
#include "device/library.h"

namespace smoe {
namespace {

void drop(PackedMatrix& matrix) {
  matrix.storage.release();
  matrix.scales.release();
  matrix.zeros.release();
}

void drop(ExpertWeights& expert) {
  for (PackedMatrix* matrix : {&expert.gate, &expert.up, &expert.down}) drop(*matrix);
}

}  // namespace

int device_argument(napi_env env, napi_value value) {
  return is_nullish(env, value) ? kHost : static_cast<int>(integer(env, value, "device", kAutoDevice, INT32_MAX));
}

Status open_device(int wanted, std::shared_ptr<Device>* out) {
  if (wanted >= 0) return Device::open(wanted, out);
  if (wanted == kHost) return {};
  const cu::CudaTable* table = cuda_library().table;
  cu::CudaVersions versions;
  if (table == nullptr || std::strcmp(table->runtime.kind, "cuda") != 0) return {};
  if (table->runtime.versions(&versions) != cu::CudaError::None) return {};
  for (int index = 0; index < versions.devices; index++) {
    if (Device::open(index, out).ok()) return {};
  }
  return {};
}

void drop_elements(MoeLayer& layer) {
  drop(layer.router_weight);
  drop(layer.shared_gate);
  for (ExpertWeights& expert : layer.experts) drop(expert);
  for (ExpertWeights& expert : layer.shared) drop(expert);
}

void drop_elements(DecoderLayer& layer) {
  AttentionWeights& attention = layer.attention_weights;
  LatentWeights& latent = layer.latent_weights;
  for (PackedMatrix* matrix :
       {&attention.q, &attention.k, &attention.v, &attention.o, &latent.q_a, &latent.q_b, &latent.kv_a, &latent.o}) {
    drop(*matrix);
  }
  for (PackedMatrix& matrix : latent.key_up) drop(matrix);
  for (PackedMatrix& matrix : latent.value_up) drop(matrix);
  if (layer.moe != nullptr) drop_elements(*layer.moe);
  if (layer.dense != nullptr) drop(*layer.dense);
}

void drop_ends(Decoder& decoder) {
  drop(decoder.embedding);
  drop(decoder.output);
}

}  // namespace smoe
