#include "decoder/device_head.h"

#include <algorithm>

namespace smoe {
namespace {

// Logits are made for some rows at a time: 32 Mi floats (128 MiB) are two hundred rows of a large vocabulary, enough
// for every weight to be used many times.
constexpr int64_t kBlockLogits = int64_t{32} << 20;

int64_t block_rows(int64_t vocab, int64_t rows) {
  const int64_t most = std::max(kBlockLogits / vocab, 3 * kFewRows);
  return (rows + piece_count(rows, most) - 1) / std::max<int64_t>(piece_count(rows, most), 1);
}

struct Block {
  cu::Planes normed;  // [block, H]
  float* logits;      // [block, V]
  double* nll;        // [block]
  void* sampling;
};

Block take_block(const DeviceModel& model, int64_t rows, DeviceArena* arena) {
  const Decoder& shape = model.shape;
  const int64_t block = block_rows(shape.vocab, rows);
  Block taken;
  taken.normed = take_planes(arena, block * shape.hidden, activation_parts(shape.precision));
  taken.logits = arena->take<float>(block * shape.vocab);
  taken.nll = arena->take<double>(block);
  taken.sampling = arena->take<unsigned char>(cu::sample_scratch_bytes(shape.vocab));
  return taken;
}

Status enqueue_logits(const DeviceModel& model, const float* x, int64_t rows, const Block& block) {
  const DeviceNorm& final_norm = model.ends.final_norm;
  cu::NormRowsArgs norm;
  norm.kind = final_norm.kind;
  norm.x = x;
  norm.width = norm.x_stride = model.shape.hidden;
  norm.weight = final_norm.weight.as<float>();
  norm.bias = final_norm.bias.as<float>();
  norm.eps = final_norm.eps;
  norm.max_tokens = rows;
  norm.planes = block.normed;
  SMOE_ENQUEUE(*model.device, norm_rows, norm);
  cu::LinearArgs map;
  map.x = block.normed;
  map.out = block.logits;
  return enqueue_linear(*model.device, rows, model.ends.output.empty() ? model.ends.embedding : model.ends.output, map);
}

// What the host wants of rows [first, first + rows) of the call's.
Status copy_rows(const DeviceModel& model, const DeviceHeadArgs& args, int64_t first, int64_t rows,
                 const Block& block) {
  Device& device = *model.device;
  const HeadArgs& wanted = args.wanted;
  const int64_t vocab = model.shape.vocab;
  const size_t row_bytes = static_cast<size_t>(vocab) * sizeof(float);
  if (wanted.logits != nullptr) {
    SMOE_RETURN_IF_ERROR(
        device.copy_out_later(wanted.logits + first * vocab, block.logits, static_cast<size_t>(rows) * row_bytes));
  }
  if (wanted.last_logits != nullptr && first + rows == wanted.rows) {
    SMOE_RETURN_IF_ERROR(device.copy_out_later(wanted.last_logits, block.logits + (rows - 1) * vocab, row_bytes));
  }
  if (wanted.nll == nullptr) return Status();
  cu::NllArgs nll;
  nll.logits = block.logits;
  nll.targets = args.targets + first;
  nll.tokens = rows;
  nll.vocab = vocab;
  nll.nll = block.nll;
  SMOE_ENQUEUE(device, nll, nll);
  return device.copy_out_later(wanted.nll + first, block.nll, static_cast<size_t>(rows) * sizeof(double));
}

}  // namespace

size_t head_bytes(const DeviceModel& model, int64_t rows) {
  DeviceArena measure(nullptr);
  take_block(model, rows, &measure);
  return measure.bytes();
}

Status enqueue_head(const DeviceModel& model, const DeviceHeadArgs& args, DeviceArena scratch) {
  const HeadArgs& wanted = args.wanted;
  const Block block = take_block(model, wanted.rows, &scratch);
  const int64_t pieces = piece_count(wanted.rows, block_rows(model.shape.vocab, wanted.rows));
  for (int64_t piece = 0; piece < pieces; ++piece) {
    const int64_t first = piece_begin(wanted.rows, pieces, piece);
    const int64_t rows = piece_begin(wanted.rows, pieces, piece + 1) - first;
    SMOE_RETURN_IF_ERROR(enqueue_logits(model, wanted.x + first * model.shape.hidden, rows, block));
    SMOE_RETURN_IF_ERROR(copy_rows(model, args, first, rows, block));
    if (args.token == nullptr || piece + 1 < pieces) continue;
    cu::SampleArgs sample;
    sample.logits = block.logits + (rows - 1) * model.shape.vocab;
    sample.vocab = model.shape.vocab;
    sample.step = args.step;
    sample.scratch = block.sampling;
    sample.token = args.token;
    SMOE_ENQUEUE(*model.device, sample, sample);
  }
  return Status();
}

}  // namespace smoe
