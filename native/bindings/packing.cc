#include "bindings/packing.h"

#include <algorithm>

#include "formats/format_info.h"
#include "formats/quantized.h"

namespace smoe {
namespace {

// Tiles per work item: at 16 rows of 2048 bf16 a tile is 64 KiB, so an item is long against the cost of handing it out.
constexpr int64_t kTilesPerItem = 8;
// A batch ends once it holds this much: some 10 ms of packing, which bounds how long a cancellation waits.
constexpr size_t kBatchBytes = size_t{64} << 20;

// Tiles of a matrix that is packed as it is, or a whole matrix that is quantized first.
struct Item {
  MatrixSource source;
  PackedMatrix* out;
  int64_t first, last;
  const TensorSource* quantize = nullptr;
  Status status;
};

Status quantize_and_pack(const MatrixSource& source, const TensorSource& wanted, PackedMatrix* out) {
  QuantizedMatrix matrix;
  SMOE_RETURN_IF_ERROR(quantize_rtn(source, wanted.format(source, true), wanted.rtn(), &matrix));
  return pack_quantized(matrix, out);
}

}  // namespace

void PackList::add(const TensorSource& source, PackedMatrix* out) {
  if (!source.empty()) matrices_.push_back({&source, out});
}

void PackList::add(const TensorSource& source, std::vector<float>* out) {
  if (!source.empty()) vectors_.push_back({&source, out});
}

Status PackList::run(ThreadPool& pool, const CancelFlag* cancel) {
  for (const Vector& vector : vectors_) SMOE_RETURN_IF_ERROR(vector.source->values(vector.out));
  std::vector<Item> items;
  for (size_t next = 0; next < matrices_.size();) {
    if (cancelled(cancel)) return Status(Code::Cancelled, "cancelled while packing weights");
    items.clear();
    size_t batch_bytes = 0;
    for (; next < matrices_.size() && batch_bytes < kBatchBytes; next++) {
      const Matrix& matrix = matrices_[next];
      if (const QuantizedMatrix* quantized = matrix.source->quantized()) {
        SMOE_RETURN_IF_ERROR(pack_quantized(*quantized, matrix.out));
        batch_bytes += matrix.out->bytes();
        continue;
      }
      MatrixSource source;
      SMOE_RETURN_IF_ERROR(matrix.source->matrix(&source));
      const WeightFormat format = matrix.source->format(source, precision_ == Precision::Exact);
      if (format_info(format) != nullptr) {
        items.push_back({source, matrix.out, 0, 0, matrix.source, Status()});
        batch_bytes += static_cast<size_t>(source.rows) * static_cast<size_t>(source.cols);
        continue;
      }
      SMOE_RETURN_IF_ERROR(allocate_packed(source.rows, source.cols, format, matrix.out));
      const int64_t tiles = matrix.out->tiles();
      for (int64_t first = 0; first < tiles; first += kTilesPerItem) {
        items.push_back({source, matrix.out, first, std::min(first + kTilesPerItem, tiles), nullptr, Status()});
      }
      batch_bytes += matrix.out->bytes();
    }
    // A large matrix (an embedding) is a batch of its own: cancellation is polled inside as well.
    pool.parallel_for(static_cast<int64_t>(items.size()), [&](int64_t i, int) {
      Item& item = items[static_cast<size_t>(i)];
      if (cancelled(cancel)) return;
      if (item.quantize != nullptr) {
        item.status = quantize_and_pack(item.source, *item.quantize, item.out);
      } else {
        pack_tiles(item.source, item.out, item.first, item.last);
      }
    });
    for (const Item& item : items) SMOE_RETURN_IF_ERROR(item.status);
  }
  if (cancelled(cancel)) return Status(Code::Cancelled, "cancelled while packing weights");
  return {};
}

}  // namespace smoe
