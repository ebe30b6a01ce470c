#include "device/matrix.h"

#include <algorithm>
#include <cstring>

#include "core/buffer.h"
#include "kernels/experts/atoms.h"
#include "kernels/experts/pack_atoms.h"

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

// Bytes of `count` equal blocks; false: more than memory can be.
bool block_bytes(int64_t blocks, size_t each, size_t* total) {
  return checked_product(static_cast<size_t>(blocks), each, total);
}

Status too_large(int64_t rows, int64_t cols) {
  return error(Code::OutOfMemory, "a matrix of [%lld, %lld] is larger than memory can be", static_cast<long long>(rows),
               static_cast<long long>(cols));
}

// fill(block, rows) writes the 16 rows [16][cols] of a row block as f32.
template <class Fill>
Status upload_blocks(Device& device, int64_t rows, int64_t cols, int64_t blocks, int parts, const Fill& fill,
                     ThreadPool& pool, const CancelFlag* cancel, DeviceMatrix* out) {
  const int64_t words = cu::packed_words(blocks, cols);  // of one part
  const size_t each_bytes = static_cast<size_t>(cu::packed_words(1, cols)) * sizeof(cu::U32x4);
  size_t part_bytes = 0, total = 0;
  if (!block_bytes(blocks, each_bytes, &part_bytes) || !block_bytes(parts, part_bytes, &total)) {
    return too_large(rows, cols);
  }
  DeviceMatrix made;
  SMOE_RETURN_IF_ERROR(device.allocate(total, &made.storage));

  const size_t fitting = kPieceBytes / (each_bytes * static_cast<size_t>(parts));
  const int64_t each = std::min(blocks, std::max<int64_t>(static_cast<int64_t>(fitting), pool.size()));
  const size_t scratch_floats = static_cast<size_t>(cu::kAtomRows * cols);
  Buffer piece, scratch;
  SMOE_RETURN_IF_ERROR(piece.allocate(static_cast<size_t>(each * parts) * each_bytes));
  SMOE_RETURN_IF_ERROR(scratch.allocate(static_cast<size_t>(pool.max_size()) * scratch_floats * sizeof(float)));
  for (int64_t first = 0; first < blocks; first += each) {
    if (cancelled(cancel)) return Status(Code::Cancelled, "cancelled");
    const int64_t count = std::min(each, blocks - first);
    const auto part_at = [&](int part, int64_t block) {
      return piece.as<unsigned char>() + static_cast<size_t>(part * each + block) * each_bytes;
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
                                static_cast<size_t>(first) * each_bytes;
      SMOE_RETURN_IF_ERROR(device.copy_in(to, part_at(part, 0), static_cast<size_t>(count) * each_bytes));
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

// Codes stay codes. row_of(block, j) is row j of a row block.
template <class RowOf>
Status upload_codes(Device& device, const AtomPlan& plan, int64_t rows, int64_t blocks, const RowOf& row_of,
                    ThreadPool& pool, const CancelFlag* cancel, DeviceMatrix* out) {
  DeviceMatrix made;
  size_t atom_bytes = 0, scale_bytes = 0;
  if (!block_bytes(blocks, plan.atom_bytes, &atom_bytes) || !block_bytes(blocks, plan.scale_bytes, &scale_bytes)) {
    return too_large(rows, plan.padded_cols);
  }
  SMOE_RETURN_IF_ERROR(device.allocate(atom_bytes, &made.storage));
  SMOE_RETURN_IF_ERROR(device.allocate(scale_bytes, &made.scales));
  if (plan.zeros) SMOE_RETURN_IF_ERROR(device.allocate(scale_bytes, &made.zeros));

  const size_t all = plan.atom_bytes + plan.scale_bytes * (plan.zeros ? 2 : 1);
  const int64_t each = std::min(blocks, std::max<int64_t>(static_cast<int64_t>(kPieceBytes / all), pool.size()));
  Buffer piece;
  SMOE_RETURN_IF_ERROR(piece.allocate(static_cast<size_t>(each) * all));
  unsigned char* const atoms = piece.as<unsigned char>();
  unsigned char* const scales = atoms + static_cast<size_t>(each) * plan.atom_bytes;
  unsigned char* const zeros = plan.zeros ? scales + static_cast<size_t>(each) * plan.scale_bytes : nullptr;
  std::vector<std::vector<unsigned char>> scratch(static_cast<size_t>(pool.max_size()));
  for (int64_t first = 0; first < blocks; first += each) {
    if (cancelled(cancel)) return Status(Code::Cancelled, "cancelled");
    const size_t count = static_cast<size_t>(std::min(each, blocks - first));
    pool.parallel_for(static_cast<int64_t>(count), [&](int64_t index, int worker) {
      AtomRow from[cu::kAtomRows];
      for (int j = 0; j < cu::kAtomRows; ++j) from[j] = row_of(first + index, j);
      const size_t at = static_cast<size_t>(index);
      pack_atom_block(plan, from, atoms + at * plan.atom_bytes, scales + at * plan.scale_bytes,
                      plan.zeros ? zeros + at * plan.scale_bytes : nullptr, &scratch[static_cast<size_t>(worker)]);
    });
    const auto guard = device.lock();
    const auto copy = [&](const DeviceBuffer& to, const unsigned char* from, size_t bytes) {
      return device.copy_in(to.as<unsigned char>() + static_cast<size_t>(first) * bytes, from, count * bytes);
    };
    SMOE_RETURN_IF_ERROR(copy(made.storage, atoms, plan.atom_bytes));
    SMOE_RETURN_IF_ERROR(copy(made.scales, scales, plan.scale_bytes));
    if (plan.zeros) SMOE_RETURN_IF_ERROR(copy(made.zeros, zeros, plan.scale_bytes));
  }
  made.rows = rows;
  made.cols = plan.padded_cols;
  made.view.atoms = made.storage.as<cu::U32x4>();
  made.view.scales = made.scales.data();
  made.view.zeros = made.zeros.data();
  made.view.format = plan.format;
  made.view.scale_type = plan.scale_type;
  made.view.group = plan.group;
  made.view.mul = plan.mul;
  *out = std::move(made);
  return Status();
}

}  // namespace

int activation_parts(Precision precision) { return precision == Precision::Exact ? 3 : 1; }

Status upload_matrix(Device& device, const PackedMatrix& from, Precision precision, ThreadPool& pool,
                     const CancelFlag* cancel, DeviceMatrix* out) {
  return upload_padded(device, from, from.rows, from.cols, precision, pool, cancel, out);
}

Status upload_padded(Device& device, const PackedMatrix& from, int64_t rows, int64_t cols, Precision precision,
                     ThreadPool& pool, const CancelFlag* cancel, DeviceMatrix* out) {
  AtomPlan plan;
  if (plan_atoms({&from}, cols, &plan)) {
    const auto row_of = [&](int64_t block, int j) { return atom_row(from, block, j); };
    return upload_codes(device, plan, rows, cu::row_blocks(rows), row_of, pool, cancel, out);
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
    const auto row_of = [&](int64_t block, int j) { return atom_row(gate, up, block, j); };
    return upload_codes(device, plan, rows, blocks, row_of, pool, cancel, out);
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
  const auto source = [&](int64_t at) {
    size_t which = 0;
    while (which + 1 < from.size() && at >= from[which]->rows) at -= from[which++]->rows;
    return AtomRow{from[which], at};
  };
  AtomPlan plan;
  if (plan_atoms(from, cols, &plan)) {
    const auto row_of = [&](int64_t block, int j) {
      const AtomRow row = source(block * cu::kAtomRows + j);
      return row.row < row.matrix->rows ? row : AtomRow{};
    };
    return upload_codes(device, plan, rows, cu::row_blocks(rows), row_of, pool, cancel, out);
  }
  const auto fill = [&](int64_t block, float* values) {
    for (int64_t row = 0; row < cu::kAtomRows; ++row) {
      const AtomRow at = source(block * cu::kAtomRows + row);
      padded_row(*at.matrix, at.row, cols, values + row * cols);
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
  const auto fill = [&](int64_t block, float* values) {
    for (int64_t row = 0; row < cu::kAtomRows; ++row) {
      padded_row(from[static_cast<size_t>(block / each)], block % each * cu::kAtomRows + row, cols,
                 values + row * cols);
    }
  };
  const int64_t blocks = each * static_cast<int64_t>(from.size());
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
