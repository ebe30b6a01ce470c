// Bit-nested matrices (wn) on a device: the base and, as matrices of their own, the residual planes, so that a call may
// read the first few. For kernels that know planes (cu::NestedRead); elsewhere such matrices are decoded (matrix.h).
#pragma once

#include "device/matrix.h"

namespace smoe {

// As upload_padded() and upload_gate_up_padded(). *kept: whether the matrices are bit-nested and on the device as such;
// if not, `out` is as it was and nothing has been allocated.
Status upload_nested_padded(Device& device, const PackedMatrix& from, int64_t rows, int64_t cols, ThreadPool& pool,
                            const CancelFlag* cancel, DeviceMatrix* out, bool* kept);
Status upload_nested_gate_up_padded(Device& device, const PackedMatrix& gate, const PackedMatrix& up, int64_t width,
                                    int64_t cols, ThreadPool& pool, const CancelFlag* cancel, DeviceMatrix* out,
                                    bool* kept);

}  // namespace smoe
