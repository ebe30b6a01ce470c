#include "decoder/device_decoder.h"

#include <algorithm>
#include <cstring>

#include "decoder/check_tokens.h"
#include "decoder/chunk.h"
#include "decoder/device_graph.h"
#include "decoder/device_layers.h"

namespace smoe {
namespace {

// Pages that the first table holds: 64 Ki positions. It grows by doubling, for every cache at once.
constexpr size_t kFirstTable = 1024;
// The token, then the counters behind it at a multiple of their alignment.
constexpr size_t kCountsAt = 16;

int64_t power_of_two(int64_t n) {
  int64_t power = 1;
  while (power < n) power *= 2;
  return power;
}

NormWeights without_weights(const NormWeights& from) {
  NormWeights norm;
  norm.kind = from.kind;
  norm.eps = from.eps;
  return norm;
}

DecoderLayer without_weights(const DecoderLayer& from) {
  DecoderLayer layer;
  layer.attention_norm = without_weights(from.attention_norm);
  layer.ffn_norm = without_weights(from.ffn_norm);
  layer.attention = from.attention;
  layer.dense_activation = from.dense_activation;
  layer.dense_glu = from.dense_glu;
  if (from.moe != nullptr) {
    layer.moe = std::make_unique<MoeLayer>();
    layer.moe->config = from.moe->config;
  } else {
    layer.dense = std::make_unique<ExpertWeights>();
  }
  return layer;
}

}  // namespace

struct DeviceDecoder::State {
  DeviceModel model;
  int64_t chunk_wanted = 0, chunk_possible = 0;  // 0: not known
  // Few rows have memory of their own, so that a prompt does not take a graph's away.
  DeviceRows step_rows, chunk_rows;
  DeviceBuffer results;  // int32_t token; uint64_t counts [MoE layers, max_experts()] from kCountsAt on
  DeviceBuffer trace;
  // Of a model with residual planes: how many of them a call reads, [MoE layers, max_experts()]. At one place for every
  // call, because graphs read it.
  DeviceBuffer expert_planes;
  std::vector<int32_t> planes_sent;  // what is there
  DeviceBuffer table;                // of the pages of the cache that the last call used
  size_t table_pages = 0, table_used = 0;
  uint64_t table_owner = 0;
  DeviceGraph graphs[kStepTokens];  // by number of tokens, less one
  std::vector<unsigned char> sent;  // PassInput and what follows it

  // One call.
  struct Call {
    const Decoder::Forward& args;
    DeviceKvCache& cache;
    const Sampling* sampling;  // null: no token is drawn
  };

  Device& device() const { return *model.device; }
  size_t counts_bytes() const {
    return sizeof(uint64_t) * static_cast<size_t>(model.shape.moe_layers() * model.shape.max_experts());
  }
  uint64_t* counts() const { return reinterpret_cast<uint64_t*>(results.as<unsigned char>() + kCountsAt); }
  int64_t pieces(int64_t tokens);

  void drop_graphs() {
    for (DeviceGraph& graph : graphs) graph.drop();
  }
  void release_scratch();
  Status check_args(const Decoder::Forward& args, const DeviceKvCache& cache) const;
  Status prepare(const Call& call);
  Status reserve_rows(int64_t tokens, int64_t* most);
  Status use_pages(const DeviceKvCache& cache);
  Status send_planes(const uint8_t* expert_bits);
  Status send_input(const DeviceRows& rows, const Call& call, int64_t first, int64_t tokens);
  Status run_piece(const Call& call, int64_t first, int64_t tokens);
  Status run_pieces(const Call& call);
  Status collect(const Call& call, int32_t* token);
  Status run(const Call& call, int32_t* token);
};

void DeviceDecoder::State::release_scratch() {
  drop_graphs();
  step_rows.release();
  chunk_rows.release();
  results.release();
  trace.release();
  expert_planes.release();
  planes_sent.clear();
  chunk_possible = 0;
}

Status DeviceDecoder::State::check_args(const Decoder::Forward& args, const DeviceKvCache& cache) const {
  if (model.layers.empty()) return error(Code::InvalidArgument, "a decoder needs at least one layer");
  SMOE_RETURN_IF_ERROR(validate(model.shape.momentum, model.shape.moe_layers()));
  if (cache.device() != model.device || !(cache.shape() == model.cache_shape())) {
    return error(Code::InvalidArgument, "the KV cache was made for another model, precision or device");
  }
  for (const DeviceLayer& layer : model.layers) {
    if (args.expert_bits != nullptr && layer.moe != nullptr) SMOE_RETURN_IF_ERROR(layer.moe->check_expert_bits());
  }
  return check_tokens(model.shape, args);
}

int64_t DeviceDecoder::State::pieces(int64_t tokens) {
  if (chunk_possible == 0) chunk_possible = default_chunk_rows(model);
  return piece_count(tokens, chunk_wanted > 0 ? std::min(chunk_wanted, chunk_possible) : chunk_possible);
}

// All memory of the call, before any of its work.
Status DeviceDecoder::State::prepare(const Call& call) {
  const int64_t tokens = call.args.tokens;
  SMOE_RETURN_IF_ERROR(call.cache.reserve(call.cache.length() + tokens));
  SMOE_RETURN_IF_ERROR(use_pages(call.cache));
  int64_t most = 0;
  SMOE_RETURN_IF_ERROR(reserve_rows(tokens, &most));
  if (results.bytes() == 0) {
    SMOE_RETURN_IF_ERROR(device().allocate(kCountsAt + counts_bytes(), &results));
    SMOE_RETURN_IF_ERROR(device().fill(results.data(), 0, kCountsAt + counts_bytes()));
  }
  if (call.args.trace != nullptr) {
    SMOE_RETURN_IF_ERROR(device().allocate(DeviceTrace::bytes_for(model, most), &trace));
    size_traces(model.shape, tokens, call.args.trace);
  }
  SMOE_RETURN_IF_ERROR(send_planes(call.args.expert_bits));
  if (call.args.expert_counts == nullptr) return Status();
  return device().fill(counts(), 0, counts_bytes());
}

Status DeviceDecoder::State::send_planes(const uint8_t* expert_bits) {
  const bool nested = std::any_of(model.layers.begin(), model.layers.end(),
                                  [](const DeviceLayer& layer) { return layer.moe != nullptr && layer.moe->nested(); });
  if (!nested) return Status();
  const int64_t count = model.shape.moe_layers() * model.shape.max_experts();
  std::vector<int32_t> planes(static_cast<size_t>(count), kAllPlanes);
  if (expert_bits != nullptr) DeviceMoeLayer::planes_of_bits(expert_bits, count, planes.data());
  if (planes == planes_sent) return Status();
  planes_sent.clear();
  const size_t bytes = planes.size() * sizeof(int32_t);
  if (expert_planes.bytes() == 0) SMOE_RETURN_IF_ERROR(device().allocate(bytes, &expert_planes));
  SMOE_RETURN_IF_ERROR(device().copy_in(expert_planes.data(), planes.data(), bytes));
  planes_sent = std::move(planes);
  return Status();
}

// Rows for the longest piece of so many tokens; in a nearly full memory, for shorter pieces than usual.
Status DeviceDecoder::State::reserve_rows(int64_t tokens, int64_t* most) {
  while (true) {
    *most = piece_count(tokens, pieces(tokens));
    if (*most <= kStepTokens) return step_rows.reserve(model, kStepTokens);
    const Status status = chunk_rows.reserve(model, power_of_two(*most));
    if (status.code() != Code::OutOfMemory || chunk_possible <= kMinChunkRows) return status;
    chunk_possible /= 2;
  }
}

Status DeviceDecoder::State::use_pages(const DeviceKvCache& cache) {
  const std::vector<void*>& pages = cache.pages();
  if (pages.size() > table_pages) {
    drop_graphs();
    table.release();
    table_pages = 0;
    const size_t wanted = std::max(kFirstTable, static_cast<size_t>(power_of_two(static_cast<int64_t>(pages.size()))));
    SMOE_RETURN_IF_ERROR(device().allocate(wanted * sizeof(void*), &table));
    table_pages = wanted;
    table_owner = 0;
  }
  if (table_owner == cache.id() && table_used == pages.size()) return Status();
  table_owner = 0;
  SMOE_RETURN_IF_ERROR(device().copy_in(table.data(), pages.data(), pages.size() * sizeof(void*)));
  table_owner = cache.id();
  table_used = pages.size();
  return Status();
}

Status DeviceDecoder::State::send_input(const DeviceRows& rows, const Call& call, int64_t first, int64_t tokens) {
  PassInput input = {};
  input.step.tokens = static_cast<int32_t>(tokens);
  input.step.position = static_cast<int32_t>(call.cache.length());
  if (call.sampling != nullptr) {
    input.step.temperature = call.sampling->temperature;
    input.step.top_p = call.sampling->top_p;
    input.step.top_k = call.sampling->top_k;
    input.step.seed = call.sampling->seed;
  }
  input.dense_offset[1] = static_cast<int32_t>(tokens);
  if (tokens <= kFewRows) input.dense_mask = ~uint64_t{0} >> (kFewRows - tokens);
  const size_t id_bytes = static_cast<size_t>(tokens) * sizeof(int32_t);
  sent.resize(sizeof(input) + id_bytes);
  std::memcpy(sent.data(), &input, sizeof(input));
  std::memcpy(sent.data() + sizeof(input), call.args.ids + first, id_bytes);
  SMOE_RETURN_IF_ERROR(device().copy_in(rows.input, sent.data(), sent.size()));
  if (call.args.nll == nullptr) return Status();
  return device().copy_in(rows.targets(), call.args.targets + first, id_bytes);
}

// Tokens [first, first + tokens) of the call.
Status DeviceDecoder::State::run_piece(const Call& call, int64_t first, int64_t tokens) {
  const Decoder::Forward& args = call.args;
  const DeviceRows& rows = step_rows.rows() >= tokens ? step_rows : chunk_rows;
  const bool last = first + tokens == args.tokens;
  SMOE_RETURN_IF_ERROR(send_input(rows, call, first, tokens));

  DeviceLayersArgs layers;
  layers.pass.device = &device();
  layers.pass.input = rows.input;
  layers.pass.rows = tokens;
  layers.pass.pages = table.as<void*>();
  layers.rows = &rows;
  layers.expert_counts = counts();
  layers.expert_planes = expert_planes.as<int32_t>();
  layers.cancel = args.cancel;
  Chunk chunk;
  chunk.x = rows.x;
  layers.head.wanted = head_args(model.shape, args, first, tokens, chunk);
  layers.head.targets = rows.targets() + (tokens - layers.head.wanted.rows);
  if (call.sampling != nullptr && last) {
    layers.head.token = results.as<int32_t>();
    layers.head.step = layers.pass.step();
    if (layers.head.wanted.rows == 0) {
      layers.head.wanted.rows = 1;
      layers.head.wanted.x = rows.x + (tokens - 1) * model.shape.hidden;
    }
  }
  layers.head_wanted = layers.head.wanted.rows > 0;

  const bool launches_only = args.trace == nullptr && args.logits == nullptr && args.nll == nullptr;
  if (call.sampling != nullptr && launches_only && tokens == args.tokens && tokens <= kStepTokens) {
    if (cancelled(args.cancel)) return Status(Code::Cancelled, "cancelled");
    layers.cancel = nullptr;
    return graphs[tokens - 1].run(model.device, [&] { return enqueue_layers(model, layers); });
  }
  DeviceTrace recorder(model, args.trace, trace.data(), first, tokens);
  if (args.trace != nullptr) layers.trace = &recorder;
  return enqueue_layers(model, layers);
}

Status DeviceDecoder::State::run_pieces(const Call& call) {
  const int64_t tokens = call.args.tokens, count = pieces(tokens);
  for (int64_t piece = 0; piece < count; ++piece) {
    const int64_t first = piece_begin(tokens, count, piece), stop = piece_begin(tokens, count, piece + 1);
    SMOE_RETURN_IF_ERROR(run_piece(call, first, stop - first));
    call.cache.set_length(call.cache.length() + stop - first);
  }
  return Status();
}

// Waits for the call's work; the token and the counts come in one copy.
Status DeviceDecoder::State::collect(const Call& call, int32_t* token) {
  const size_t bytes = call.args.expert_counts != nullptr ? kCountsAt + counts_bytes()
                       : token != nullptr                 ? sizeof(*token)
                                                          : 0;
  sent.resize(bytes);
  SMOE_RETURN_IF_ERROR(device().copy_out(sent.data(), results.data(), bytes));
  if (token != nullptr) std::memcpy(token, sent.data(), sizeof(*token));
  if (call.args.expert_counts == nullptr) return Status();
  for (size_t i = 0; i < counts_bytes() / sizeof(uint64_t); ++i) {
    uint64_t count = 0;
    std::memcpy(&count, sent.data() + kCountsAt + i * sizeof(count), sizeof(count));
    call.args.expert_counts[i] += count;
  }
  return Status();
}

Status DeviceDecoder::State::run(const Call& call, int32_t* token) {
  const auto guard = device().lock();
  SMOE_RETURN_IF_ERROR(device().check(cu::CudaError::None, "decoder"));
  SMOE_RETURN_IF_ERROR(check_args(call.args, call.cache));
  SMOE_RETURN_IF_ERROR(prepare(call));
  const int64_t before = call.cache.length();
  Status status = run_pieces(call);
  // A call that fails half-way has counted too, and its work must be over before its memory is used again.
  int32_t drawn = -1;
  const Status collected = collect(call, status.ok() && token != nullptr ? &drawn : nullptr);
  if (status.ok()) status = collected;
  if (!status.ok() || (token != nullptr && drawn < 0)) call.cache.truncate(before);
  if (status.ok() && token != nullptr) *token = drawn;
  return status;
}

Status DeviceDecoder::create(std::shared_ptr<Device> device, const Decoder& ends, ThreadPool& pool,
                             const CancelFlag* cancel, std::unique_ptr<DeviceDecoder>* out) {
  SMOE_RETURN_IF_ERROR(ends.validate_ends());
  std::unique_ptr<DeviceDecoder> made(new DeviceDecoder);
  made->state_ = std::make_unique<State>();
  DeviceModel& model = made->state_->model;
  model.device = std::move(device);
  model.shape.vocab = ends.vocab;
  model.shape.hidden = ends.hidden;
  model.shape.precision = ends.precision;
  model.shape.final_norm = without_weights(ends.final_norm);
  model.shape.momentum = ends.momentum;
  SMOE_RETURN_IF_ERROR(upload_ends(*model.device, ends, pool, cancel, &model.ends));
  *out = std::move(made);
  return Status();
}

Status DeviceDecoder::add_layer(const DecoderLayer& layer, ThreadPool& pool, const CancelFlag* cancel) {
  DeviceModel& model = state_->model;
  const size_t index = model.layers.size();
  SMOE_RETURN_IF_ERROR(model.shape.validate_layer(layer, index));
  DeviceLayer made;
  SMOE_RETURN_IF_ERROR(upload_layer(model.device, layer, index, model.shape.precision, pool, cancel, &made));
  const auto guard = model.device->lock();
  state_->release_scratch();
  model.layers.push_back(std::move(made));
  model.shape.layers.push_back(without_weights(layer));
  return Status();
}

DeviceDecoder::~DeviceDecoder() = default;

const std::shared_ptr<Device>& DeviceDecoder::device() const { return state_->model.device; }
const Decoder& DeviceDecoder::shape() const { return state_->model.shape; }
size_t DeviceDecoder::bytes() const { return state_->model.bytes(); }

size_t DeviceDecoder::scratch_bytes() const {
  return state_->step_rows.bytes() + state_->chunk_rows.bytes() + state_->results.bytes() + state_->trace.bytes() +
         state_->table.bytes() + state_->expert_planes.bytes();
}

std::unique_ptr<DeviceKvCache> DeviceDecoder::make_cache(int64_t capacity) const {
  return std::make_unique<DeviceKvCache>(state_->model.device, state_->model.cache_shape(), capacity);
}

void DeviceDecoder::set_chunk_tokens(int64_t most) { state_->chunk_wanted = most; }

int DeviceDecoder::graphs() const {
  int count = 0;
  for (const DeviceGraph& graph : state_->graphs) count += graph.captured();
  return count;
}

Status DeviceDecoder::forward(const Decoder::Forward& args, DeviceKvCache& cache) {
  return state_->run({args, cache, nullptr}, nullptr);
}

Status DeviceDecoder::step(const Decoder::Forward& args, const Sampling& sampling, DeviceKvCache& cache,
                           int32_t* token) {
  *token = -1;
  return state_->run({args, cache, &sampling}, token);
}

}  // namespace smoe
