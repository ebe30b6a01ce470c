#include "device/nested_matrix.h"

#include <algorithm>

#include "device/code_matrix.h"
#include "kernels/experts/atoms.h"

namespace smoe {
namespace {

// `blocks` row blocks, row j of block b being row(b, j), of `matrices`.
Status upload_parts(Device& device, const std::vector<const PackedMatrix*>& matrices, int64_t rows, int64_t cols,
                    int64_t blocks, const std::function<AtomRow(int64_t, int)>& row, ThreadPool& pool,
                    const CancelFlag* cancel, DeviceMatrix* out, bool* kept) {
  AtomPlan plan;
  *kept = plan_atoms(matrices, cols, &plan, kNestedBase);
  if (!*kept) return Status();
  DeviceMatrix made;
  SMOE_RETURN_IF_ERROR(upload_codes(device, plan, rows, blocks, row, pool, cancel, &made));
  int planes = 0;
  for (const PackedMatrix* matrix : matrices) planes = std::max(planes, matrix->planes);
  std::vector<cu::AtomMatrix> views;
  for (int plane = 1; plane <= planes; ++plane) {
    if (!plan_atoms(matrices, cols, &plan, plane)) return error(Code::Internal, "a residual plane has no atoms");
    DeviceMatrix uploaded;
    SMOE_RETURN_IF_ERROR(upload_codes(device, plan, rows, blocks, row, pool, cancel, &uploaded));
    views.push_back(uploaded.view);
    made.planes.push_back(std::move(uploaded));
  }
  SMOE_RETURN_IF_ERROR(upload_bytes(device, views.data(), views.size() * sizeof(cu::AtomMatrix), &made.plane_table));
  made.view.planes = made.plane_table.as<cu::AtomMatrix>();
  made.view.plane_count = planes;
  *out = std::move(made);
  return Status();
}

}  // namespace

Status upload_nested_padded(Device& device, const PackedMatrix& from, int64_t rows, int64_t cols, ThreadPool& pool,
                            const CancelFlag* cancel, DeviceMatrix* out, bool* kept) {
  const auto row = [&](int64_t block, int j) { return atom_row(from, block, j); };
  return upload_parts(device, {&from}, rows, cols, cu::row_blocks(rows), row, pool, cancel, out, kept);
}

Status upload_nested_gate_up_padded(Device& device, const PackedMatrix& gate, const PackedMatrix& up, int64_t width,
                                    int64_t cols, ThreadPool& pool, const CancelFlag* cancel, DeviceMatrix* out,
                                    bool* kept) {
  const int64_t blocks = cu::glu_row_blocks(width);
  const auto row = [&](int64_t block, int j) { return atom_row(gate, up, block, j); };
  return upload_parts(device, {&gate, &up}, cu::kAtomRows * blocks, cols, blocks, row, pool, cancel, out, kept);
}

}  // namespace smoe
