#include "moe_rig.h"

#include <algorithm>
#include <cmath>

#include "kernels/experts/code_place.h"

namespace smoe::bench {
namespace {

using namespace cu;

constexpr int64_t kAtomBytes = 512;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t gate_up_blocks(const MoeShape& s) { return ceil_div(s.width, 8); }
int64_t down_blocks(const MoeShape& s) { return ceil_div(s.hidden, 16); }

int64_t atoms_in_row(const WeightFormatSpec& f, int64_t cols) { return ceil_div(cols, atom_cols(f.format)); }

int64_t atom_bytes(const WeightFormatSpec& f, int64_t blocks, int64_t cols) {
  return blocks * atoms_in_row(f, cols) * kAtomBytes;
}

int scale_size(ScaleType type) { return type == ScaleType::F32 ? 4 : type == ScaleType::F16 ? 2 : 1; }

// Groups of whole atoms.
int64_t scale_bytes(const WeightFormatSpec& f, int64_t blocks, int64_t cols) {
  if (f.group == 0) return 0;
  return blocks * ceil_div(atoms_in_row(f, cols) * atom_cols(f.format), f.group) * 16 * scale_size(f.scale_type);
}

// Of a format's planes: halves of what is before them, whose scales are all 1.
WeightFormatSpec plane_spec(const WeightFormatSpec& f) {
  return {f.name, AtomFormat::Signs, f.group, f.scale_type, false};
}

Fill fill_of(AtomFormat format) {
  switch (format) {
    case AtomFormat::Bf16:
      return Fill::Bf16;
    case AtomFormat::F8:
      return Fill::F8;
    case AtomFormat::T2:
      return Fill::T2;
    default:
      return Fill::Codes;
  }
}

// Of codes as they are drawn, about: so that sums of `cols` products stay near 1 in every format.
float code_deviation(AtomFormat format) {
  switch (format) {
    case AtomFormat::W8:
      return 74;
    case AtomFormat::W4:
      return 4.6f;
    case AtomFormat::F8:
      return 100;
    case AtomFormat::Mxfp4:
      return 2.9f;
    case AtomFormat::Signs:
      return 1.5f;
    default:
      return 0.75f;
  }
}

// The bits of 1 in every element of a word.
uint32_t scale_word(ScaleType type) {
  return type == ScaleType::F32 ? 0x3F800000u : type == ScaleType::F16 ? 0x3C003C00u : 0x7F7F7F7Fu;
}

}  // namespace

ExpertStack::ExpertStack(BenchDevice& device, const WeightFormatSpec& format, int experts, int64_t row_blocks,
                         int64_t cols, uint32_t seed)
    : atoms_(device, experts * atom_bytes(format, row_blocks, cols)),
      scales_(device, std::max<int64_t>(4, experts * scale_bytes(format, row_blocks, cols))) {
  const float deviation = 1 / std::sqrt(static_cast<float>(cols));
  if (atoms_.data() == nullptr || scales_.data() == nullptr) return;
  FillArgs fill;
  fill.to = reinterpret_cast<uint32_t*>(atoms_.data());
  fill.words = atoms_.size() / 4;
  fill.seed = seed;
  fill.kind = fill_of(format.format);
  fill.scale = deviation * std::sqrt(3.0f);  // uniform numbers in +-s deviate by s / sqrt(3)
  device.ok(fill_random(device.stream(), fill));
  if (format.group > 0) {
    device.ok(fill_random(device.stream(), {reinterpret_cast<uint32_t*>(scales_.data()), scales_.size() / 4,
                                            scale_word(format.scale_type), Fill::Word, 1}));
  }
  for (int e = 0; e < experts; ++e) {
    AtomMatrix matrix;
    matrix.atoms = reinterpret_cast<const U32x4*>(atoms_.data() + e * atom_bytes(format, row_blocks, cols));
    matrix.format = format.format;
    if (format.group > 0) {
      matrix.scales = scales_.data() + e * scale_bytes(format, row_blocks, cols);
      matrix.scale_type = format.scale_type;
      matrix.group = format.group;
      matrix.mul = deviation / code_deviation(format.format);
    }
    entries_.push_back(matrix);
  }
  if (format.planes > 0) add_planes(device, format, row_blocks, cols, seed);
  table_ = DeviceBlock<AtomMatrix>(device, entries_);
}

void ExpertStack::add_planes(BenchDevice& device, const WeightFormatSpec& format, int64_t row_blocks, int64_t cols,
                             uint32_t seed) {
  const int experts = static_cast<int>(entries_.size());
  zeros_ = {device, scales_.size()};
  if (zeros_.data() == nullptr) return;
  device.ok(
      fill_random(device.stream(), {reinterpret_cast<uint32_t*>(zeros_.data()), zeros_.size() / 4, 0, Fill::Word, 1}));
  std::vector<AtomMatrix> table;
  for (int plane = 0; plane < format.planes; ++plane) {
    planes_.emplace_back(device, plane_spec(format), experts, row_blocks, cols,
                         seed + 100 + static_cast<uint32_t>(plane));
  }
  for (int e = 0; e < experts; ++e) {
    for (int plane = 0; plane < format.planes; ++plane) {
      table.push_back(planes_[static_cast<size_t>(plane)].entries()[static_cast<size_t>(e)]);
      table.back().mul /= static_cast<float>(1 << plane);
    }
  }
  plane_table_ = DeviceBlock<AtomMatrix>(device, table);
  for (int e = 0; e < experts; ++e) {
    AtomMatrix& matrix = entries_[static_cast<size_t>(e)];
    matrix.zeros = zeros_.data() + e * scale_bytes(format, row_blocks, cols);
    matrix.planes = plane_table_.data() + e * format.planes;
    matrix.plane_count = format.planes;
  }
}

int64_t ExpertStack::bytes_per_expert(const WeightFormatSpec& format, int64_t row_blocks, int64_t cols) {
  const int64_t scales = scale_bytes(format, row_blocks, cols);
  int64_t bytes = atom_bytes(format, row_blocks, cols) + scales;
  if (format.planes == 0) return bytes;
  bytes += scales;  // of zero points
  return bytes + format.planes * bytes_per_expert(plane_spec(format), row_blocks, cols);
}

// The router's logits deviate by 1.28, as Gumbel noise does: with log(p) added, the k largest are then about a draw
// without replacement from p.
MoeWeights::MoeWeights(BenchDevice& device, const MoeShape& shape, const WeightFormatSpec& format, uint32_t seed)
    : gate_up(device, format, shape.experts, gate_up_blocks(shape), shape.hidden, seed),
      down(device, format, shape.experts, down_blocks(shape), shape.width, seed + 1),
      router(device, shape.experts * shape.hidden * 2) {
  if (router.data() == nullptr) return;
  const float scale = 1.28f * std::sqrt(3.0f / static_cast<float>(shape.hidden));
  device.ok(fill_random(device.stream(),
                        {reinterpret_cast<uint32_t*>(router.data()), router.size() / 4, seed + 2, Fill::Bf16, scale}));
}

int64_t MoeRig::expert_bytes(const MoeShape& s, const WeightFormatSpec& f) {
  return ExpertStack::bytes_per_expert(f, gate_up_blocks(s), s.hidden) +
         ExpertStack::bytes_per_expert(f, down_blocks(s), s.width);
}
int64_t MoeRig::set_bytes(const MoeShape& s, const WeightFormatSpec& f) {
  return s.experts * (expert_bytes(s, f) + 2 * s.hidden);
}
int64_t MoeRig::prefill_bytes(const MoeShape& s, const WeightFormatSpec& f, int64_t tokens) {
  const int64_t plans = tokens * s.k * 20 + tokens / 32 * 4 * s.experts;
  if (!f.int8) return plans + tokens * (s.k * (2 * s.width + 2 * s.hidden) + 10 * s.hidden);
  // h in f32 and in codes, y in f32; x in codes; a pair of scale and sum for each group of both.
  const int64_t of_h = 5 * s.width + 8 * int8_groups(s.width, f.group) + 4 * s.hidden;
  return plans + tokens * (s.k * of_h + 11 * s.hidden + 8 * int8_groups(s.hidden, f.group));
}

MoeRig::MoeRig(BenchDevice& device, const MoeShape& shape, const WeightFormatSpec& format, int sets, int layers,
               int64_t prefill_tokens)
    : device_(device),
      shape_(shape),
      format_(format),
      layers_(layers),
      rows_(std::max<int64_t>(kDispatchMaxTokens, prefill_tokens)),
      splits_(cu::route_splits(shape.experts, shape.hidden)) {
  const int64_t e = shape.experts, pairs = rows_ * shape.k, h = shape.hidden;
  for (int i = 0; i < sets; ++i) {
    sets_.push_back(std::make_unique<MoeWeights>(device, shape, format, 1000u * static_cast<uint32_t>(i) + 1));
  }
  x_ = {device, layers * rows_ * h};
  plane_ = {device, layers * rows_ * h};
  out_ = {device, rows_ * h};
  router_bias_ = {device, std::vector<float>(static_cast<size_t>(e), 0.0f)};
  partials_ = {device, std::max(splits_ * kDispatchMaxTokens * e, route_many_partials(rows_, e, splits_))};
  weights_ = {device, pairs};
  row_weight_ = {device, pairs};
  ids_ = {device, pairs};
  count_ = {device, rows_};
  offset_ = {device, e + 1};
  position_ = {device, pairs};
  token_ = {device, pairs};
  histogram_ = {device, ceil_div(rows_, kRouteManyTokens) * e};
  tickets_ = {device, std::vector<uint32_t>(9, 0)};
  mask_ = {device, std::vector<uint64_t>(static_cast<size_t>(layers * e), 0)};
  h_ = {device, format.int8 ? 1 : pairs * shape.width};
  y_ = {device, prefill_tokens > 0 && !format.int8 ? pairs * h : 1};
  if (format.int8) {
    x_codes_ = {device, rows_ * int8_stride(h)};
    x_scales_ = {device, rows_ * int8_groups(h, format.group)};
    h_codes_ = {device, pairs * int8_stride(shape.width)};
    h_scales_ = {device, pairs * int8_groups(shape.width, format.group)};
    h_f32_ = {device, pairs * shape.width};
    y_f32_ = {device, prefill_tokens > 0 ? pairs * h : 1};
  }
  // num_tokens[t] == t, so that a captured launch can point at any count.
  std::vector<int32_t> counts;
  for (int t = 0; t <= kDispatchMaxTokens; ++t) counts.push_back(t);
  num_tokens_ = {device, counts};
}

void MoeRig::set_skew(Skew skew) {
  skew_ = skew;
  std::vector<float> bias(static_cast<size_t>(shape_.experts), 0.0f);
  for (int e = 0; e < shape_.experts; ++e) {
    float& b = bias[static_cast<size_t>(e)];
    if (skew == Skew::Zipf) b = -std::log(static_cast<float>(e + 1));
    if (skew == Skew::SameExperts && e < shape_.k) b = 100;
    if (skew == Skew::OneHot && e == 0) b = 100;
  }
  router_bias_ = {device_, bias};
}

void MoeRig::draw(int64_t tokens, uint32_t seed) {
  for (int layer = 0; layer < layers_; ++layer) {
    const int64_t at = input_at(layer, 0);
    device_.ok(fill_activations(device_.stream(), {x_.data() + at, plane_.data() + at, tokens * shape_.hidden,
                                                   seed * 7919u + static_cast<uint32_t>(layer)}));
  }
}

Planes MoeRig::planes(int layer, int64_t first) const {
  return {plane_.data() + input_at(layer, first), rows_ * shape_.hidden, 1};
}

RouterConfig MoeRig::router_config() const {
  RouterConfig config;
  config.experts = shape_.experts;
  config.k = shape_.k;
  config.norm_p = 1;
  return config;
}

void MoeRig::decode(int layer, int tokens, int64_t first) {
  const CudaTable& table = device_.table();
  const MoeWeights& w = set_of(layer);
  const int buckets[] = {1, 2, 4, 8, 16, 32, 64};
  int max_tokens = kDispatchMaxTokens;
  for (int i = 6; i >= 0; --i) {
    if (buckets[i] >= tokens) max_tokens = buckets[i];
  }
  DispatchBits plan;
  plan.mask = mask_.data() + int64_t{layer} * shape_.experts;
  plan.offset = offset_.data();
  plan.row_weight = row_weight_.data();
  RouteDispatchArgs route;
  route.x = x_.data() + input_at(layer, first);
  route.w = w.router.data();
  route.router_bias = router_bias_.data();
  route.num_tokens = num_tokens_.data() + tokens;
  route.max_tokens = max_tokens;
  route.hidden = shape_.hidden;
  route.splits = splits_;
  route.config = router_config();
  route.partials = partials_.data();
  route.tickets = tickets_.data();
  route.routing = {ids_.data(), weights_.data(), count_.data()};
  route.plan = plan;
  GateUpArgs up;
  up.weights = w.gate_up.table();
  up.x = planes(layer, first);
  up.h = {h_.data(), h_.size(), 1};
  up.hidden = shape_.hidden;
  up.width = shape_.width;
  up.experts = shape_.experts;
  up.activation = Activation::Silu;
  up.bf16_only = format_.format == AtomFormat::Bf16;
  up.nested.any = format_.planes > 0;
  up.max_tokens = max_tokens;
  up.slots = shape_.k;
  up.blocks = 2 * device_.info().sms;
  up.plan = plan;
  DownCombineArgs down;
  down.weights = w.down.table();
  down.h = up.h;
  down.hidden = shape_.hidden;
  down.width = shape_.width;
  down.experts = shape_.experts;
  down.bf16_only = up.bf16_only;
  down.nested = up.nested;
  down.num_tokens = route.num_tokens;
  down.max_tokens = max_tokens;
  down.slots = shape_.k;
  down.out = out_.data();
  down.plan = plan;
  if (!device_.ok(table.route_dispatch(device_.stream(), &route))) return;
  if (format_.int8) {
    decode_int8(up, down, route.x);
    return;
  }
  device_.ok(table.gate_up(device_.stream(), &up)) && device_.ok(table.down_combine(device_.stream(), &down));
}

void MoeRig::prefill(int layer, int64_t tokens, bool hopper, int64_t first) {
  const CudaTable& table = device_.table();
  const MoeWeights& w = set_of(layer);
  void* const stream = device_.stream();
  const int64_t pairs = tokens * shape_.k;
  RouteManyArgs route;
  route.x = x_.data() + input_at(layer, first);
  route.w = w.router.data();
  route.router_bias = router_bias_.data();
  route.tokens = tokens;
  route.hidden = shape_.hidden;
  route.splits = splits_;
  route.config = router_config();
  route.partials = partials_.data();
  route.routing = {ids_.data(), weights_.data(), count_.data()};
  route.histogram = histogram_.data();
  ScatterArgs scatter;
  scatter.ids = ids_.data();
  scatter.weights = weights_.data();
  scatter.histogram = histogram_.data();
  scatter.tokens = tokens;
  scatter.slots = shape_.k;
  scatter.experts = shape_.experts;
  scatter.plan = {offset_.data(), token_.data(), position_.data(), row_weight_.data(), nullptr};
  GroupedGemmArgs up;
  up.weights = w.gate_up.table();
  up.experts = shape_.experts;
  up.k = shape_.hidden;
  up.features = shape_.width;
  up.glu = true;
  up.no_codes = up.bf16_only = format_.format == AtomFormat::Bf16;
  up.nested.any = format_.planes > 0;
  up.activation = Activation::Silu;
  up.x = planes(layer, first);
  up.x_stride = shape_.hidden;
  up.gather = token_.data();
  up.offset = offset_.data();
  up.max_rows = pairs;
  up.max_groups = static_cast<int>(std::min<int64_t>(shape_.experts, pairs));
  up.out = {h_.data(), h_.size(), 1};
  up.blocks = device_.info().sms;
  GroupedGemmArgs down = up;
  down.weights = w.down.table();
  down.k = shape_.width;
  down.features = shape_.hidden;
  down.glu = false;
  down.x = up.out;
  down.x_stride = shape_.width;
  down.gather = nullptr;
  down.out = {y_.data(), y_.size(), 1};
  CombineRowsArgs combine;
  combine.y = format_.int8 ? nullptr : y_.data();
  combine.y_f32 = y_f32_.data();
  combine.ids = ids_.data();
  combine.position = position_.data();
  combine.weights = weights_.data();
  combine.slots = shape_.k;
  combine.tokens = tokens;
  combine.hidden = shape_.hidden;
  combine.out = out_.data();
  const auto gemm = hopper ? table.grouped_gemm_hopper : table.grouped_gemm;
  const auto maps = [&] {
    return format_.int8 ? prefill_int8(up, down, route.x)
                        : device_.ok(gemm(stream, &up)) && device_.ok(gemm(stream, &down));
  };
  device_.ok(table.route_many(stream, &route)) && device_.ok(table.scatter(stream, &scatter)) && maps() &&
      device_.ok(table.combine_rows(stream, &combine));
}

std::vector<float> MoeRig::input(int layer, int64_t row, int64_t rows) const {
  std::vector<float> values;
  for (const bf16 v : plane_.download(input_at(layer, row), rows * shape_.hidden)) values.push_back(to_float(v));
  return values;
}

double MoeRig::active_experts(int layers) const {
  double sum = 0;
  for (const uint64_t mask : mask_.download(0, int64_t{layers} * shape_.experts)) sum += mask != 0;
  return sum;
}

}  // namespace smoe::bench
