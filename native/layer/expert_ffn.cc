#include "layer/expert_ffn.h"

#include <cmath>
#include <cstring>

#include "layer/row_blocks.h"
#include "layer/tile_pairs.h"

namespace smoe {
namespace {

// Work items per thread; with 16, the last item running alone costs about 1/32 of the stage on two threads.
constexpr int64_t kItemsPerThread = 16;

// Hidden units up to which packing them on the calling thread beats waking another.
constexpr int64_t kInlineUnits = 1 << 14;

struct Item {
  int32_t group;
  int32_t first, last;  // tile range (gate/up tiles, or pairs of down tiles)
};

RowLayout input_layout(const ExpertWeights& weights, Precision precision) { return row_layout(weights.up, precision); }
RowLayout unit_layout(const ExpertWeights& weights, Precision precision) { return row_layout(weights.down, precision); }

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

// Gate and up tiles of the same 16 hidden units, then the activation, written as the packed input of `down` or as rows.
void run_up(const KernelTable& kernels, const ExpertFfnArgs& args, const Item& item) {
  const ExpertGroup& group = args.groups[item.group];
  const ExpertWeights& weights = *group.weights;
  const bool glu = !weights.gate.empty();
  const RowLayout x_layout = input_layout(weights, args.precision), h_layout = unit_layout(weights, args.precision);
  const UnitForm form = group.units != nullptr           ? UnitForm::Rows
                        : h_layout.kind == RowKind::Bf16 ? UnitForm::Bf16
                                                         : UnitForm::F32;
  const int64_t width = weights.up.rows;
  const RowBlocks blocks(group.rows, kernels.max_rows);
  alignas(64) float tile[kMaxTileRows * kOutStride];
  TilePairs tiles(kernels, x_layout, glu ? weights.gate : weights.up, glu ? &weights.up : nullptr, tile, group.planes);
  for (int64_t index = item.first; index < item.last; ++index) {
    const int64_t unit = index * kTileRows;
    const int64_t left = width - unit;
    const int count = static_cast<int>(left < kTileRows ? left : kTileRows);
    for (int64_t block = 0; block < blocks.count(); ++block) {
      const size_t first = static_cast<size_t>(blocks.begin(block));
      const int m = blocks.size(block);
      const unsigned char* x = group.packed_x + first * x_layout.row_bytes();
      void* h = group.units != nullptr ? static_cast<void*>(group.units + first * static_cast<size_t>(width))
                                       : group.packed_h + first * h_layout.row_bytes();
      tiles.set_rows(x, m);
      if (glu) {
        tiles.run(index, index);
        kernels.glu(tile, bias_at(weights.gate_bias, unit), bias_at(weights.up_bias, unit), args.activation, m, count,
                    unit, h, form, width);
      } else {
        tiles.run(index);
        kernels.mlp(tile, bias_at(weights.up_bias, unit), args.activation.kind, m, count, unit, h, form, width);
      }
    }
  }
}

void run_down(const KernelTable& kernels, const ExpertFfnArgs& args, const Item& item) {
  const ExpertGroup& group = args.groups[item.group];
  const PackedMatrix& down = group.weights->down;
  const RowLayout layout = unit_layout(*group.weights, args.precision);
  const RowBlocks blocks(group.rows, kernels.max_rows);
  alignas(64) float tile[kMaxTileRows * kOutStride];
  TilePairs tiles(kernels, layout, down, &down, tile, group.planes);
  // A tile of each half of the range, so that memory is read as two streams that go on from tile to tile: neighbouring
  // tiles would each skip what the other reads, which costs small tiles a third of the bandwidth (bench/NOTES.md).
  const int64_t begin = 2 * int64_t{item.first};
  const int64_t end = 2 * int64_t{item.last} < down.tiles() ? 2 * int64_t{item.last} : down.tiles();
  const int64_t half = (end - begin + 1) / 2;
  const auto store = [&](const float* tile, int64_t index, int64_t first, int m) {
    const int64_t column = index * kTileRows, left = down.rows - column;
    const int width = static_cast<int>(left < kTileRows ? left : kTileRows);
    const float* bias = bias_at(group.weights->down_bias, column);
    for (int row = 0; row < m; ++row) {
      float* out = group.out + (first + row) * down.rows + column;
      const float* from = tile + row * kOutStride;
      if (bias == nullptr) {
        std::memcpy(out, from, static_cast<size_t>(width) * sizeof(float));
      } else {
        for (int i = 0; i < width; ++i) out[i] = from[i] + bias[i];
      }
    }
  };
  for (int64_t index = begin; index < begin + half; ++index) {
    const int64_t second = index + half;
    for (int64_t block = 0; block < blocks.count(); ++block) {
      const int64_t first = blocks.begin(block);
      const int m = blocks.size(block);
      const unsigned char* h = group.packed_h + static_cast<size_t>(first) * layout.row_bytes();
      tiles.set_rows(h, m);
      tiles.run(index, second < end ? second : -1);
      store(tile, index, first, m);
      if (second < end) store(tile + kTileRows, second, first, m);
    }
  }
}

void pack_group_block(const KernelTable& kernels, const ExpertFfnArgs& args, const ExpertGroup& group, int64_t block) {
  const RowLayout layout = input_layout(*group.weights, args.precision);
  const RowBlocks blocks(group.rows, kernels.max_rows);
  const int64_t first = blocks.begin(block);
  pack_rows(kernels, layout, group.inputs + first, group.input_scale != nullptr ? group.input_scale + first : nullptr,
            blocks.size(block), group.packed_x + static_cast<size_t>(first) * layout.row_bytes());
}

void pack_inputs(const KernelTable& kernels, ThreadPool& pool, const ExpertFfnArgs& args) {
  if (args.same_input) {
    pack_group_block(kernels, args, args.groups[0], 0);
    const RowLayout packed = input_layout(*args.groups[0].weights, args.precision);
    for (int64_t g = 1; g < args.count; ++g) {
      if (input_layout(*args.groups[g].weights, args.precision) == packed) {
        args.groups[g].packed_x = args.groups[0].packed_x;
      } else {
        pack_group_block(kernels, args, args.groups[g], 0);
      }
    }
    return;
  }
  pool.parallel_for(args.count, [&](int64_t g, int) {
    const RowBlocks blocks(args.groups[g].rows, kernels.max_rows);
    for (int64_t block = 0; block < blocks.count(); ++block) pack_group_block(kernels, args, args.groups[g], block);
  });
}

// Hidden units that were written as rows, into the form that `down` reads.
void pack_units(const KernelTable& kernels, ThreadPool& pool, const ExpertFfnArgs& args) {
  int64_t elements = 0;
  for (int64_t g = 0; g < args.count; ++g) {
    const ExpertGroup& group = args.groups[g];
    if (group.units != nullptr) elements += group.rows * group.weights->down.cols;
  }
  if (elements == 0) return;
  const auto pack_group = [&](int64_t g, int) {
    const ExpertGroup& group = args.groups[g];
    if (group.units == nullptr) return;
    const RowLayout layout = unit_layout(*group.weights, args.precision);
    const RowBlocks blocks(group.rows, kernels.max_rows);
    for (int64_t block = 0; block < blocks.count(); ++block) {
      const float* rows[kMaxTileRows];
      const int m = blocks.size(block);
      const int64_t first = blocks.begin(block);
      for (int row = 0; row < m; ++row) rows[row] = group.units + (first + row) * layout.cols;
      pack_rows(kernels, layout, rows, nullptr, m, group.packed_h + static_cast<size_t>(first) * layout.row_bytes());
    }
  };
  if (elements <= kInlineUnits) {
    for (int64_t g = 0; g < args.count; ++g) pack_group(g, 0);
  } else {
    pool.parallel_for(args.count, pack_group);
  }
}

// The packed hidden units past I (padding to a whole chunk) must be zero: their weights are, but 0 * NaN is not.
void clear_padding(const ExpertFfnArgs& args, const KernelTable& kernels, ExpertGroup* group) {
  const RowLayout layout = unit_layout(*group->weights, args.precision);
  if (layout.padded == layout.cols || group->units != nullptr) return;
  // bf16 columns come in pairs; where a pair is half padding, its first column is written by the activation later.
  const int64_t whole = layout.kind == RowKind::Bf16 ? layout.cols / 2 * 2 : layout.cols;
  const RowBlocks blocks(group->rows, kernels.max_rows);
  for (int64_t block = 0; block < blocks.count(); ++block) {
    const size_t m = static_cast<size_t>(blocks.size(block));
    unsigned char* begin = group->packed_h + static_cast<size_t>(blocks.begin(block)) * layout.row_bytes();
    std::memset(begin + static_cast<size_t>(whole) * layout.element_bytes() * m, 0,
                static_cast<size_t>(layout.padded - whole) * layout.element_bytes() * m);
  }
}

// Precision does not matter for what it reserves: f32 rows are the widest.
size_t packed_bytes(const PackedMatrix& matrix, int64_t rows) {
  const size_t exact = row_layout(matrix, Precision::Exact).row_bytes(),
               fast = row_layout(matrix, Precision::Fast).row_bytes();
  return static_cast<size_t>(rows) * (exact > fast ? exact : fast);
}

bool units_as_rows(const ExpertWeights& weights, Precision precision) {
  return unit_layout(weights, precision).kind == RowKind::Int8;
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
  // They read the same packed rows.
  if (glu && (expert.gate.format != expert.up.format || expert.gate.group != expert.up.group)) {
    return error(Code::DtypeMismatch, "%s gate and up must have the same format and group, got %s/%lld and %s/%lld",
                 name, weight_format_name(expert.gate.format), static_cast<long long>(expert.gate.group),
                 weight_format_name(expert.up.format), static_cast<long long>(expert.up.group));
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
  size_t total = Workspace::bytes_for<unsigned char>(packed_bytes(weights.up, rows)) +
                 Workspace::bytes_for<unsigned char>(packed_bytes(weights.down, rows));
  if (units_as_rows(weights, Precision::Fast)) {
    total += Workspace::bytes_for<float>(static_cast<size_t>(rows * weights.down.cols));
  }
  return total;
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
    group.packed_x = workspace.take<unsigned char>(packed_bytes(group.weights->up, group.rows));
    group.packed_h = workspace.take<unsigned char>(packed_bytes(group.weights->down, group.rows));
    if (units_as_rows(*group.weights, args.precision)) {
      group.units = workspace.take<float>(static_cast<size_t>(group.rows * group.weights->down.cols));
    }
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
  pack_units(kernels, pool, args);
  count = split(args, pool.size(), true, items);
  pool.parallel_for(count, [&](int64_t index, int) {
    if (!cancelled(args.cancel)) run_down(kernels, args, items[index]);
  });
  return stopped();
}

}  // namespace smoe
