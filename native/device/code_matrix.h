// Quantized matrices on a device: their codes as atoms (kernels/experts/pack_atoms.h).
#pragma once

#include <functional>

#include "device/matrix.h"
#include "kernels/experts/pack_atoms.h"

namespace smoe {

// `blocks` row blocks, row j of block b being row(b, j), laid out on the pool in pieces. `rows` of the map.
Status upload_codes(Device& device, const AtomPlan& plan, int64_t rows, int64_t blocks,
                    const std::function<AtomRow(int64_t, int)>& row, ThreadPool& pool, const CancelFlag* cancel,
                    DeviceMatrix* out);

}  // namespace smoe
