#include "decoder/device_weights.h"

#include <algorithm>

namespace smoe {
namespace {

// Columns of a lane of attend_split, four each in 512.
constexpr int kMaxValueDim = 512;

size_t sum_bytes(std::initializer_list<const DeviceMatrix*> matrices, std::initializer_list<const DeviceBuffer*> rest) {
  size_t total = 0;
  for (const DeviceMatrix* matrix : matrices) total += matrix->bytes();
  for (const DeviceBuffer* buffer : rest) total += buffer->bytes();
  return total;
}

// Where every upload of a layer goes.
struct Upload {
  Device& device;
  Precision precision;
  ThreadPool& pool;
  const CancelFlag* cancel;

  Status matrix(const PackedMatrix& from, DeviceMatrix* to) const {
    return upload_matrix(device, from, precision, pool, cancel, to);
  }
  Status stacked(const std::vector<const PackedMatrix*>& from, DeviceMatrix* to) const {
    return upload_stacked(device, from, precision, pool, cancel, to);
  }
  Status batch(const std::vector<PackedMatrix>& from, DeviceMatrix* to) const {
    return upload_batch(device, from, precision, pool, cancel, to);
  }
  Status floats(const std::vector<float>& from, DeviceBuffer* to) const { return upload_floats(device, from, to); }
  Status norm(const NormWeights& from, DeviceNorm* to) const {
    to->kind = from.kind == NormKind::Rms ? cu::RowNorm::Rms : cu::RowNorm::Layer;
    to->eps = from.eps;
    SMOE_RETURN_IF_ERROR(floats(from.weight, &to->weight));
    return floats(from.bias, &to->bias);
  }
};

Status check_multiple(size_t index, const char* name, int64_t size, int64_t of) {
  if (size % of == 0) return Status();
  return error(Code::InvalidArgument, "layer %zu %s must be a multiple of %lld on a CUDA device, got %lld", index, name,
               static_cast<long long>(of), static_cast<long long>(size));
}
// Tensor cores read rows of activations two columns at a time, so every row must start on an even element.
Status check_even(size_t index, const char* name, int64_t size) { return check_multiple(index, name, size, 2); }

Status check_value_dim(size_t index, int64_t size) {
  if (size <= kMaxValueDim) return Status();
  return error(Code::InvalidArgument,
               "layer %zu values of attention have at most %d elements on a CUDA device, got %lld", index, kMaxValueDim,
               static_cast<long long>(size));
}

Status check_sizes(const DecoderLayer& from, size_t index) {
  const AttentionConfig& config = from.attention;
  const LatentConfig& latent = config.latent;
  // DeviceMoeLayer::row_width(): its rows are the decoder's.
  SMOE_RETURN_IF_ERROR(
      check_multiple(index, "hidden size", static_cast<int64_t>(from.attention_norm.weight.size()), 8));
  if (latent.kv_rank == 0) {
    SMOE_RETURN_IF_ERROR(check_even(index, "heads * headDim", int64_t{config.heads} * config.head_dim));
    return check_value_dim(index, config.head_dim);
  }
  SMOE_RETURN_IF_ERROR(check_even(index, "qRank", latent.q_rank));
  SMOE_RETURN_IF_ERROR(check_even(index, "kvRank", latent.kv_rank));
  SMOE_RETURN_IF_ERROR(check_even(index, "nopeDim", latent.nope_dim));
  SMOE_RETURN_IF_ERROR(check_even(index, "heads * valueDim", int64_t{config.heads} * latent.v_dim));
  return check_value_dim(index, latent.kv_rank);
}

// Biases below each other as their matrices are; zeros for one that is missing beside another.
std::vector<float> stacked_bias(std::initializer_list<std::pair<const std::vector<float>*, int64_t>> parts) {
  std::vector<float> all;
  bool any = false;
  for (const auto& [bias, rows] : parts) {
    any = any || !bias->empty();
    all.insert(all.end(), bias->begin(), bias->end());
    if (bias->empty()) all.resize(all.size() + static_cast<size_t>(rows));
  }
  return any ? all : std::vector<float>();
}

Status upload_attention(const Upload& up, const AttentionWeights& from, DeviceAttention* to) {
  SMOE_RETURN_IF_ERROR(up.stacked({&from.q, &from.k, &from.v}, &to->qkv));
  SMOE_RETURN_IF_ERROR(up.matrix(from.o, &to->o));
  SMOE_RETURN_IF_ERROR(
      up.floats(stacked_bias({{&from.q_bias, from.q.rows}, {&from.k_bias, from.k.rows}, {&from.v_bias, from.v.rows}}),
                &to->qkv_bias));
  SMOE_RETURN_IF_ERROR(up.floats(from.o_bias, &to->o_bias));
  SMOE_RETURN_IF_ERROR(up.floats(from.q_norm, &to->q_norm));
  SMOE_RETURN_IF_ERROR(up.floats(from.k_norm, &to->k_norm));
  return up.floats(from.sinks, &to->sinks);
}

Status upload_latent(const Upload& up, const LatentWeights& from, DeviceLatent* to) {
  if (!from.q_a.empty()) SMOE_RETURN_IF_ERROR(up.matrix(from.q_a, &to->q_a));
  SMOE_RETURN_IF_ERROR(up.matrix(from.q_b, &to->q_b));
  SMOE_RETURN_IF_ERROR(up.matrix(from.kv_a, &to->kv_a));
  SMOE_RETURN_IF_ERROR(up.batch(from.key_up, &to->key_up));
  SMOE_RETURN_IF_ERROR(up.batch(from.value_up, &to->value_up));
  SMOE_RETURN_IF_ERROR(up.matrix(from.o, &to->o));
  SMOE_RETURN_IF_ERROR(up.floats(from.q_a_bias, &to->q_a_bias));
  SMOE_RETURN_IF_ERROR(up.floats(from.kv_a_bias, &to->kv_a_bias));
  SMOE_RETURN_IF_ERROR(up.floats(from.o_bias, &to->o_bias));
  SMOE_RETURN_IF_ERROR(up.floats(from.q_norm, &to->q_norm));
  return up.floats(from.kv_norm, &to->kv_norm);
}

// Units past the expert's own have weights and biases of zero, and every activation maps those to zero.
Status upload_dense(const Upload& up, const ExpertWeights& from, const ActivationSpec& activation, bool glu,
                    DeviceDense* to) {
  const int64_t unit = glu ? 8 : 16;
  to->activation = activation;
  to->glu = glu;
  to->width = (from.up.rows + unit - 1) / unit * unit;
  if (glu) {
    SMOE_RETURN_IF_ERROR(
        upload_gate_up(up.device, from.gate, from.up, to->width, up.precision, up.pool, up.cancel, &to->up));
  } else {
    SMOE_RETURN_IF_ERROR(up.matrix(from.up, &to->up));
  }
  SMOE_RETURN_IF_ERROR(upload_bytes(up.device, &to->up.view, sizeof(to->up.view), &to->table));
  SMOE_RETURN_IF_ERROR(up.matrix(from.down, &to->down));
  const auto padded = [&](std::vector<float> bias) {
    if (!bias.empty()) bias.resize(static_cast<size_t>(to->width));
    return bias;
  };
  SMOE_RETURN_IF_ERROR(up.floats(padded(from.gate_bias), &to->gate_bias));
  SMOE_RETURN_IF_ERROR(up.floats(padded(from.up_bias), &to->up_bias));
  SMOE_RETURN_IF_ERROR(up.floats(from.down_bias, &to->down_bias));
  to->bf16_only = activation_parts(up.precision) == 1 && to->up.view.format == cu::AtomFormat::Bf16;
  return Status();
}

// The embedding kernel takes rows of plain values; codes are decoded.
Status upload_embedding(const Upload& up, const PackedMatrix& from, DeviceMatrix* to) {
  if (!from.quantized()) return up.matrix(from, to);
  PackedMatrix plain;
  SMOE_RETURN_IF_ERROR(allocate_packed(from.rows, from.cols, WeightFormat::F32, &plain));
  std::vector<float> rows(static_cast<size_t>(kTileRows * from.cols));
  for (int64_t tile = 0; tile < from.tiles(); ++tile) {
    const int64_t first = tile * kTileRows, count = std::min<int64_t>(kTileRows, from.rows - first);
    for (int64_t row = 0; row < count; ++row) unpack_row(from, first + row, rows.data() + row * from.cols);
    MatrixSource source{rows.data(), Dtype::F32, from.rows, from.cols};
    source.first = -first * from.cols;
    pack_tiles(source, &plain, tile, tile + 1);
  }
  return up.matrix(plain, to);
}

}  // namespace

size_t DeviceAttention::bytes() const { return sum_bytes({&qkv, &o}, {&qkv_bias, &o_bias, &q_norm, &k_norm, &sinks}); }

size_t DeviceLatent::bytes() const {
  return sum_bytes({&q_a, &q_b, &kv_a, &key_up, &value_up, &o}, {&q_a_bias, &kv_a_bias, &o_bias, &q_norm, &kv_norm});
}

size_t DeviceDense::bytes() const { return sum_bytes({&up, &down}, {&table, &gate_bias, &up_bias, &down_bias}); }

size_t DeviceLayer::bytes() const {
  return attention_norm.bytes() + ffn_norm.bytes() + inv_freq.bytes() + attention.bytes() + latent.bytes() +
         (moe != nullptr ? moe->bytes() : 0) + (dense != nullptr ? dense->bytes() : 0);
}

Status upload_ends(Device& device, const Decoder& from, ThreadPool& pool, const CancelFlag* cancel, DeviceEnds* out) {
  const Upload up{device, from.precision, pool, cancel};
  SMOE_RETURN_IF_ERROR(upload_embedding(up, from.embedding, &out->embedding));
  if (!from.output.empty()) SMOE_RETURN_IF_ERROR(up.matrix(from.output, &out->output));
  return up.norm(from.final_norm, &out->final_norm);
}

Status upload_layer(const std::shared_ptr<Device>& device, const DecoderLayer& from, size_t index, Precision precision,
                    ThreadPool& pool, const CancelFlag* cancel, DeviceLayer* out) {
  SMOE_RETURN_IF_ERROR(check_sizes(from, index));
  const Upload up{*device, precision, pool, cancel};
  SMOE_RETURN_IF_ERROR(up.norm(from.attention_norm, &out->attention_norm));
  SMOE_RETURN_IF_ERROR(up.norm(from.ffn_norm, &out->ffn_norm));
  SMOE_RETURN_IF_ERROR(up.floats(from.attention.inv_freq, &out->inv_freq));
  if (from.attention.latent.kv_rank > 0) {
    SMOE_RETURN_IF_ERROR(upload_latent(up, from.latent_weights, &out->latent));
  } else {
    SMOE_RETURN_IF_ERROR(upload_attention(up, from.attention_weights, &out->attention));
  }
  if (from.moe != nullptr) return DeviceMoeLayer::create(device, *from.moe, pool, cancel, &out->moe);
  out->dense = std::make_unique<DeviceDense>();
  return upload_dense(up, *from.dense, from.dense_activation, from.dense_glu, out->dense.get());
}

}  // namespace smoe
