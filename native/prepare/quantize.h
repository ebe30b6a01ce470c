// From f32 weights to a QuantizedMatrix, by any of the methods of specs/quantization.md section 2.
#pragma once

#include "core/cancel.h"
#include "core/thread_pool.h"
#include "formats/quantized.h"
#include "prepare/symmetric.h"

namespace smoe {

enum class QuantizeMethod : int { Rtn = 0, Mse = 1, Hqq = 2, Gptq = 3 };

struct QuantizeOptions {
  WeightFormat format = WeightFormat::W4;
  int64_t group = 64;  // 0 = the whole row
  bool symmetric = true;
  QuantizeMethod method = QuantizeMethod::Mse;
  int planes = 0;          // wn: residual planes after the 2-bit base
  int codebook = 0;        // w4c: 0 MXFP4, 1 NVFP4, 2 NF4; by Rtn only, with the group that the codebook has
  double damping = 0.01;   // GPTQ: part of the mean diagonal
  bool act_order = false;  // GPTQ: columns by falling activation, with scales fixed beforehand
  int sweeps = 8;          // GPTQ: most rounds of descent on codes and scales after it; 0 = plain GPTQ
};

struct QuantizeReport {
  double squared_error = 0;   // sum (w - w^)^2
  double squared_weight = 0;  // sum w^2
  double loss = 0;            // GPTQ: sum over rows of (w - w^) H (w - w^)^T; never above the loss of Mse
  double damping = 0;
  int64_t dead_columns = 0;
};

// w [rows, cols]. `hessian` (null where none) is of the inputs of this matrix: Mse weighs columns by its diagonal, Gptq
// needs it. NaN and infinite weights are refused.
Status quantize(const float* w, int64_t rows, int64_t cols, const QuantizeOptions& options, const OuterSum* hessian,
                ThreadPool& pool, const CancelFlag* cancel, QuantizedMatrix* out, QuantizeReport* report);

// Appends one residual plane (MWQ, 2.8): w^ += s * sign(w - w^), s = mean |w - w^| of the group. The error falls
// strictly in every group that is not already exact.
Status add_plane(const float* w, QuantizedMatrix* matrix);

}  // namespace smoe
