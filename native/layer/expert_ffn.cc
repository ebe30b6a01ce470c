#include "layer/expert_ffn.h"

#include <cmath>
#include <cstring>

#include "layer/row_blocks.h"

namespace smoe {
namespace {

// Work items per thread; with 16, the last item running alone costs about 1/32 of the stage on two threads.
constexpr int64_t kItemsPerThread = 16;

struct Item {
  int32_t group;
  int32_t first, last;  // tile range (gate/up tiles, or pairs of down tiles)
};

bool bf16_inputs(const ExpertWeights& weights, Precision precision) {
  return uses_bf16_rows(weights.up.format, precision);
}
bool bf16_units(const ExpertWeights& weights, Precision precision) {
  return uses_bf16_rows(weights.down.format, precision);
}

// Splits each group's tiles so that items weigh about the same. A tile costs its bytes, which do not depend on the
// rows, plus arithmetic that does; 8 rows are about where the two meet on the machines measured (bench/NOTES.md), and
// the balance is not sensitive to it.
int64_t split(const ExpertFfnArgs& args, int threads, bool down, Item* items) {
  const auto tiles_of = [&](const ExpertGroup& group) {
    return down ? (group.weights->down.tiles() + 1) / 2 : group.weights->up.tiles();
  };
  const auto tile_cost = [&](const ExpertGroup& group) {
    const int64_t k = down ? group.weights->down.cols : group.weights->up.cols;
    return (8 + group.rows) * k;
  };
  int64_t total = 0;
  for (int64_t g = 0; g < args.count; ++g) total += tiles_of(args.groups[g]) * tile_cost(args.groups[g]);
  const int64_t target = total / (threads * kItemsPerThread) + 1;
  int64_t count = 0;
  for (int64_t g = 0; g < args.count; ++g) {
    const int64_t tiles = tiles_of(args.groups[g]);
    int64_t parts = (tiles * tile_cost(args.groups[g]) + target / 2) / target;
    if (parts < 1) parts = 1;
    if (parts > tiles) parts = tiles;
    for (int64_t part = 0; part < parts; ++part) {
      items[count++] = {static_cast<int32_t>(g), static_cast<int32_t>(tiles * part / parts),
                        static_cast<int32_t>(tiles * (part + 1) / parts)};
    }
  }
  return count;
}

const float* bias_at(const std::vector<float>& bias, int64_t index) {
  return bias.empty() ? nullptr : bias.data() + index;
}

// Gate and up tiles of the same 16 hidden units, then the activation, written as the packed input of `down`.
void run_up(const KernelTable& kernels, const ExpertFfnArgs& args, const Item& item) {
  const ExpertGroup& group = args.groups[item.group];
  const ExpertWeights& weights = *group.weights;
  const bool glu = !weights.gate.empty();
  const bool x_bf16 = bf16_inputs(weights, args.precision), h_bf16 = bf16_units(weights, args.precision);
  const TileFn tile_fn = tile_function(kernels, weights.up.format, x_bf16);
  const size_t x_row = static_cast<size_t>(padded_cols(weights.up)) * packed_element_bytes(x_bf16);
  const size_t h_row = static_cast<size_t>(padded_cols(weights.down)) * packed_element_bytes(h_bf16);
  const RowBlocks blocks{group.rows, kernels.max_rows};
  alignas(64) float tile[kMaxTileRows * kOutStride];
  for (int64_t index = item.first; index < item.last; ++index) {
    const int64_t unit = index * kTileRows;
    const int64_t left = weights.up.rows - unit;
    const int count = static_cast<int>(left < kTileRows ? left : kTileRows);
    for (int64_t block = 0; block < blocks.count(); ++block) {
      const size_t first = static_cast<size_t>(blocks.begin(block));
      const int m = blocks.size(block);
      const unsigned char* x = group.packed_x + first * x_row;
      unsigned char* h = group.packed_h + first * h_row;
      if (glu) {
        tile_fn(weights.gate.tile(index), weights.up.tile(index), x, weights.up.chunks(), m, tile);
        kernels.glu(tile, bias_at(weights.gate_bias, unit), bias_at(weights.up_bias, unit), args.activation, m, count,
                    unit, h, h_bf16);
      } else {
        tile_fn(weights.up.tile(index), nullptr, x, weights.up.chunks(), m, tile);
        kernels.mlp(tile, bias_at(weights.up_bias, unit), args.activation.kind, m, count, unit, h, h_bf16);
      }
    }
  }
}

void run_down(const KernelTable& kernels, const ExpertFfnArgs& args, const Item& item) {
  const ExpertGroup& group = args.groups[item.group];
  const PackedMatrix& down = group.weights->down;
  const bool h_bf16 = bf16_units(*group.weights, args.precision);
  const TileFn tile_fn = tile_function(kernels, down.format, h_bf16);
  const size_t h_row = static_cast<size_t>(padded_cols(down)) * packed_element_bytes(h_bf16);
  const RowBlocks blocks{group.rows, kernels.max_rows};
  alignas(64) float tile[kMaxTileRows * kOutStride];
  for (int64_t pair = item.first; pair < item.last; ++pair) {
    const int64_t column = pair * 2 * kTileRows;
    const int64_t left = down.rows - column;
    const int width = static_cast<int>(left < 2 * kTileRows ? left : 2 * kTileRows);
    const void* second = width > kTileRows ? down.tile(2 * pair + 1) : nullptr;
    const float* bias = bias_at(group.weights->down_bias, column);
    for (int64_t block = 0; block < blocks.count(); ++block) {
      const int64_t first = blocks.begin(block);
      const int m = blocks.size(block);
      tile_fn(down.tile(2 * pair), second, group.packed_h + static_cast<size_t>(first) * h_row, down.chunks(), m, tile);
      for (int row = 0; row < m; ++row) {
        float* out = group.out + (first + row) * down.rows + column;
        const float* from = tile + row * kOutStride;
        if (bias == nullptr) {
          std::memcpy(out, from, static_cast<size_t>(width) * sizeof(float));
        } else {
          for (int i = 0; i < width; ++i) out[i] = from[i] + bias[i];
        }
      }
    }
  }
}

void pack_group_block(const KernelTable& kernels, const ExpertFfnArgs& args, const ExpertGroup& group, int64_t block) {
  const ExpertWeights& weights = *group.weights;
  const bool bf16 = bf16_inputs(weights, args.precision);
  const RowBlocks blocks{group.rows, kernels.max_rows};
  const int64_t first = blocks.begin(block), padded_k = padded_cols(weights.up);
  pack_rows(kernels, group.inputs + first, group.input_scale != nullptr ? group.input_scale + first : nullptr,
            blocks.size(block), weights.up.cols, padded_k, bf16,
            group.packed_x + static_cast<size_t>(first * padded_k) * packed_element_bytes(bf16));
}

void pack_inputs(const KernelTable& kernels, ThreadPool& pool, const ExpertFfnArgs& args) {
  if (args.same_input) {
    pack_group_block(kernels, args, args.groups[0], 0);
    for (int64_t g = 1; g < args.count; ++g) {
      const ExpertWeights& weights = *args.groups[g].weights;
      if (weights.up.format == args.groups[0].weights->up.format) {
        args.groups[g].packed_x = args.groups[0].packed_x;
      } else {
        pack_group_block(kernels, args, args.groups[g], 0);
      }
    }
    return;
  }
  pool.parallel_for(args.count, [&](int64_t g, int) {
    const RowBlocks blocks{args.groups[g].rows, kernels.max_rows};
    for (int64_t block = 0; block < blocks.count(); ++block) pack_group_block(kernels, args, args.groups[g], block);
  });
}

// The packed hidden units past I (an odd I pads to a chunk) must be zero: their weights are, but 0 * NaN is not.
void clear_padding(const ExpertFfnArgs& args, const KernelTable& kernels, ExpertGroup* group) {
  const PackedMatrix& down = group->weights->down;
  const int64_t padded = padded_cols(down);
  if (padded == down.cols) return;
  const size_t element = packed_element_bytes(bf16_units(*group->weights, args.precision));
  const RowBlocks blocks{group->rows, kernels.max_rows};
  for (int64_t block = 0; block < blocks.count(); ++block) {
    // The last chunk of a block: two columns of m rows. Its first column is written by the activation later.
    const size_t begin = static_cast<size_t>(blocks.begin(block) * padded) * element;
    const size_t chunk = static_cast<size_t>(blocks.size(block)) * 2 * element;
    const size_t end = begin + static_cast<size_t>(blocks.size(block) * padded) * element;
    std::memset(group->packed_h + end - chunk, 0, chunk);
  }
}

}  // namespace

size_t ExpertWeights::bytes() const {
  return gate.bytes() + up.bytes() + down.bytes() +
         (gate_bias.size() + up_bias.size() + down_bias.size()) * sizeof(float);
}

Status validate_expert(const ExpertWeights& expert, int64_t hidden, bool glu, const char* name) {
  const auto bad = [&](const char* tensor, const PackedMatrix& matrix, int64_t rows, int64_t cols) {
    return error(Code::ShapeMismatch, "%s %s must be [%lld, %lld], got [%lld, %lld]", name, tensor,
                 static_cast<long long>(rows), static_cast<long long>(cols), static_cast<long long>(matrix.rows),
                 static_cast<long long>(matrix.cols));
  };
  const int64_t width = expert.up.rows;
  if (expert.up.empty() || expert.up.cols != hidden) return bad("up", expert.up, width, hidden);
  if (glu && (expert.gate.rows != width || expert.gate.cols != hidden)) return bad("gate", expert.gate, width, hidden);
  if (!glu && !expert.gate.empty()) {
    return error(Code::InvalidSpec, "%s has a gate matrix but the layer is a plain MLP", name);
  }
  if (glu && expert.gate.format != expert.up.format) {
    return error(Code::DtypeMismatch, "%s gate and up must have the same format, got %s and %s", name,
                 weight_format_name(expert.gate.format), weight_format_name(expert.up.format));
  }
  if (expert.down.rows != hidden || expert.down.cols != width) return bad("down", expert.down, hidden, width);
  const auto check_bias = [&](const char* tensor, const std::vector<float>& bias, int64_t length) {
    if (bias.empty() || static_cast<int64_t>(bias.size()) == length) return Status();
    return error(Code::ShapeMismatch, "%s %s must be [%lld], got [%zu]", name, tensor, static_cast<long long>(length),
                 bias.size());
  };
  SMOE_RETURN_IF_ERROR(check_bias("gate bias", expert.gate_bias, width));
  SMOE_RETURN_IF_ERROR(check_bias("up bias", expert.up_bias, width));
  return check_bias("down bias", expert.down_bias, hidden);
}

Status validate_activation(const ActivationSpec& activation, bool glu, const char* name) {
  if (static_cast<int>(activation.kind) < 0 || activation.kind > Activation::Identity) {
    return error(Code::InvalidSpec, "%s activation: unknown kind %d", name, static_cast<int>(activation.kind));
  }
  if (!std::isfinite(activation.alpha) || !std::isfinite(activation.beta) || !(activation.limit > 0)) {
    return error(Code::InvalidSpec, "%s activation needs finite alpha and beta and a limit above 0, got %g, %g and %g",
                 name, static_cast<double>(activation.alpha), static_cast<double>(activation.beta),
                 static_cast<double>(activation.limit));
  }
  if (!glu && !activation.plain()) {
    return error(Code::InvalidSpec, "%s has no gate: alpha, limit and beta need one", name);
  }
  if (activation.alpha != 1 && activation.kind != Activation::Silu) {
    return error(Code::InvalidSpec, "%s activation: alpha belongs to silu alone", name);
  }
  return Status();
}

size_t expert_group_bytes(const ExpertWeights& weights, int64_t rows) {
  const size_t n = static_cast<size_t>(rows);
  return Workspace::bytes_for<float>(n * static_cast<size_t>(padded_cols(weights.up))) +
         Workspace::bytes_for<float>(n * static_cast<size_t>(padded_cols(weights.down)));
}

size_t expert_items_bytes(int64_t groups, int threads) {
  // Each group rounds to at most its share plus one item.
  return Workspace::bytes_for<Item>(static_cast<size_t>(2 * groups + (threads + 1) * kItemsPerThread));
}

Status expert_ffn(const KernelTable& kernels, ThreadPool& pool, const ExpertFfnArgs& args, Workspace& workspace) {
  if (args.count == 0) return Status();
  Item* items = workspace.take<Item>(static_cast<size_t>(2 * args.count + (pool.max_size() + 1) * kItemsPerThread));
  for (int64_t g = 0; g < args.count; ++g) {
    ExpertGroup& group = args.groups[g];
    const size_t rows = static_cast<size_t>(group.rows);
    group.packed_x =
        workspace.take<unsigned char>(rows * static_cast<size_t>(padded_cols(group.weights->up)) * sizeof(float));
    group.packed_h =
        workspace.take<unsigned char>(rows * static_cast<size_t>(padded_cols(group.weights->down)) * sizeof(float));
    clear_padding(args, kernels, &group);
  }
  const auto stopped = [&] { return cancelled(args.cancel) ? Status(Code::Cancelled, "cancelled") : Status(); };

  pack_inputs(kernels, pool, args);
  SMOE_RETURN_IF_ERROR(stopped());
  int64_t count = split(args, pool.size(), false, items);
  pool.parallel_for(count, [&](int64_t index, int) {
    if (!cancelled(args.cancel)) run_up(kernels, args, items[index]);
  });
  SMOE_RETURN_IF_ERROR(stopped());
  count = split(args, pool.size(), true, items);
  pool.parallel_for(count, [&](int64_t index, int) {
    if (!cancelled(args.cancel)) run_down(kernels, args, items[index]);
  });
  return stopped();
}

}  // namespace smoe
