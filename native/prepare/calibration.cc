#include "prepare/calibration.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace smoe {
namespace {

// Experts whose hidden units are made together: enough to fill the pool, few enough that their copies stay small.
constexpr int64_t kBatch = 8;

Status copy(const PackedMatrix& from, PackedMatrix* to) {
  if (from.empty()) return Status();
  if (from.format != WeightFormat::F32 && from.format != WeightFormat::BF16) {
    std::vector<float> values(static_cast<size_t>(from.rows * from.cols));
    for (int64_t r = 0; r < from.rows; ++r) unpack_row(from, r, values.data() + r * from.cols);
    return pack({values.data(), Dtype::F32, from.rows, from.cols}, WeightFormat::F32, to);
  }
  SMOE_RETURN_IF_ERROR(allocate_packed(from.rows, from.cols, from.format, to));
  std::memcpy(to->storage.data(), from.storage.data(), from.bytes());
  return Status();
}

// The expert with the identity in place of its down projection: what it puts out are its hidden units, by the very
// kernels that compute them when the model runs, so that no activation function has to be written a second time.
Status units_only(const ExpertWeights& expert, ExpertWeights* out) {
  SMOE_RETURN_IF_ERROR(copy(expert.gate, &out->gate));
  SMOE_RETURN_IF_ERROR(copy(expert.up, &out->up));
  out->gate_bias = expert.gate_bias;
  out->up_bias = expert.up_bias;
  const int64_t width = expert.up.rows;
  std::vector<float> identity(static_cast<size_t>(width * width), 0.0f);
  for (int64_t i = 0; i < width; ++i) identity[static_cast<size_t>(i * (width + 1))] = 1;
  return pack({identity.data(), Dtype::F32, width, width}, WeightFormat::F32, &out->down);
}

Status run_groups(const MoeLayer& layer, std::vector<ExpertGroup>* groups, const KernelTable& kernels, ThreadPool& pool,
                  Workspace& workspace, const CancelFlag* cancel) {
  size_t bytes = expert_items_bytes(static_cast<int64_t>(groups->size()), pool.max_size());
  for (const ExpertGroup& group : *groups) bytes += expert_group_bytes(*group.weights, group.rows) + 128;
  workspace.reset();
  SMOE_RETURN_IF_ERROR(workspace.reserve(bytes));
  ExpertFfnArgs args;
  args.groups = groups->data();
  args.count = static_cast<int64_t>(groups->size());
  args.activation = layer.config.activation;
  args.precision = layer.config.precision;
  args.cancel = cancel;
  return expert_ffn(kernels, pool, args, workspace);
}

// The rows of one layer's trace that one expert got.
struct Gathered {
  std::vector<const float*> rows;
  std::vector<float> weights;  // routing
  std::vector<float> scaled;   // weight_on_input: the inputs after it
};

std::vector<Gathered> gather(const LayerTrace& trace, int64_t hidden, bool weight_on_input) {
  std::vector<Gathered> experts(static_cast<size_t>(trace.experts));
  for (size_t pair = 0; pair < trace.ids.size(); ++pair) {
    if (trace.ids[pair] < 0) continue;
    Gathered& expert = experts[static_cast<size_t>(trace.ids[pair])];
    expert.rows.push_back(trace.input.data() + static_cast<int64_t>(pair) / trace.slots * hidden);
    expert.weights.push_back(trace.weights[pair]);
  }
  if (!weight_on_input) return experts;
  for (Gathered& expert : experts) {
    const auto h = static_cast<size_t>(hidden);
    expert.scaled.resize(expert.rows.size() * h);
    for (size_t r = 0; r < expert.rows.size(); ++r) {
      for (size_t k = 0; k < h; ++k) expert.scaled[r * h + k] = expert.weights[r] * expert.rows[r][k];
      expert.rows[r] = expert.scaled.data() + r * h;
    }
  }
  return experts;
}

// A uniform sample of `most` rows: where row number n goes, `kept` being there already; -1 for nowhere. It replaces a
// kept one with probability most / (n + 1). The draw is a hash of n, so that the sample depends on the texts only.
int64_t place_in_sample(uint64_t n, size_t kept, size_t most) {
  if (kept < most) return static_cast<int64_t>(kept);
  uint64_t x = (n + 1) * 0x9e3779b97f4a7c15u;  // splitmix64
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  const auto at = static_cast<size_t>((x ^ (x >> 31)) % (n + 1));
  return at < most ? static_cast<int64_t>(at) : -1;
}

void sample(const Gathered& rows, int64_t hidden, int64_t samples, bool weight_on_input, ExpertSums* sums) {
  const auto h = static_cast<size_t>(hidden), most = static_cast<size_t>(samples);
  for (size_t r = 0; r < rows.rows.size(); ++r) {
    const uint64_t n = static_cast<uint64_t>(sums->input.count) + r;
    const int64_t place = place_in_sample(n, sums->sample_weight.size(), most);
    if (place < 0) continue;
    const auto at = static_cast<size_t>(place);
    if (at == sums->sample_weight.size()) {
      sums->sample_weight.push_back(0);
      sums->sample.resize(sums->sample.size() + h);
    }
    sums->sample_weight[at] = weight_on_input ? 1 : rows.weights[r];
    std::copy_n(rows.rows[r], h, sums->sample.data() + at * h);
  }
}

// The input that norm, router and experts share.
void add_input(const LayerTrace& trace, int64_t hidden, int64_t samples, LayerSums* sums) {
  const auto h = static_cast<size_t>(hidden);
  for (size_t t = 0; t < trace.count.size(); ++t) {
    const float* x = trace.input.data() + t * h;
    for (size_t j = 0; j < h; ++j) sums->input_max[j] = std::max(sums->input_max[j], std::fabs(x[j]));
    const int64_t at =
        place_in_sample(static_cast<uint64_t>(sums->tokens) + t, sums->sample.size() / h, static_cast<size_t>(samples));
    if (at < 0) continue;
    sums->sample.resize(std::max(sums->sample.size(), (static_cast<size_t>(at) + 1) * h));
    std::copy_n(x, h, sums->sample.data() + static_cast<size_t>(at) * h);
  }
  sums->tokens += static_cast<int64_t>(trace.count.size());
}

Status add_layer(const MoeLayer& layer, const LayerTrace& trace, int64_t samples, const KernelTable& kernels,
                 ThreadPool& pool, Workspace& workspace, const CancelFlag* cancel, LayerSums* sums) {
  const int64_t h = layer.config.hidden;
  const std::vector<Gathered> experts = gather(trace, h, layer.config.router.weight_on_input);
  add_input(trace, h, samples, sums);
  for (size_t first = 0; first < experts.size(); first += kBatch) {
    const size_t last = std::min(experts.size(), first + kBatch);
    std::vector<ExpertWeights> weights(last - first);
    std::vector<ExpertGroup> groups;
    std::vector<std::vector<float>> units(last - first);
    std::vector<std::vector<const float*>> unit_rows(last - first);
    std::vector<OuterJob> jobs;
    for (size_t e = first; e < last; ++e) {
      const Gathered& rows = experts[e];
      ExpertSums& own = sums->experts[e];
      if (rows.rows.empty()) continue;
      const auto count = static_cast<int64_t>(rows.rows.size()), width = layer.experts[e].up.rows;
      SMOE_RETURN_IF_ERROR(units_only(layer.experts[e], &weights[e - first]));
      units[e - first].resize(static_cast<size_t>(count * width));
      ExpertGroup group;
      group.weights = &weights[e - first];
      group.rows = count;
      group.inputs = rows.rows.data();
      group.out = units[e - first].data();
      groups.push_back(group);
      for (int64_t r = 0; r < count; ++r) unit_rows[e - first].push_back(group.out + r * width);
      jobs.push_back({&own.input, rows.rows.data(), count});
      jobs.push_back({&own.units, unit_rows[e - first].data(), count});
      for (float weight : rows.weights) own.weight += weight;
      sample(rows, h, samples, layer.config.router.weight_on_input, &own);
    }
    if (groups.empty()) continue;
    SMOE_RETURN_IF_ERROR(run_groups(layer, &groups, kernels, pool, workspace, cancel));
    SMOE_RETURN_IF_ERROR(accumulate(pool, jobs, cancel));
  }
  return Status();
}

}  // namespace

Status Calibration::init(const Decoder& decoder, const CalibrationConfig& config) {
  if (config.samples < 0) return error(Code::InvalidArgument, "samples must not be negative");
  const int last = config.last_layer < 0 ? static_cast<int>(decoder.layers.size()) : config.last_layer;
  samples_ = config.samples;
  spoiled_ = false;
  layers.clear();
  int moe_index = 0;
  for (int i = 0; i < static_cast<int>(decoder.layers.size()); ++i) {
    const MoeLayer* moe = decoder.layers[static_cast<size_t>(i)].moe.get();
    if (moe == nullptr) continue;
    const int index = moe_index++;
    if (i < config.first_layer || i >= last) continue;
    LayerSums sums;
    sums.layer = i;
    sums.moe_index = index;
    sums.experts.resize(moe->experts.size());
    sums.input_max.assign(static_cast<size_t>(moe->config.hidden), 0.0f);
    for (size_t e = 0; e < sums.experts.size(); ++e) {
      SMOE_RETURN_IF_ERROR(sums.experts[e].input.resize(moe->config.hidden));
      SMOE_RETURN_IF_ERROR(sums.experts[e].units.resize(moe->experts[e].up.rows));
    }
    layers.push_back(std::move(sums));
  }
  if (layers.empty()) return error(Code::InvalidArgument, "no MoE layer in [%d, %d)", config.first_layer, last);
  return Status();
}

Status Calibration::add(const Decoder& decoder, const int32_t* ids, int64_t tokens, const KernelTable& kernels,
                        ThreadPool& pool, Workspace& workspace, const CancelFlag* cancel) {
  if (spoiled_) return error(Code::InvalidArgument, "an earlier calibration call stopped half-way: begin a new one");
  std::vector<LayerTrace> trace;
  KvCache cache = decoder.make_cache(tokens);
  Decoder::Forward args;
  args.ids = ids;
  args.tokens = tokens;
  args.cache = &cache;
  args.trace = &trace;
  args.cancel = cancel;
  SMOE_RETURN_IF_ERROR(decoder.forward(args, kernels, pool, workspace));
  for (LayerSums& sums : layers) {
    const MoeLayer& layer = *decoder.layers[static_cast<size_t>(sums.layer)].moe;
    const Status status = cancelled(cancel) ? Status(Code::Cancelled, "cancelled")
                                            : add_layer(layer, trace[static_cast<size_t>(sums.moe_index)], samples_,
                                                        kernels, pool, workspace, cancel, &sums);
    if (!status.ok()) {
      spoiled_ = true;
      return status;
    }
  }
  return Status();
}

const LayerSums* Calibration::find(int layer) const {
  for (const LayerSums& sums : layers)
    if (sums.layer == layer) return &sums;
  return nullptr;
}

size_t Calibration::bytes() const {
  size_t total = 0;
  for (const LayerSums& sums : layers) {
    total += (sums.input_max.size() + sums.sample.size()) * 4;
    for (const ExpertSums& expert : sums.experts)
      total += expert.input.bytes() + expert.units.bytes() + (expert.sample.size() + expert.sample_weight.size()) * 4;
  }
  return total;
}

namespace {

// The replaced matrix in f32, or a copy of the packed one.
Status place(const PackedMatrix& original, const QuantizedMatrix* replacement, PackedMatrix* out) {
  if (replacement == nullptr) return copy(original, out);
  if (replacement->rows != original.rows || replacement->cols != original.cols)
    return error(Code::ShapeMismatch, "a replacement must have the shape of the matrix it replaces");
  std::vector<float> values(static_cast<size_t>(original.rows * original.cols));
  for (int64_t r = 0; r < original.rows; ++r) dequantize_row(*replacement, r, values.data() + r * original.cols);
  return pack({values.data(), Dtype::F32, original.rows, original.cols}, WeightFormat::F32, out);
}

}  // namespace

Status expert_error(const MoeLayer& layer, const ExpertSums& sums, const ExpertWeights& expert,
                    const ExpertReplacement& replacement, const float* input_scale, const KernelTable& kernels,
                    ThreadPool& pool, Workspace& workspace, const CancelFlag* cancel, double* out, double* scale) {
  const int64_t h = layer.config.hidden, count = static_cast<int64_t>(sums.sample_weight.size());
  *out = 0;
  if (scale != nullptr) *scale = 0;
  if (count == 0) return Status();
  ExpertWeights changed;
  changed.gate_bias = expert.gate_bias;
  changed.up_bias = expert.up_bias;
  changed.down_bias = expert.down_bias;
  SMOE_RETURN_IF_ERROR(place(expert.up, replacement.up, &changed.up));
  if (!expert.gate.empty()) SMOE_RETURN_IF_ERROR(place(expert.gate, replacement.gate, &changed.gate));
  if (!expert.gate.empty() && changed.gate.format != changed.up.format)
    return error(Code::InvalidArgument, "gate and up must be replaced together");
  SMOE_RETURN_IF_ERROR(place(expert.down, replacement.down, &changed.down));
  std::vector<float> scaled;
  if (input_scale != nullptr) {
    scaled = sums.sample;
    for (size_t i = 0; i < scaled.size(); ++i) scaled[i] /= input_scale[i % static_cast<size_t>(h)];
  }
  std::vector<const float*> rows[2];
  for (int64_t r = 0; r < count; ++r) {
    rows[0].push_back(sums.sample.data() + r * h);
    rows[1].push_back((scaled.empty() ? sums.sample : scaled).data() + r * h);
  }
  std::vector<float> before(static_cast<size_t>(count * h)), after(before.size());
  for (int pass = 0; pass < 2; ++pass) {
    std::vector<ExpertGroup> groups(1);
    groups[0].weights = pass == 0 ? &expert : &changed;
    groups[0].rows = count;
    groups[0].inputs = rows[pass].data();
    groups[0].out = pass == 0 ? before.data() : after.data();
    SMOE_RETURN_IF_ERROR(run_groups(layer, &groups, kernels, pool, workspace, cancel));
  }
  for (size_t i = 0; i < before.size(); ++i) {
    const double weight = sums.sample_weight[i / static_cast<size_t>(h)], y = weight * before[i];
    const double e = y - weight * after[i];
    *out += e * e / static_cast<double>(count);
    if (scale != nullptr) *scale += y * y / static_cast<double>(count);
  }
  return Status();
}

Status blend_with_layer(const LayerSums& layer, int64_t expert, double strength, OuterSum* out) {
  const OuterSum& own = layer.experts[static_cast<size_t>(expert)].input;
  SMOE_RETURN_IF_ERROR(out->resize(own.size));
  double rows = 0;
  for (const ExpertSums& other : layer.experts) rows += static_cast<double>(other.input.count);
  if (rows == 0) return Status();
  // As a sum over n_e + strength rows, since OuterSum holds sums.
  for (const ExpertSums& other : layer.experts)
    for (size_t i = 0; i < out->lower.size(); ++i) out->lower[i] += other.input.lower[i] * (strength / rows);
  for (size_t i = 0; i < out->lower.size(); ++i) out->lower[i] += own.lower[i];
  out->count = own.count + static_cast<int64_t>(strength);
  return Status();
}

}  // namespace smoe
