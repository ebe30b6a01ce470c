#include "device/matrix.h"

#include <algorithm>
#include <cstring>

#include "core/buffer.h"
#include "device/code_matrix.h"
#include "kernels/experts/atoms.h"

namespace smoe {
namespace {

// Host memory of a piece: what overlaps packing with copying is many pieces, not large ones.
constexpr size_t kPieceBytes = size_t{8} << 20;

bool is_bf16(const PackedMatrix& matrix) { return matrix.format == WeightFormat::BF16; }

// Parts that hold a matrix: its own bits where it is bf16, else what the precision asks for.
int weight_parts(bool bf16, Precision precision) { return bf16 ? 1 : activation_parts(precision); }

// Row `row` of a matrix as f32 [cols], zero past the matrix.
void padded_row(const PackedMatrix& matrix, int64_t row, int64_t cols, float* out) {
  const bool real = row < matrix.rows;
  if (real) unpack_row(matrix, row, out);
  const int64_t from = real ? matrix.cols : 0;
  std::fill(out + from, out + cols, 0.0f);
}

// fill(block, rows) writes the 16 rows [16][cols] of a row block as f32.
template <class Fill>
Status upload_blocks(Device& device, int64_t rows, int64_t cols, int64_t blocks, int parts, const Fill& fill,
                     ThreadPool& pool, const CancelFlag* cancel, DeviceMatrix* out) {
  const int64_t words = cu::packed_words(blocks, cols);  // of one part
  const size_t block_bytes = static_cast<size_t>(cu::packed_words(1, cols)) * sizeof(cu::U32x4);
  size_t part_bytes = 0, total = 0;
  if (!checked_product(block_bytes, static_cast<size_t>(blocks), &part_bytes) ||
      !checked_product(part_bytes, static_cast<size_t>(parts), &total)) {
    return error(Code::OutOfMemory, "a matrix of [%lld, %lld] is larger than memory can be",
                 static_cast<long long>(rows), static_cast<long long>(cols));
  }
  DeviceMatrix made;
  SMOE_RETURN_IF_ERROR(device.allocate(total, &made.storage));

  const size_t fitting = kPieceBytes / (block_bytes * static_cast<size_t>(parts));
  const int64_t each = std::min(blocks, std::max<int64_t>(static_cast<int64_t>(fitting), pool.size()));
  const size_t scratch_floats = static_cast<size_t>(cu::kAtomRows * cols);
  Buffer piece, scratch;
  SMOE_RETURN_IF_ERROR(piece.allocate(static_cast<size_t>(each * parts) * block_bytes));
  SMOE_RETURN_IF_ERROR(scratch.allocate(static_cast<size_t>(pool.max_size()) * scratch_floats * sizeof(float)));
  for (int64_t first = 0; first < blocks; first += each) {
    if (cancelled(cancel)) return Status(Code::Cancelled, "cancelled");
    const int64_t count = std::min(each, blocks - first);
    const auto part_at = [&](int part, int64_t block) {
      return piece.as<unsigned char>() + static_cast<size_t>(part * each + block) * block_bytes;
    };
    pool.parallel_for(count, [&](int64_t block, int worker) {
      float* const values = scratch.as<float>() + static_cast<size_t>(worker) * scratch_floats;
      fill(first + block, values);
      for (int part = 0; part < parts; ++part) {
        const auto element = [&](int row, int64_t col) { return cu::bf16_part(values[row * cols + col], part); };
        cu::pack_row_block(cols, element, reinterpret_cast<cu::bf16*>(part_at(part, block)));
      }
    });
    const auto guard = device.lock();
    for (int part = 0; part < parts; ++part) {
      unsigned char* const to = made.storage.as<unsigned char>() + static_cast<size_t>(part) * part_bytes +
                                static_cast<size_t>(first) * block_bytes;
      SMOE_RETURN_IF_ERROR(device.copy_in(to, part_at(part, 0), static_cast<size_t>(count) * block_bytes));
    }
  }
  made.rows = rows;
  made.cols = cols;
  made.view.atoms = made.storage.as<cu::U32x4>();
  made.view.format = parts == 1 ? cu::AtomFormat::Bf16 : cu::AtomFormat::Bf16x3;
  made.view.part_step = parts == 1 ? 0 : words;
  *out = std::move(made);
  return Status();
}

}  // namespace

size_t DeviceMatrix::bytes() const {
  size_t total = storage.bytes() + scales.bytes() + zeros.bytes() + plane_table.bytes();
  for (const DeviceMatrix& plane : planes) total += plane.bytes();
  return total;
}

int activation_parts(Precision precision) { return precision == Precision::Exact ? 3 : 1; }

Status upload_matrix(Device& device, const PackedMatrix& from, Precision precision, ThreadPool& pool,
                     const CancelFlag* cancel, DeviceMatrix* out) {
  return upload_padded(device, from, from.rows, from.cols, precision, pool, cancel, out);
}

Status upload_padded(Device& device, const PackedMatrix& from, int64_t rows, int64_t cols, Precision precision,
                     ThreadPool& pool, const CancelFlag* cancel, DeviceMatrix* out) {
  AtomPlan plan;
  if (plan_atoms({&from}, cols, &plan)) {
    const auto row = [&](int64_t block, int j) { return atom_row(from, block, j); };
    return upload_codes(device, plan, rows, cu::row_blocks(rows), row, pool, cancel, out);
  }
  const auto fill = [&](int64_t block, float* values) {
    for (int64_t row = 0; row < cu::kAtomRows; ++row) {
      padded_row(from, block * cu::kAtomRows + row, cols, values + row * cols);
    }
  };
  return upload_blocks(device, rows, cols, cu::row_blocks(rows), weight_parts(is_bf16(from), precision), fill, pool,
                       cancel, out);
}

Status upload_gate_up(Device& device, const PackedMatrix& gate, const PackedMatrix& up, int64_t width,
                      Precision precision, ThreadPool& pool, const CancelFlag* cancel, DeviceMatrix* out) {
  return upload_gate_up_padded(device, gate, up, width, up.cols, precision, pool, cancel, out);
}

Status upload_gate_up_padded(Device& device, const PackedMatrix& gate, const PackedMatrix& up, int64_t width,
                             int64_t cols, Precision precision, ThreadPool& pool, const CancelFlag* cancel,
                             DeviceMatrix* out) {
  const int64_t blocks = cu::glu_row_blocks(width), rows = cu::kAtomRows * blocks;
  AtomPlan plan;
  if (plan_atoms({&gate, &up}, cols, &plan)) {
    const auto row = [&](int64_t block, int j) { return atom_row(gate, up, block, j); };
    return upload_codes(device, plan, rows, blocks, row, pool, cancel, out);
  }
  const auto fill = [&](int64_t block, float* values) {
    for (int64_t row = 0; row < cu::kAtomRows; ++row) {
      padded_row(row < 8 ? gate : up, block * 8 + row % 8, cols, values + row * cols);
    }
  };
  const int parts = weight_parts(is_bf16(gate) && is_bf16(up), precision);
  return upload_blocks(device, rows, cols, blocks, parts, fill, pool, cancel, out);
}

Status upload_stacked(Device& device, const std::vector<const PackedMatrix*>& from, Precision precision,
                      ThreadPool& pool, const CancelFlag* cancel, DeviceMatrix* out) {
  if (from.empty()) return error(Code::Internal, "no matrices to stack");
  const int64_t cols = from[0]->cols;
  int64_t rows = 0;
  bool bf16 = true;
  for (const PackedMatrix* matrix : from) {
    if (matrix->cols != cols) {
      return error(Code::ShapeMismatch, "stacked matrices need one width, got %lld and %lld",
                   static_cast<long long>(cols), static_cast<long long>(matrix->cols));
    }
    rows += matrix->rows;
    bf16 = bf16 && is_bf16(*matrix);
  }
  const auto at = [&](int64_t row) {
    size_t which = 0;
    while (which + 1 < from.size() && row >= from[which]->rows) row -= from[which++]->rows;
    return AtomRow{from[which], row};
  };
  AtomPlan plan;
  if (plan_atoms(from, cols, &plan)) {
    const auto row = [&](int64_t block, int j) {
      const AtomRow found = at(block * cu::kAtomRows + j);
      return found.row < found.matrix->rows ? found : AtomRow{};
    };
    return upload_codes(device, plan, rows, cu::row_blocks(rows), row, pool, cancel, out);
  }
  const auto fill = [&](int64_t block, float* values) {
    for (int64_t row = 0; row < cu::kAtomRows; ++row) {
      const AtomRow found = at(block * cu::kAtomRows + row);
      padded_row(*found.matrix, found.row, cols, values + row * cols);
    }
  };
  return upload_blocks(device, rows, cols, cu::row_blocks(rows), weight_parts(bf16, precision), fill, pool, cancel,
                       out);
}

Status upload_batch(Device& device, const std::vector<PackedMatrix>& from, Precision precision, ThreadPool& pool,
                    const CancelFlag* cancel, DeviceMatrix* out) {
  if (from.empty()) return error(Code::Internal, "no matrices side by side");
  const int64_t rows = from[0].rows, cols = from[0].cols, each = cu::row_blocks(rows);
  bool bf16 = true;
  for (const PackedMatrix& matrix : from) {
    if (matrix.rows != rows || matrix.cols != cols) {
      return error(Code::ShapeMismatch, "matrices side by side need one shape, got [%lld, %lld] and [%lld, %lld]",
                   static_cast<long long>(rows), static_cast<long long>(cols), static_cast<long long>(matrix.rows),
                   static_cast<long long>(matrix.cols));
    }
    bf16 = bf16 && is_bf16(matrix);
  }
  const int64_t blocks = each * static_cast<int64_t>(from.size());
  std::vector<const PackedMatrix*> all;
  for (const PackedMatrix& matrix : from) all.push_back(&matrix);
  AtomPlan plan;
  if (plan_atoms(all, cols, &plan)) {
    const auto row = [&](int64_t block, int j) {
      return atom_row(from[static_cast<size_t>(block / each)], block % each, j);
    };
    return upload_codes(device, plan, rows, blocks, row, pool, cancel, out);
  }
  const auto fill = [&](int64_t block, float* values) {
    for (int64_t row = 0; row < cu::kAtomRows; ++row) {
      padded_row(from[static_cast<size_t>(block / each)], block % each * cu::kAtomRows + row, cols,
                 values + row * cols);
    }
  };
  return upload_blocks(device, rows, cols, blocks, weight_parts(bf16, precision), fill, pool, cancel, out);
}

Status upload_floats(Device& device, const std::vector<float>& from, DeviceBuffer* out) {
  return upload_bytes(device, from.data(), from.size() * sizeof(float), out);
}

Status upload_rows(Device& device, const PackedMatrix& from, int64_t cols, DeviceBuffer* out) {
  const bool bf16 = is_bf16(from);
  const size_t row_bytes = static_cast<size_t>(cols) * (bf16 ? sizeof(cu::bf16) : sizeof(float));
  Buffer row, all;
  SMOE_RETURN_IF_ERROR(row.allocate(static_cast<size_t>(cols) * sizeof(float)));
  SMOE_RETURN_IF_ERROR(all.allocate(static_cast<size_t>(from.rows) * row_bytes));
  for (int64_t r = 0; r < from.rows; ++r) {
    padded_row(from, r, cols, row.as<float>());
    unsigned char* const to = all.as<unsigned char>() + static_cast<size_t>(r) * row_bytes;
    if (!bf16) {
      std::memcpy(to, row.data(), row_bytes);
      continue;
    }
    for (int64_t c = 0; c < cols; ++c) reinterpret_cast<cu::bf16*>(to)[c] = cu::to_bf16(row.as<float>()[c]);
  }
  return upload_bytes(device, all.data(), static_cast<size_t>(from.rows) * row_bytes, out);
}

Status upload_bytes(Device& device, const void* from, size_t bytes, DeviceBuffer* out) {
  DeviceBuffer made;
  if (bytes != 0) {
    SMOE_RETURN_IF_ERROR(device.allocate(bytes, &made));
    const auto guard = device.lock();
    SMOE_RETURN_IF_ERROR(device.copy_in(made.data(), from, bytes));
  }
  *out = std::move(made);
  return Status();
}

}  // namespace smoe
