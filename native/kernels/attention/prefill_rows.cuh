// What the two kernels of attend_prefill share: which rows a block takes, and which keys they see.
//
// A row is one head of one token. The query heads of a KV head are rows of one block, so that they share what is read
// of the cache. Tiles of keys begin at multiples of their size, counted from position 0, and a tile that a row does not
// see leaves its sums as they were: what is added in which order follows from a row's position and the window alone.
#pragma once

#include "cuda/cu.h"
#include "kernels/attention/attention_args.h"
#include "kernels/attention/kv_pages.cuh"
#include "kernels/norm/planes.cuh"

namespace smoe::cu {

// The half of attend_prefill for f32 caches, compiled on its own. value_dim: at most 512.
int launch_prefill_fma(Stream stream, const AttendArgs& args);

// Heads of one KV head that share a block of `rows` rows: all, or equal parts of them.
struct HeadShare {
  int heads, chunks;
};
SMOE_HD HeadShare head_share(const AttendArgs& args, int rows) {
  const int group = args.heads / args.cache.kv_heads, chunks = (group + rows - 1) / rows;
  return {(group + chunks - 1) / chunks, chunks};
}
SMOE_HD int64_t prefill_blocks(const AttendArgs& args, int rows) {
  const HeadShare share = head_share(args, rows);
  const int64_t tokens = rows / share.heads;
  return (args.max_tokens + tokens - 1) / tokens * share.chunks * args.cache.kv_heads;
}

struct RowBlock {
  int64_t token0, position;  // of the first row, in the call and in the sequence
  int tokens;                // none: nothing to do
  int kv_head, head0, heads, share;
  int64_t low, high;  // positions that any row sees

  SMOE_DEVICE int token_of(int row) const { return row / share; }
  SMOE_DEVICE bool real(int row) const { return row / share < tokens && row % share < heads; }
  // Of the result and, times key_dim, within a row of q.
  SMOE_DEVICE int head_of(int row) const { return head0 + row % share; }
};

// Positions [begin, end) that a token of the block sees.
struct Visible {
  int64_t begin, end;
};
SMOE_DEVICE Visible visible_of(const RowBlock& block, int token, int64_t window) {
  const int64_t end = block.position + token + 1;
  return {window > 0 && end > window ? end - window : 0, end};
}

// Long rows first, so that the last blocks to start are short.
SMOE_DEVICE RowBlock row_block(const AttendArgs& args, int rows) {
  const HeadShare share = head_share(args, rows);
  const int units = share.chunks * args.cache.kv_heads, unit = bid() % units, group = args.heads / args.cache.kv_heads;
  const int64_t per = rows / share.heads, tiles = nblocks() / units;
  RowBlock block;
  block.token0 = (tiles - 1 - bid() / units) * per;
  const int64_t left = ldg(&args.step->tokens) - block.token0;
  block.tokens = static_cast<int>(left < 0 ? 0 : left < per ? left : per);
  block.position = ldg(&args.step->position) + block.token0;
  block.kv_head = unit / share.chunks;
  const int first = unit % share.chunks * share.heads;
  block.head0 = block.kv_head * group + first;
  block.heads = group - first < share.heads ? group - first : share.heads;
  block.share = share.heads;
  block.low = visible_of(block, 0, args.window).begin;
  block.high = block.position + block.tokens;
  return block;
}

// Whether some row of the block does not see some key of [from, from + keys).
SMOE_DEVICE bool partly_visible(const RowBlock& block, int64_t window, int64_t from, int keys) {
  return from + keys > block.position + 1 || from < visible_of(block, block.tokens - 1, window).begin;
}

// The parts of `count` neighbouring results from column `at` of a row; pairs are stored as one where they are aligned.
template <int N>
SMOE_DEVICE void store_results(const AttendArgs& args, int64_t row, int head, int at, const float (&values)[N]) {
  const int64_t to = off(off(row, args.heads) + head, args.value_dim) + at;
  const bool pairs = (args.value_dim | args.out.step) % 2 == 0;
  SMOE_UNROLL
  for (int i = 0; i < N; i += 2) {
    if (pairs && at + i < args.value_dim) {
      store_parts2(args.out, to + i, values[i], values[i + 1]);
    } else {
      if (at + i < args.value_dim) store_parts(args.out, to + i, values[i]);
      if (at + i + 1 < args.value_dim) store_parts(args.out, to + i + 1, values[i + 1]);
    }
  }
}

}  // namespace smoe::cu
