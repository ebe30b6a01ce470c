#include "device/nested_matrix.h"

#include <algorithm>

#include "device/code_matrix.h"
#include "kernels/experts/atoms.h"

namespace smoe {
namespace {

// `blocks` row blocks, row j of block b being row(b, j), of `matrices`, which have atoms as `base` says.
Status upload_parts(Device& device, const std::vector<const PackedMatrix*>& matrices, const AtomPlan& base,
                    int64_t rows, int64_t blocks, const std::function<AtomRow(int64_t, int)>& row, ThreadPool& pool,
                    const CancelFlag* cancel, DeviceMatrix* out) {
  DeviceMatrix made;
  SMOE_RETURN_IF_ERROR(upload_codes(device, base, rows, blocks, row, pool, cancel, &made));
  int planes = 0;
  for (const PackedMatrix* matrix : matrices) planes = std::max(planes, matrix->planes);
  std::vector<cu::AtomMatrix> views;
  for (int plane = 1; plane <= planes; ++plane) {
    AtomPlan plan;
    if (!plan_atoms(matrices, base.padded_cols, &plan, plane))
      return error(Code::Internal, "a residual plane has no atoms");
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

Status upload_nested_padded(Device& device, const PackedMatrix& from, int64_t rows, int64_t cols, Precision precision,
                            ThreadPool& pool, const CancelFlag* cancel, DeviceMatrix* out) {
  AtomPlan base;
  if (!plan_atoms({&from}, cols, &base, kNestedBase)) {
    return upload_padded(device, from, rows, cols, precision, pool, cancel, out);
  }
  const auto row = [&](int64_t block, int j) { return atom_row(from, block, j); };
  return upload_parts(device, {&from}, base, rows, cu::row_blocks(rows), row, pool, cancel, out);
}

Status upload_nested_gate_up_padded(Device& device, const PackedMatrix& gate, const PackedMatrix& up, int64_t width,
                                    int64_t cols, Precision precision, ThreadPool& pool, const CancelFlag* cancel,
                                    DeviceMatrix* out) {
  AtomPlan base;
  if (!plan_atoms({&gate, &up}, cols, &base, kNestedBase)) {
    return upload_gate_up_padded(device, gate, up, width, cols, precision, pool, cancel, out);
  }
  const int64_t blocks = cu::glu_row_blocks(width);
  const auto row = [&](int64_t block, int j) { return atom_row(gate, up, block, j); };
  return upload_parts(device, {&gate, &up}, base, cu::kAtomRows * blocks, blocks, row, pool, cancel, out);
}

}  // namespace smoe
