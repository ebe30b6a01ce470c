#include "layer/grouped_linear.h"

#include <cstring>

#include "layer/row_blocks.h"
#include "layer/tile_pairs.h"

namespace smoe {
namespace {

// Below this many multiply-adds a fork and join (about 2 us) costs more than the second core gives.
constexpr int64_t kInlineMacs = 1 << 16;
// Work items per thread: enough that the slowest item is a few per cent of the whole.
constexpr int64_t kItemsPerThread = 16;

size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

// Adds the bias and copies a tile pair's results [m][kOutStride] to their rows.
void store_tile(const float* tile, int m, int width, const float* bias, float* out, int64_t out_stride) {
  for (int row = 0; row < m; ++row) {
    const float* from = tile + row * kOutStride;
    float* to = out + row * out_stride;
    if (bias == nullptr) {
      std::memcpy(to, from, static_cast<size_t>(width) * sizeof(float));
    } else {
      for (int column = 0; column < width; ++column) to[column] = from[column] + bias[column];
    }
  }
}

}  // namespace

size_t linear_workspace_bytes(int64_t rows, int64_t k) {
  // Enough for every layout: a unit of at most 32 columns is padded, and where there are int8 groups (of 4 columns at
  // least) an element with its share of scale and sum takes 3 bytes.
  const size_t packed = aligned(static_cast<size_t>(rows) * static_cast<size_t>(k + 31) * sizeof(float));
  return packed + aligned(static_cast<size_t>(rows) * sizeof(float*));
}

void linear(const KernelTable& kernels, ThreadPool& pool, Precision precision, const LinearArgs& args,
            void* workspace) {
  if (args.rows == 0) return;
  const PackedMatrix& weight = *args.weight;
  const int64_t k = weight.cols;
  const RowLayout layout = row_layout(weight, precision);
  const size_t row_bytes = layout.row_bytes();
  const RowBlocks blocks(args.rows, kernels.max_rows);
  const int64_t x_stride = args.x_stride != 0 ? args.x_stride : k;
  const int64_t out_stride = args.out_stride != 0 ? args.out_stride : weight.rows;

  unsigned char* packed = static_cast<unsigned char*>(workspace);
  const float** rows = reinterpret_cast<const float**>(
      packed + aligned(static_cast<size_t>(args.rows) * static_cast<size_t>(k + 31) * sizeof(float)));
  for (int64_t row = 0; row < args.rows; ++row) rows[row] = args.x + row * x_stride;

  const auto pack_block = [&](int64_t block, int) {
    const int64_t first = blocks.begin(block);
    pack_rows(kernels, layout, rows + first, nullptr, blocks.size(block),
              packed + static_cast<size_t>(first) * row_bytes);
  };

  const int64_t pairs = (weight.tiles() + 1) / 2;
  // A work item is a range of tile pairs, all row blocks inside, so that a weight tile is read from memory once.
  const int64_t macs = args.rows * k * weight.rows;
  const int64_t wanted = macs <= kInlineMacs ? 1 : pool.size() * kItemsPerThread;
  const int64_t items = pairs < wanted ? pairs : wanted;
  const auto run_item = [&](int64_t item, int) {
    alignas(64) float tile[kMaxTileRows * kOutStride];
    TilePairs tiles(kernels, layout, weight, &weight, tile);
    for (int64_t pair = pairs * item / items; pair < pairs * (item + 1) / items; ++pair) {
      const int64_t column = pair * 2 * kTileRows;
      const int64_t left = weight.rows - column;
      const int width = static_cast<int>(left < 2 * kTileRows ? left : 2 * kTileRows);
      const int64_t second = width > kTileRows ? 2 * pair + 1 : -1;
      for (int64_t block = 0; block < blocks.count(); ++block) {
        const int64_t first = blocks.begin(block);
        const int m = blocks.size(block);
        tiles.set_rows(packed + static_cast<size_t>(first) * row_bytes, m);
        tiles.run(2 * pair, second);
        store_tile(tile, m, width, args.bias != nullptr ? args.bias + column : nullptr,
                   args.out + first * out_stride + column, out_stride);
      }
    }
  };

  if (items == 1) {
    for (int64_t block = 0; block < blocks.count(); ++block) pack_block(block, 0);
    run_item(0, 0);
    return;
  }
  if (blocks.count() == 1) {
    pack_block(0, 0);
  } else {
    pool.parallel_for(blocks.count(), pack_block);
  }
  pool.parallel_for(items, run_item);
}

}  // namespace smoe
