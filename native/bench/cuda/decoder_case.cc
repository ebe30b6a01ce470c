#include "decoder_case.h"

#include <chrono>
#include <cstring>
#include <random>
#include <thread>

#include "decoder/device_decoder.h"
#include "prepare/quantize.h"

namespace smoe::bench {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// A decoder of random weights. One layer is made and uploaded as often as there are layers, and one expert's matrices
// serve for all of its experts: what is read on the device are copies of their own.
class RandomDecoder {
 public:
  RandomDecoder(const DecoderShape& shape, bool w4, ThreadPool& pool) : shape_(shape), w4_(w4), pool_(pool) {}

  Status ends(Decoder* out) {
    out->vocab = shape_.vocab;
    out->hidden = shape_.moe.hidden;
    out->precision = Precision::Fast;
    out->final_norm = norm(shape_.moe.hidden);
    SMOE_RETURN_IF_ERROR(matrix(shape_.vocab, shape_.moe.hidden, &out->embedding));
    return matrix(shape_.vocab, shape_.moe.hidden, &out->output);
  }

  Status layer(DecoderLayer* out) {
    const int64_t hidden = shape_.moe.hidden, q = int64_t{shape_.heads} * shape_.head_dim,
                  kv = int64_t{shape_.kv_heads} * shape_.head_dim;
    out->attention_norm = norm(hidden);
    out->ffn_norm = norm(hidden);
    AttentionConfig& attention = out->attention;
    attention.heads = shape_.heads;
    attention.kv_heads = shape_.kv_heads;
    attention.head_dim = shape_.head_dim;
    attention.qk_norm = shape_.full_norm ? QkNorm::Full : QkNorm::PerHead;
    attention.scale = 1 / std::sqrt(static_cast<float>(shape_.head_dim));
    const int half = shape_.head_dim / 2;
    for (int i = 0; i < half; ++i) {
      attention.inv_freq.push_back(std::pow(10000.0f, -static_cast<float>(i) / static_cast<float>(half)));
    }
    AttentionWeights& weights = out->attention_weights;
    weights.q_norm.assign(static_cast<size_t>(shape_.full_norm ? q : shape_.head_dim), 1.0f);
    weights.k_norm.assign(static_cast<size_t>(shape_.full_norm ? kv : shape_.head_dim), 1.0f);
    SMOE_RETURN_IF_ERROR(matrix(q, hidden, &weights.q));
    SMOE_RETURN_IF_ERROR(matrix(kv, hidden, &weights.k));
    SMOE_RETURN_IF_ERROR(matrix(kv, hidden, &weights.v));
    SMOE_RETURN_IF_ERROR(matrix(hidden, q, &weights.o));
    return experts(out);
  }

 private:
  Status experts(DecoderLayer* out) {
    const int64_t hidden = shape_.moe.hidden, width = shape_.moe.width;
    out->moe = std::make_unique<MoeLayer>();
    MoeLayer& moe = *out->moe;
    moe.config.hidden = hidden;
    moe.config.precision = Precision::Fast;
    moe.config.router.experts = shape_.moe.experts;
    moe.config.router.k = shape_.moe.k;
    moe.config.router.norm_p = 1;
    SMOE_RETURN_IF_ERROR(matrix(shape_.moe.experts, hidden, &moe.router_weight));
    moe.experts.resize(static_cast<size_t>(shape_.moe.experts));
    SMOE_RETURN_IF_ERROR(of_each(width, hidden, moe, &ExpertWeights::gate));
    SMOE_RETURN_IF_ERROR(of_each(width, hidden, moe, &ExpertWeights::up));
    return of_each(hidden, width, moe, &ExpertWeights::down);
  }

  Status of_each(int64_t rows, int64_t cols, MoeLayer& moe, PackedMatrix ExpertWeights::* which) {
    const std::vector<float> w = values(rows, cols);
    QuantizedMatrix codes;
    if (w4_) {
      QuantizeOptions options;
      options.format = WeightFormat::W4;
      options.group = 128;
      options.method = QuantizeMethod::Rtn;
      QuantizeReport report;
      SMOE_RETURN_IF_ERROR(quantize(w.data(), rows, cols, options, nullptr, pool_, nullptr, &codes, &report));
    }
    for (ExpertWeights& expert : moe.experts) {
      PackedMatrix* const out = &(expert.*which);
      SMOE_RETURN_IF_ERROR(w4_ ? pack_quantized(codes, out)
                               : pack({w.data(), Dtype::F32, rows, cols}, WeightFormat::BF16, out));
    }
    return Status();
  }

  std::vector<float> values(int64_t rows, int64_t cols) {
    // Uniform, of variance 1 / cols: what leaves a matrix is as large as what enters it.
    const float scale = std::sqrt(12.0f / static_cast<float>(cols)) / 16777216.0f;
    std::vector<float> out(static_cast<size_t>(rows * cols));
    for (float& value : out) value = (static_cast<float>(random_() & 0xFFFFFF) - 8388608.0f) * scale;
    return out;
  }
  Status matrix(int64_t rows, int64_t cols, PackedMatrix* out) {
    return pack({values(rows, cols).data(), Dtype::F32, rows, cols}, WeightFormat::BF16, out);
  }
  static NormWeights norm(int64_t width) {
    NormWeights norm;
    norm.weight.assign(static_cast<size_t>(width), 1.0f);
    return norm;
  }

  const DecoderShape& shape_;
  bool w4_;
  ThreadPool& pool_;
  std::minstd_rand random_{1};
};

Status make(const DecoderCase& c, std::unique_ptr<DeviceDecoder>* out) {
  ThreadPool pool(static_cast<int>(std::max(1u, std::thread::hardware_concurrency())));
  RandomDecoder random(c.shape, std::strcmp(c.format, "w4") == 0, pool);
  std::shared_ptr<Device> device;
  SMOE_RETURN_IF_ERROR(Device::open(0, &device));
  {
    Decoder ends;
    SMOE_RETURN_IF_ERROR(random.ends(&ends));
    SMOE_RETURN_IF_ERROR(DeviceDecoder::create(std::move(device), ends, pool, nullptr, out));
  }
  DecoderLayer layer;
  SMOE_RETURN_IF_ERROR(random.layer(&layer));
  for (int i = 0; i < c.shape.layers; ++i) SMOE_RETURN_IF_ERROR((*out)->add_layer(layer, pool, nullptr));
  return Status();
}

// Of weights, for one token: attention, router and experts of every layer, and the output projection.
double token_bytes(const DecoderCase& c) {
  const DecoderShape& s = c.shape;
  const double hidden = static_cast<double>(s.moe.hidden), width = static_cast<double>(s.moe.width);
  const double weight = std::strcmp(c.format, "w4") == 0 ? 0.5 + 2.0 / 128 : 2;
  const double attention = 2 * hidden * s.head_dim * (2 * s.heads + 2 * s.kv_heads);
  const double layer = attention + 2 * hidden * s.moe.experts + 3 * hidden * width * s.moe.k * weight;
  return s.layers * layer + 2 * hidden * static_cast<double>(s.vocab);
}

Json describe(const DecoderCase& c, const char* kind) {
  Json line;
  line.add("case", kind).add("shape", c.shape.moe.name).add("format", c.format).add("layers", c.shape.layers);
  return line;
}

// Seconds of every step after the first few, in which kernels are loaded and the graph is recorded; sorted.
Status time_steps(const DecoderCase& c, DeviceDecoder& decoder, DeviceKvCache& cache, int32_t id,
                  std::vector<double>* seconds) {
  for (int64_t i = 0; i < c.steps + kWarmUps; ++i) {
    Decoder::Forward args;
    args.ids = &id;
    args.tokens = 1;
    int32_t next = -1;
    const double start = now();
    SMOE_RETURN_IF_ERROR(decoder.step(args, Sampling(), cache, &next));
    if (i >= kWarmUps) seconds->push_back(now() - start);
    id = next;
  }
  std::sort(seconds->begin(), seconds->end());
  return Status();
}

Status measure(const DecoderCase& c, const Ceilings& ceilings, std::vector<Json>* lines) {
  const double start = now();
  std::unique_ptr<DeviceDecoder> decoder;
  SMOE_RETURN_IF_ERROR(make(c, &decoder));
  const double load = now() - start;
  std::vector<int32_t> ids(static_cast<size_t>(c.prompt));
  for (size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<int32_t>(static_cast<int64_t>(i * 7919) % c.shape.vocab);
  }
  int32_t token = 0;
  double prefill = 0;
  std::unique_ptr<DeviceKvCache> cache;
  for (int i = 0; i < 2; ++i) {  // the first one loads kernels
    cache = decoder->make_cache(c.prompt + c.steps + kWarmUps + 1);
    Decoder::Forward prompt;
    prompt.ids = ids.data();
    prompt.tokens = c.prompt;
    const double begin = now();
    SMOE_RETURN_IF_ERROR(decoder->step(prompt, Sampling(), *cache, &token));
    prefill = now() - begin;
  }
  lines->push_back(describe(c, "decoder prefill"));
  lines->back().add("tokens", c.prompt).add("ms", prefill * 1e3);
  lines->back().add("tokens_s", static_cast<double>(c.prompt) / prefill).add("load_s", load);
  std::vector<double> seconds;
  SMOE_RETURN_IF_ERROR(time_steps(c, *decoder, *cache, token, &seconds));
  // Keys and values of the context, in the middle of the steps.
  const double context = static_cast<double>(c.prompt) + static_cast<double>(c.steps) / 2;
  const double kv = 4.0 * c.shape.layers * c.shape.kv_heads * c.shape.head_dim * context;
  const double bytes = token_bytes(c) + kv, step = median(seconds);
  Json line = describe(c, "decoder");
  line.add("context", context).add("steps", c.steps).add("graphs", decoder->graphs());
  line.add("us_median", step * 1e6).add("us_p99", percentile99(seconds) * 1e6).add("tokens_s", 1 / step);
  line.add("mb", bytes / 1e6).add("roofline_us", bytes / ceilings.read_bytes * 1e6);
  lines->push_back(line.add("ratio", bytes / ceilings.read_bytes / step));
  return Status();
}

}  // namespace

const std::vector<DecoderShape>& decoder_shapes() {
  static const std::vector<DecoderShape> shapes = [] {
    const std::vector<MoeShape>& moe = bench_shapes();
    return std::vector<DecoderShape>{{moe[0], 16, 16, 128, true, 50304, 16},
                                     {moe[1], 32, 4, 128, false, 151936, 12},
                                     {moe[2], 32, 8, 128, false, 32000, 4}};
  }();
  return shapes;
}

std::vector<Json> run_decoder(const std::string& library, const DecoderCase& c, const Ceilings& ceilings) {
  set_cuda_library(library);
  if (cuda_library().table == nullptr) {
    return {describe(c, "decoder").add("skipped", "no plug-in: " + cuda_library().why)};
  }
  std::vector<Json> lines;
  const Status status = measure(c, ceilings, &lines);
  if (status.ok()) return lines;
  const char* const key = status.code() == Code::OutOfMemory ? "skipped" : "error";
  lines.push_back(describe(c, "decoder").add(key, status.message()));
  return lines;
}

}  // namespace smoe::bench
