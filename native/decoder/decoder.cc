#include "decoder/decoder.h"

#include "decoder/attention.h"
#include "decoder/check_tokens.h"
#include "decoder/chunk.h"
#include "decoder/dense_ffn.h"
#include "decoder/head.h"
#include "decoder/rows.h"
#include "decoder/trace.h"

namespace smoe {
namespace {

void add_rows(const KernelTable& kernels, ThreadPool& pool, const float* y, int64_t rows, int64_t h, float* x) {
  for_rows(pool, rows, h, [&](int64_t row) { kernels.add(x + row * h, y + row * h, h, x + row * h); });
}

void norm_rows(const KernelTable& kernels, ThreadPool& pool, const NormWeights& norm, const float* x, int64_t rows,
               int64_t h, float* out) {
  for_rows(pool, rows, h, [&](int64_t row) { norm_row(kernels, norm, x + row * h, h, out + row * h); });
}

Status check_args(const Decoder& decoder, const Decoder::Forward& args) {
  if (args.cache == nullptr) return error(Code::InvalidArgument, "a KV cache is needed");
  if (args.cache->layers() != static_cast<int>(decoder.layers.size()) ||
      !(args.cache->shape() == decoder.layers.front().attention.cache_shape()) ||
      args.cache->bf16() != (decoder.precision == Precision::Fast)) {
    return error(Code::InvalidArgument, "the KV cache was made for another model or precision");
  }
  return check_tokens(decoder, args);
}

// The main path: embed -> layers -> final norm -> logits, for tokens [first, first + n) of the call.
Status forward_chunk(const Decoder& decoder, const Decoder::Forward& args, int64_t first, int64_t n,
                     const KernelTable& kernels, ThreadPool& pool, Workspace& workspace) {
  const int64_t h = decoder.hidden, position = args.cache->length();
  Chunk chunk = take_chunk(decoder, n, workspace);
  for_rows(pool, n, h, [&](int64_t row) { unpack_row(decoder.embedding, args.ids[first + row], chunk.x + row * h); });

  int moe_index = 0;
  for (size_t index = 0; index < decoder.layers.size(); ++index) {
    const DecoderLayer& layer = decoder.layers[index];
    if (cancelled(args.cancel)) return Status(Code::Cancelled, "cancelled");

    norm_rows(kernels, pool, layer.attention_norm, chunk.x, n, h, chunk.u);
    update_rope(layer.attention, position, n, &chunk.rope);
    AttentionArgs attend;
    attend.config = &layer.attention;
    attend.weights = &layer.attention_weights;
    attend.latent_weights = &layer.latent_weights;
    attend.precision = decoder.precision;
    attend.x = chunk.u;
    attend.tokens = n;
    attend.position = position;
    attend.cache = args.cache;
    attend.layer = static_cast<int>(index);
    attend.rope = &chunk.rope;
    attend.out = chunk.y;
    attention(kernels, pool, attend, workspace);
    add_rows(kernels, pool, chunk.y, n, h, chunk.x);

    norm_rows(kernels, pool, layer.ffn_norm, chunk.x, n, h, chunk.u);
    look_ahead(decoder, kernels, pool, moe_index, n, &chunk);
    if (layer.moe == nullptr) {
      SMOE_RETURN_IF_ERROR(dense_ffn(kernels, pool, *layer.dense, layer.dense_activation, decoder.precision, chunk.u, n,
                                     chunk.y, args.cancel, workspace));
      add_rows(kernels, pool, chunk.y, n, h, chunk.x);
      continue;
    }
    MoeLayer::Forward moe = moe_args(decoder, args, moe_index, n, chunk);
    TraceChunk trace(args.trace != nullptr ? &(*args.trace)[static_cast<size_t>(moe_index)] : nullptr, first, n);
    if (args.trace != nullptr) trace.begin(&moe);
    SMOE_RETURN_IF_ERROR(layer.moe->forward(moe, kernels, pool, workspace.nested()));
    if (args.trace != nullptr) trace.end(moe);
    ++moe_index;
  }

  if (cancelled(args.cancel)) return Status(Code::Cancelled, "cancelled");
  const HeadArgs rows = head_args(decoder, args, first, n, chunk);
  if (rows.rows > 0) head(decoder, kernels, pool, rows, workspace);
  args.cache->set_length(position + n);
  return Status();
}

}  // namespace

Status Decoder::forward(const Forward& args, const KernelTable& kernels, ThreadPool& pool, Workspace& workspace) const {
  SMOE_RETURN_IF_ERROR(check_args(*this, args));
  const int64_t before = args.cache->length(), end = before + args.tokens;
  SMOE_RETURN_IF_ERROR(args.cache->reserve(end));
  const int64_t longest = std::min(args.tokens, kChunkTokens);
  SMOE_RETURN_IF_ERROR(workspace.reserve(chunk_bytes(*this, longest, end, pool.max_size())));
  if (args.trace != nullptr) size_traces(*this, args.tokens, args.trace);
  for (int64_t first = 0; first < args.tokens; first += kChunkTokens) {
    workspace.reset();
    const Status status =
        forward_chunk(*this, args, first, std::min(kChunkTokens, args.tokens - first), kernels, pool, workspace);
    if (!status.ok()) {
      args.cache->truncate(before);
      return status;
    }
  }
  return Status();
}

int Decoder::moe_layers() const {
  int count = 0;
  for (const DecoderLayer& layer : layers) count += layer.moe != nullptr;
  return count;
}

int64_t Decoder::max_experts() const {
  int64_t most = 0;
  for (const DecoderLayer& layer : layers)
    if (layer.moe != nullptr) most = std::max(most, layer.moe->config.router.experts);
  return most;
}

KvCache Decoder::make_cache(int64_t capacity) const {
  return KvCache(static_cast<int>(layers.size()), layers.front().attention.cache_shape(), capacity, precision);
}

size_t Decoder::bytes() const {
  const auto floats = [](std::initializer_list<const std::vector<float>*> fields) {
    size_t total = 0;
    for (const std::vector<float>* field : fields) total += field->size() * sizeof(float);
    return total;
  };
  size_t total = embedding.bytes() + output.bytes() + floats({&final_norm.weight, &final_norm.bias});
  for (const DecoderLayer& layer : layers) {
    const AttentionWeights& weights = layer.attention_weights;
    total += weights.q.bytes() + weights.k.bytes() + weights.v.bytes() + weights.o.bytes();
    total += floats({&weights.q_bias, &weights.k_bias, &weights.v_bias, &weights.o_bias, &weights.q_norm,
                     &weights.k_norm, &weights.sinks, &layer.attention.inv_freq, &layer.attention_norm.weight,
                     &layer.attention_norm.bias, &layer.ffn_norm.weight, &layer.ffn_norm.bias});
    total += layer.latent_weights.bytes();
    if (layer.moe != nullptr) total += layer.moe->bytes();
    if (layer.dense != nullptr) total += layer.dense->bytes();
  }
  return total;
}

}  // namespace smoe
