#include "device/code_matrix.h"

#include <algorithm>

#include "core/buffer.h"
#include "kernels/experts/atoms.h"

namespace smoe {
namespace {

// Host memory of a piece: what overlaps packing with copying is many pieces, not large ones.
constexpr size_t kPieceBytes = size_t{8} << 20;

}  // namespace

Status upload_codes(Device& device, const AtomPlan& plan, int64_t rows, int64_t blocks,
                    const std::function<AtomRow(int64_t, int)>& row, ThreadPool& pool, const CancelFlag* cancel,
                    DeviceMatrix* out) {
  size_t atom_bytes = 0, scale_bytes = 0;
  if (!checked_product(plan.atom_bytes, static_cast<size_t>(blocks), &atom_bytes) ||
      !checked_product(plan.scale_bytes, static_cast<size_t>(blocks), &scale_bytes)) {
    return error(Code::OutOfMemory, "a matrix of [%lld, %lld] is larger than memory can be",
                 static_cast<long long>(rows), static_cast<long long>(plan.padded_cols));
  }
  DeviceMatrix made;
  SMOE_RETURN_IF_ERROR(device.allocate(atom_bytes, &made.storage));
  SMOE_RETURN_IF_ERROR(device.allocate(scale_bytes, &made.scales));
  if (plan.zeros) SMOE_RETURN_IF_ERROR(device.allocate(scale_bytes, &made.zeros));

  const int64_t fitting = static_cast<int64_t>(kPieceBytes / plan.atom_bytes);
  const int64_t each = std::min(blocks, std::max<int64_t>(fitting, pool.size()));
  const size_t most = static_cast<size_t>(each);
  Buffer atoms, scales, zeros;
  SMOE_RETURN_IF_ERROR(atoms.allocate(most * plan.atom_bytes));
  SMOE_RETURN_IF_ERROR(scales.allocate(most * plan.scale_bytes));
  if (plan.zeros) SMOE_RETURN_IF_ERROR(zeros.allocate(most * plan.scale_bytes));
  std::vector<std::vector<unsigned char>> scratch(static_cast<size_t>(pool.max_size()));
  for (int64_t first = 0; first < blocks; first += each) {
    if (cancelled(cancel)) return Status(Code::Cancelled, "cancelled");
    const int64_t count = std::min(each, blocks - first);
    pool.parallel_for(count, [&](int64_t block, int worker) {
      AtomRow from[cu::kAtomRows];
      for (int j = 0; j < cu::kAtomRows; ++j) from[j] = row(first + block, j);
      const size_t at = static_cast<size_t>(block);
      pack_atom_block(plan, from, atoms.as<unsigned char>() + at * plan.atom_bytes,
                      scales.as<unsigned char>() + at * plan.scale_bytes,
                      plan.zeros ? zeros.as<unsigned char>() + at * plan.scale_bytes : nullptr,
                      &scratch[static_cast<size_t>(worker)]);
    });
    const auto guard = device.lock();
    const auto copy = [&](const DeviceBuffer& to, const Buffer& from, size_t bytes) {
      return device.copy_in(to.as<unsigned char>() + static_cast<size_t>(first) * bytes, from.data(),
                            static_cast<size_t>(count) * bytes);
    };
    SMOE_RETURN_IF_ERROR(copy(made.storage, atoms, plan.atom_bytes));
    SMOE_RETURN_IF_ERROR(copy(made.scales, scales, plan.scale_bytes));
    if (plan.zeros) SMOE_RETURN_IF_ERROR(copy(made.zeros, zeros, plan.scale_bytes));
  }
  made.rows = rows;
  made.cols = plan.padded_cols;
  made.view.atoms = made.storage.as<cu::U32x4>();
  made.view.scales = made.scales.data();
  made.view.zeros = plan.zeros ? made.zeros.data() : nullptr;
  made.view.format = plan.format;
  made.view.scale_type = plan.scale_type;
  made.view.group = plan.group;
  made.view.mul = plan.mul;
  *out = std::move(made);
  return Status();
}

}  // namespace smoe
