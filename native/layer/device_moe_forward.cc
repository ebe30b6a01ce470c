// DeviceMoeLayer::forward(): a call with host memory as passes over chunks of its rows.
#include <algorithm>
#include <cstring>
#include <vector>

#include "core/buffer.h"
#include "device/arena.h"
#include "layer/device_moe_layer.h"
#include "layer/device_moe_weights.h"
#include "layer/route_stage.h"

namespace smoe {
namespace {

// Device memory that one call may use beside the weights, and rows of a chunk: enough to keep the tensor cores busy.
constexpr size_t kCallBudget = size_t{512} << 20;
constexpr int64_t kMinChunk = 256, kMaxChunk = 4096;

// Which states a step reads and writes.
struct UsedStates {
  ResidualState in, out;
};
UsedStates used_states(const ResidualStep& step, const ResidualState& state) {
  UsedStates used;
  switch (step.kind) {
    case ResidualKind::Update:
    case ResidualKind::Add:
      break;
    case ResidualKind::Complex:
      used.out.m_im = state.m_im;
      used.out.m = state.m;
      break;
    case ResidualKind::Adam:
      used.out.p = state.p;
      used.out.v = state.v;
      used.out.m = state.m;
      break;
    case ResidualKind::Linear:
      used.out.m = state.m;
      break;
  }
  if (!step.first) {
    used.in.m = used.out.m;
    used.in.m_im = used.out.m_im;
  }
  if (!step.first_adam) {
    used.in.p = used.out.p;
    used.in.v = used.out.v;
  }
  return used;
}

int earlier_slot(const int32_t* ids, int slot) {
  for (int j = 0; j < slot; ++j) {
    if (ids[j] == ids[slot]) return j;
  }
  return -1;
}

// The kernels take an expert at most once per token. Twice with weights a and b is once with a + b: their rows are
// equal, unless the weight goes into the expert's input.
bool repeats_an_expert(const Routing& routing) {
  for (int64_t token = 0; token < routing.tokens; ++token) {
    const int32_t* const ids = routing.ids + token * routing.slots;
    for (int slot = 0; slot < routing.slots; ++slot) {
      if (ids[slot] >= 0 && earlier_slot(ids, slot) >= 0) return true;
    }
  }
  return false;
}
void merge_repeated(int slots, int32_t* ids, float* weights) {
  for (int slot = 0; slot < slots; ++slot) {
    const int first = ids[slot] < 0 ? -1 : earlier_slot(ids, slot);
    if (first < 0) continue;
    weights[first] += weights[slot];
    weights[slot] = 0;
    ids[slot] = -1;
  }
}

// Device arrays of one chunk.
struct CallMemory {
  float *hidden = nullptr, *out = nullptr, *update = nullptr, *logits = nullptr;
  ResidualState state;
  cu::Planes planes;
  cu::RoutingOut routing;  // chosen, or given
  uint64_t* counts = nullptr;
  int32_t* planes_read = nullptr;
  unsigned char* scratch = nullptr;
  size_t bytes = 0;
};

class Call {
 public:
  Call(const DeviceMoeLayer& layer, const DeviceMoeWeights& weights, const MoeLayer::Forward& args)
      : layer_(layer),
        w_(weights),
        args_(args),
        device_(*weights.device),
        states_(used_states(args.step, args.state)),
        slots_(args.routing != nullptr ? args.routing->slots : weights.config.router.k) {}

  Status run() {
    const int64_t chunk = chunk_rows();
    SMOE_RETURN_IF_ERROR(device_.allocate(lay_out(chunk, nullptr).bytes, &memory_));
    m_ = lay_out(chunk, memory_.data());
    SMOE_RETURN_IF_ERROR(device_.fill(m_.scratch, 0, DeviceMoeLayer::kScratchZeros));
    if (m_.counts != nullptr) SMOE_RETURN_IF_ERROR(device_.fill(m_.counts, 0, count_bytes()));
    if (m_.planes_read != nullptr) {
      std::vector<int32_t> planes(static_cast<size_t>(experts()));
      DeviceMoeLayer::planes_of_bits(args_.expert_bits, experts(), planes.data());
      SMOE_RETURN_IF_ERROR(device_.copy_in(m_.planes_read, planes.data(), planes.size() * sizeof(int32_t)));
    }
    for (int64_t first = 0; first < args_.tokens; first += chunk) {
      if (cancelled(args_.cancel)) return Status(Code::Cancelled, "cancelled");
      SMOE_RETURN_IF_ERROR(run_chunk(first, std::min(chunk, args_.tokens - first)));
    }
    return add_counts();
  }

 private:
  int64_t experts() const { return w_.config.router.experts; }
  size_t count_bytes() const { return static_cast<size_t>(experts()) * sizeof(uint64_t); }

  // Chunks of one size, so that the last one does not fall to the path for few rows, whose bits are others.
  int64_t chunk_rows() const {
    const size_t per_row = (lay_out(1024, nullptr).bytes - lay_out(512, nullptr).bytes) / 512 + 1;
    const int64_t most = std::clamp(static_cast<int64_t>(kCallBudget / per_row), kMinChunk, kMaxChunk);
    const int64_t chunks = (args_.tokens + most - 1) / most;
    return (args_.tokens + chunks - 1) / chunks;
  }

  CallMemory lay_out(int64_t rows, void* memory) const {
    DeviceArena arena(memory);
    CallMemory m;
    const int64_t elements = rows * w_.hidden;
    const auto state = [&](const float* host) { return host != nullptr ? arena.take<float>(elements) : nullptr; };
    m.hidden = arena.take<float>(elements);
    m.planes = {arena.take<cu::bf16>(w_.parts * elements), elements, w_.parts};
    m.out = arena.take<float>(elements);
    m.state = {state(states_.out.m), state(states_.out.m_im), state(states_.out.p), state(states_.out.v)};
    m.update = state(args_.update_out);
    if (args_.router_logits != nullptr) m.logits = arena.take<float>(rows * experts());
    m.routing = {arena.take<int32_t>(rows * slots_), arena.take<float>(rows * slots_), arena.take<int32_t>(rows)};
    if (args_.expert_counts != nullptr && args_.routing == nullptr) m.counts = arena.take<uint64_t>(experts());
    if (args_.expert_bits != nullptr && layer_.nested()) m.planes_read = arena.take<int32_t>(experts());
    m.scratch = arena.take<unsigned char>(static_cast<int64_t>(DeviceMoeLayer::scratch_bytes(layer_, rows, slots_)));
    m.bytes = arena.bytes();
    return m;
  }

  // Rows of H floats into rows of w_.hidden, and back.
  Status rows_in(float* to, const float* host, int64_t first, int64_t rows) {
    const int64_t h = w_.config.hidden;
    const size_t row_bytes = static_cast<size_t>(h) * sizeof(float);
    if (h == w_.hidden) return device_.copy_in(to, host + first * h, static_cast<size_t>(rows) * row_bytes);
    SMOE_RETURN_IF_ERROR(device_.fill(to, 0, static_cast<size_t>(rows * w_.hidden) * sizeof(float)));
    for (int64_t row = 0; row < rows; ++row) {
      SMOE_RETURN_IF_ERROR(device_.copy_in(to + row * w_.hidden, host + (first + row) * h, row_bytes));
    }
    return Status();
  }
  Status rows_out(float* host, const float* from, int64_t first, int64_t rows) {
    if (host == nullptr) return Status();
    const int64_t h = w_.config.hidden;
    const size_t row_bytes = static_cast<size_t>(h) * sizeof(float);
    if (h == w_.hidden) return device_.copy_out_later(host + first * h, from, static_cast<size_t>(rows) * row_bytes);
    for (int64_t row = 0; row < rows; ++row) {
      SMOE_RETURN_IF_ERROR(device_.copy_out_later(host + (first + row) * h, from + row * w_.hidden, row_bytes));
    }
    return Status();
  }

  Status run_chunk(int64_t first, int64_t rows) {
    DeviceMoeLayer::Rows pass;
    SMOE_RETURN_IF_ERROR(copy_in(first, rows, &pass));
    pass.hidden = m_.hidden;
    pass.planes = m_.planes;
    pass.max_tokens = rows;
    pass.step = args_.step;
    pass.state = m_.state;
    pass.out = m_.out;
    pass.router_logits = m_.logits;
    pass.update_out = m_.update;
    pass.expert_counts = m_.counts;
    pass.expert_planes = m_.planes_read;
    SMOE_RETURN_IF_ERROR(layer_.enqueue(pass, m_.scratch));
    SMOE_RETURN_IF_ERROR(copy_out(first, rows));
    return device_.synchronize();
  }

  Status copy_in(int64_t first, int64_t rows, DeviceMoeLayer::Rows* pass) {
    SMOE_RETURN_IF_ERROR(rows_in(m_.hidden, args_.hidden, first, rows));
    cu::NormRowsArgs split;
    split.x = m_.hidden;
    split.width = split.x_stride = w_.hidden;
    split.max_tokens = rows;
    split.planes = m_.planes;
    SMOE_RETURN_IF_ERROR(device_.check(device_.table().norm_rows(device_.stream(), &split), "activations"));
    if (args_.residual != nullptr) {
      SMOE_RETURN_IF_ERROR(rows_in(m_.out, args_.residual, first, rows));
      pass->residual = m_.out;
    }
    const auto state_in = [&](float* to, const float* host) {
      return host != nullptr ? rows_in(to, host, first, rows) : Status();
    };
    SMOE_RETURN_IF_ERROR(state_in(m_.state.m, states_.in.m));
    SMOE_RETURN_IF_ERROR(state_in(m_.state.m_im, states_.in.m_im));
    SMOE_RETURN_IF_ERROR(state_in(m_.state.p, states_.in.p));
    SMOE_RETURN_IF_ERROR(state_in(m_.state.v, states_.in.v));
    if (args_.routing == nullptr) {
      pass->routing = m_.routing;
      return Status();
    }
    return given_in(first, rows, pass);
  }

  Status given_in(int64_t first, int64_t rows, DeviceMoeLayer::Rows* pass) {
    const size_t pairs = static_cast<size_t>(rows * slots_);
    Buffer merged;
    SMOE_RETURN_IF_ERROR(merged.allocate(std::max<size_t>(1, pairs * (sizeof(int32_t) + sizeof(float)))));
    int32_t* const ids = merged.as<int32_t>();
    float* const weights = reinterpret_cast<float*>(ids + pairs);
    std::memcpy(ids, args_.routing->ids + first * slots_, pairs * sizeof(int32_t));
    std::memcpy(weights, args_.routing->weights + first * slots_, pairs * sizeof(float));
    for (size_t pair = 0; pair < pairs && args_.expert_counts != nullptr; ++pair) {
      if (ids[pair] >= 0 && ids[pair] < experts()) ++args_.expert_counts[ids[pair]];
    }
    for (int64_t row = 0; row < rows; ++row) merge_repeated(slots_, ids + row * slots_, weights + row * slots_);
    SMOE_RETURN_IF_ERROR(device_.copy_in(m_.routing.ids, ids, pairs * sizeof(int32_t)));
    pass->given_ids = m_.routing.ids;
    pass->given_weights = m_.routing.weights;
    pass->given_slots = slots_;
    return device_.copy_in(m_.routing.weights, weights, pairs * sizeof(float));
  }

  Status copy_out(int64_t first, int64_t rows) {
    SMOE_RETURN_IF_ERROR(rows_out(args_.out, m_.out, first, rows));
    SMOE_RETURN_IF_ERROR(rows_out(states_.out.m, m_.state.m, first, rows));
    SMOE_RETURN_IF_ERROR(rows_out(states_.out.m_im, m_.state.m_im, first, rows));
    SMOE_RETURN_IF_ERROR(rows_out(states_.out.p, m_.state.p, first, rows));
    SMOE_RETURN_IF_ERROR(rows_out(states_.out.v, m_.state.v, first, rows));
    SMOE_RETURN_IF_ERROR(rows_out(args_.update_out, m_.update, first, rows));
    if (m_.logits != nullptr) {
      SMOE_RETURN_IF_ERROR(device_.copy_out_later(args_.router_logits + first * experts(), m_.logits,
                                                  static_cast<size_t>(rows * experts()) * sizeof(float)));
    }
    return args_.routing_out != nullptr ? routing_out(first, rows) : Status();
  }

  Status routing_out(int64_t first, int64_t rows) {
    const Routing& to = *args_.routing_out;
    const size_t pairs = static_cast<size_t>(rows * slots_), from = static_cast<size_t>(first * slots_);
    const size_t count_bytes = static_cast<size_t>(rows) * sizeof(int32_t);
    if (const Routing* const given = args_.routing) {
      std::memcpy(to.ids + from, given->ids + from, pairs * sizeof(int32_t));
      std::memcpy(to.weights + from, given->weights + from, pairs * sizeof(float));
      if (to.count != nullptr && given->count != nullptr) {
        std::memcpy(to.count + first, given->count + first, count_bytes);
      }
      return Status();
    }
    SMOE_RETURN_IF_ERROR(device_.copy_out_later(to.ids + from, m_.routing.ids, pairs * sizeof(int32_t)));
    SMOE_RETURN_IF_ERROR(device_.copy_out_later(to.weights + from, m_.routing.weights, pairs * sizeof(float)));
    return to.count != nullptr ? device_.copy_out_later(to.count + first, m_.routing.count, count_bytes) : Status();
  }

  Status add_counts() {
    if (m_.counts == nullptr) return Status();
    Buffer counts;
    SMOE_RETURN_IF_ERROR(counts.allocate(count_bytes()));
    SMOE_RETURN_IF_ERROR(device_.copy_out(counts.data(), m_.counts, count_bytes()));
    for (int64_t e = 0; e < experts(); ++e) args_.expert_counts[e] += counts.as<uint64_t>()[e];
    return Status();
  }

  const DeviceMoeLayer& layer_;
  const DeviceMoeWeights& w_;
  const MoeLayer::Forward& args_;
  Device& device_;
  UsedStates states_;
  int slots_;
  DeviceBuffer memory_;
  CallMemory m_;
};

}  // namespace

Status DeviceMoeLayer::forward(const MoeLayer::Forward& args) {
  const DeviceMoeWeights& w = *weights_;
  if (args.expert_bits != nullptr) SMOE_RETURN_IF_ERROR(check_expert_bits());
  if (args.routing != nullptr) {
    if (args.routing->slots > kMaxSlots) {
      return error(Code::InvalidArgument, "routing has %d slots, at most %d are supported", args.routing->slots,
                   kMaxSlots);
    }
    if (w.config.router.weight_on_input && repeats_an_expert(*args.routing)) {
      return error(Code::InvalidArgument,
                   "routing: the CUDA backend takes an expert once per token where weights apply to the input");
    }
  }
  const auto guard = w.device->lock();
  SMOE_RETURN_IF_ERROR(w.device->check(cu::CudaError::None, "forward"));
  if (args.tokens <= 0) return Status();
  Call call(*this, w, args);
  const Status status = call.run();
  // Nothing of the call may still be under way when its memory goes.
  if (!status.ok()) (void)w.device->synchronize();
  return status;
}

}  // namespace smoe
