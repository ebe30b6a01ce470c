// Arguments of the CUDA kernels of the experts, and of every other linear map.
#pragma once

#include "cuda/operands.h"
#include "kernels/kernel_table.h"
#include "kernels/route/route_args.h"

namespace smoe::cu {

// How matrices with residual planes are read. Kernels for others know nothing of planes.
struct NestedRead {
  bool any = false;               // some matrix has planes
  const int32_t* most = nullptr;  // [E] planes of an expert that are added; null: all
};

// K2: gate and up projections and the activation of the active experts, up to 64 tokens.
struct GateUpArgs {
  const AtomMatrix* weights = nullptr;  // [E] on the device. Gated: gate and up by 8 + 8 rows; plain: up alone, by 16
  bool glu = true;
  const float* gate_bias = nullptr;  // [E, I] or null
  const float* up_bias = nullptr;    // [E, I] or null
  Planes x;                          // [T, H]
  Planes h;                          // [T * K, I] by row
  int64_t hidden = 0;
  int64_t width = 0;  // I, a multiple of 8 (plain: of 16); experts that are narrower are padded with zero rows
  int experts = 0;
  ActivationSpec activation;
  bool weight_on_input = false;  // the routing weight multiplies x (Llama-4): by linearity, both sums
  bool bf16_only = false;        // every matrix is AtomFormat::Bf16 and x has one plane: the narrow kernel may be taken
  NestedRead nested;
  int max_tokens = 0;  // 1..64
  int slots = 0;       // experts of a token at most; 0: unknown. With it a smaller kernel may be taken
  int blocks = 0;      // of the grid: about the number of SMs, or twice that
  DispatchBits plan;
};

// K3: down projections of the active experts, weighted combine, shared output, residual and momentum, up to 64 tokens.
struct DownCombineArgs {
  const AtomMatrix* weights = nullptr;  // [E] on the device, [H, I]
  const float* bias = nullptr;          // [E, H] or null
  Planes h;                             // [T * K, I], from K2
  int64_t hidden = 0, width = 0;
  int experts = 0;
  bool weight_on_input = false;  // the routing weight was applied by K2
  bool bf16_only = false;
  NestedRead nested;
  const int32_t* num_tokens = nullptr;  // null: max_tokens
  int max_tokens = 0;                   // rows of out; those from *num_tokens on become 0
  int slots = 0;                        // as in GateUpArgs
  const float* shared = nullptr;        // [T, H] output of the shared expert, or null
  const float* shared_scale = nullptr;  // [T], or null: 1
  const float* residual = nullptr;      // [T, H]; may be out
  ResidualStep step;
  ResidualState state;          // base pointers of [T, H]
  float* out = nullptr;         // [T, H]
  float* update_out = nullptr;  // [T, H] for traces, or null
  DispatchBits plan;
};

// A grouped GEMM over the rows of a dispatch: P3 (gate and up, with activation) and P4 (down), mma.sync or wgmma.
// Row r of expert e, offset[e] <= r < offset[e + 1], times matrix e.
struct GroupedGemmArgs {
  const AtomMatrix* weights = nullptr;  // [E] on the device
  int experts = 0;
  int64_t k = 0;           // columns of the matrices
  int64_t features = 0;    // gated: I, a multiple of 8; else the rows of the matrices
  bool glu = false;        // gate and up rows by 8 + 8: h = act(g) * u
  bool activate = false;   // plain MLP: h = act(u)
  bool no_codes = false;   // every matrix is of bf16 parts: the kernels without codes may be taken
  bool bf16_only = false;  // every matrix is AtomFormat::Bf16: wgmma, too, may be taken
  NestedRead nested;
  ActivationSpec activation;
  const float* gate_bias = nullptr;  // [E, features] or null, glu only
  const float* bias = nullptr;       // [E, features] or null: of up, or of the plain map
  Planes x;                          // rows of `x_stride`
  int64_t x_stride = 0;
  const int32_t* gather = nullptr;   // [P] row of x, or null: row r itself
  const float* row_scale = nullptr;  // [P] factor of the sums before the bias (weight on input), or null
  const int32_t* offset = nullptr;   // [E + 1]
  int64_t max_rows = 0;              // P at most: sizes the grid and the choice of tiles
  int max_groups = 0;                // experts with rows at most: min(E, P)
  Planes out;                        // [P, features], data null: out_f32 instead
  float* out_f32 = nullptr;          // [P, features]
  int blocks = 0;                    // SMs
};

// P5: out = step(sum of weight * y over the slots of a token in ascending order of expert id, + shared). The order is
// K3's, so that both paths differ by the rounding of y alone.
struct CombineRowsArgs {
  const bf16* y = nullptr;            // [P, H], or
  const float* y_f32 = nullptr;       // [P, H]
  const int32_t* ids = nullptr;       // [T, K]
  const int32_t* position = nullptr;  // [T, K]
  const float* weights = nullptr;     // [T, K]; null: 1 (weight on input)
  int slots = 0;
  int64_t tokens = 0, hidden = 0;
  const float* shared = nullptr;
  const float* shared_scale = nullptr;
  const float* residual = nullptr;
  ResidualStep step;
  ResidualState state;
  float* out = nullptr;
  float* update_out = nullptr;
};

// y = x W^T + bias of every row, then sigmoid, then + residual. `batch` equal maps side by side (latent attention: one
// per head): map b reads columns [b * x_step, b * x_step + k) of x, matrix b, and writes columns from b * out_step on.
struct LinearArgs {
  AtomMatrix weight;        // [rows, k], `batch` of them one after the other
  int64_t rows = 0, k = 0;  // of one map
  int batch = 1;
  const float* bias = nullptr;  // [batch * rows] or null
  Planes x;
  int64_t x_stride = 0, x_step = 0;
  bool sigmoid = false;
  const float* residual = nullptr;  // as out, may be out; or null
  float* out = nullptr;             // [T, out_stride] or null
  Planes out_planes;                // [T, out_stride] or none
  int64_t out_stride = 0, out_step = 0;
  const int32_t* num_tokens = nullptr;  // null: max_tokens
  int64_t max_tokens = 0;
  int blocks = 0;
};

}  // namespace smoe::cu
