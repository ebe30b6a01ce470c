#include "decoder/head.h"

#include "decoder/rows.h"

namespace smoe {
namespace {

// Logits that nobody asked to keep are made for a few rows at a time: 4 Mi floats (16 MiB) stay near the caches and do
// not grow with the vocabulary, and 16 rows still use each weight loaded more than once.
constexpr int64_t kBlockLogits = int64_t{4} << 20;
constexpr int64_t kMinBlock = 16;

int64_t block_rows(int64_t vocab, int64_t rows) {
  return std::min(rows, std::max(kBlockLogits / std::max<int64_t>(vocab, 1), kMinBlock));
}

}  // namespace

size_t head_bytes(const Decoder& decoder, int64_t rows) {
  return Workspace::bytes_for<float>(static_cast<size_t>(block_rows(decoder.vocab, rows) * decoder.vocab)) +
         Workspace::bytes_for<unsigned char>(linear_workspace_bytes(rows, decoder.hidden));
}

void head(const Decoder& decoder, const KernelTable& kernels, ThreadPool& pool, const HeadArgs& args,
          Workspace& workspace) {
  const int64_t h = decoder.hidden, v = decoder.vocab;
  const size_t mark = workspace.used();
  for_rows(pool, args.rows, h,
           [&](int64_t row) { norm_row(kernels, decoder.final_norm, args.x + row * h, h, args.x + row * h); });
  const int64_t block = args.logits != nullptr ? args.rows : block_rows(v, args.rows);
  float* kept = args.logits;
  if (kept == nullptr) kept = workspace.take<float>(static_cast<size_t>(block * v));
  void* scratch = workspace.take<unsigned char>(linear_workspace_bytes(block, h));
  for (int64_t first = 0; first < args.rows; first += block) {
    LinearArgs map;
    map.weight = decoder.output.empty() ? &decoder.embedding : &decoder.output;
    map.x = args.x + first * h;
    map.rows = std::min(block, args.rows - first);
    map.out = kept;
    linear(kernels, pool, decoder.precision, map, scratch);
    if (args.last_logits != nullptr && first + map.rows == args.rows)
      std::copy_n(map.out + (map.rows - 1) * v, v, args.last_logits);
    if (args.nll == nullptr) continue;
    for_rows(pool, map.rows, v, [&](int64_t row) {
      const float* logits = map.out + row * v;
      args.nll[first + row] = kernels.log_sum_exp(logits, v) - static_cast<double>(logits[args.targets[first + row]]);
    });
  }
  workspace.rewind(mark);
}

}  // namespace smoe
