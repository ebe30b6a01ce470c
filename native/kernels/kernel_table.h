// What a kernel backend on the CPU is: one filled table of function pointers. kernels/isa/<isa>.cc fills one
// each by compiling the same bodies (*-inl.h) against its own vector type. Kernels take raw pointers and
// plain structs, allocate nothing, print nothing, throw nothing.
//
// Every kernel works row by row with a fixed order of additions, so that a row's bits depend neither on the rows
// beside it nor on the number of threads.
#pragma once

#include <cmath>
#include <cstdint>

#include "formats/weight_format.h"

namespace smoe {

// How activations are held: f32 in exact; bf16 or, for integer weights, int8 in fast.
enum class Precision : int { Exact = 0, Fast = 1 };

enum class Activation : int { Silu = 0, GeluTanh = 1, GeluErf = 2, Relu = 3, Relu2 = 4, Identity = 5 };

// What lies between the projections of a feed-forward. Gated: act(min(g, limit)) * (clamp(u, +-limit) + beta), where
// Silu is x * sigmoid(alpha * x): (1, infinity, 0) is SwiGLU, (1.702, 7, 1) that of gpt-oss. Plain: act(u).
struct ActivationSpec {
  Activation kind = Activation::Silu;
  float alpha = 1;         // other than 1 with Silu only
  float limit = INFINITY;  // above 0
  float beta = 0;

  ActivationSpec(Activation activation = Activation::Silu) : kind(activation) {}
  bool plain() const { return alpha == 1 && limit == INFINITY && beta == 0; }
};

// The residual step after the MoE output y of one layer (specs: MomentumSMoE, arXiv 2410.14574).
//   Update     out = y
//   Add        out = x + y
//   Linear     m' = a*m + b*y;  out = x + s*m'            (heavy ball, negative, robust, Nesterov)
//   Complex    (r + i q)' = (a + i a_im)(r + i q) + b*y;  out = x + s*r'
//   Adam       p' = beta1*p + (1-beta1)*y; v' = beta2*v + (1-beta2)*y^2; m' = a*m + b*y (kept, not applied)
//              out = (1-kappa)*x + s*gamma1*p'/sqrt(v' + eps)
enum class ResidualKind : int { Update = 0, Add = 1, Linear = 2, Complex = 3, Adam = 4 };

struct ResidualStep {
  ResidualKind kind = ResidualKind::Update;
  float a = 0, a_im = 0, b = 1, s = 1;
  float gamma1 = 1, beta1 = 0.9f, beta2 = 0.999f, eps = 1e-8f, kappa = 1;
  // 1-beta1 and 1-beta2, rounded once: 1 - 0.999f is off by 1.3e-5 relative, which would show in p'/sqrt(v').
  float rest1 = 0.1f, rest2 = 0.001f;
  bool first = true;       // m and m_im are taken as zero and never read: stale NaN must not leak in
  bool first_adam = true;  // the same for p and v, which start at the first Adam layer
};

// The state rows of one token; pointers that a kind does not use are null.
struct ResidualState {
  float* m = nullptr;     // Linear, Adam: m;  Complex: real part
  float* m_im = nullptr;  // Complex: imaginary part
  float* p = nullptr;     // Adam; null with first_adam: not kept
  float* v = nullptr;     // Adam; as p
};

constexpr int kOutStride = 32;  // floats per row of a tile-pair result: two tiles of 16

// How activation rows are packed for a tile kernel, m rows side by side. K is padded to the unit of the weights.
enum class RowKind : int {
  F32 = 0,   // [K][m] floats
  Bf16 = 1,  // [K/2][m] bf16 pairs, k even in the low half
  Int8 = 2,  // [K/4][m] four signed bytes in [-127, 127], k ascending from the low byte; with scales and sums per group
};
constexpr int kRowKinds = 3;
// Where activated hidden units go: packed as RowKind F32 or Bf16, or as plain f32 rows, to be packed later.
enum class UnitForm : int { F32 = 0, Bf16 = 1, Rows = 2 };

// A call of a tile kernel:
//   out[row][0..15] (and [16..31] when w1 is given) = sum over k ascending of tile rows times activation rows
// (bf16 rows: within a pair the odd k first, as vdpbf16ps does, so that every instruction set gives the same bits).
// With groups, weight = mul * scale * (code - zero): codes of a group are summed up first, then scaled and added.
struct TileArgs {
  const void* w0 = nullptr;  // tiles (P16, packed_matrix.h); w1 may be null
  const void* w1 = nullptr;
  const void* s0 = nullptr;  // quantized: scale planes of the tiles, [groups][16]
  const void* s1 = nullptr;
  const void* z0 = nullptr;  // how far the zero points lie above `zero`, [groups][16]; null: symmetric
  const void* z1 = nullptr;
  const void* x = nullptr;         // packed activations, m rows
  const float* x_scale = nullptr;  // Int8: [groups][m]
  const int32_t* x_sum = nullptr;  // Int8: [groups][m] sums of the codes
  int64_t chunks = 0;              // units of the tile
  int64_t groups = 0;              // scale groups along K
  int64_t group_chunks = 0;        // units per group; the last group may have fewer
  float mul0 = 1, mul1 = 1;
  PlaneType scale_type = PlaneType::F16, zero_type = PlaneType::F16;
  int zero = 0;             // the format's own zero point
  int codebook = 0;         // w4c
  int planes = 0;           // wn: residual planes after the base; s0 is then [1 + planes][groups][16]
  bool accumulate = false;  // adds to out instead of setting it
  int m = 1;                // rows, 1..max_rows of the table
  float* out = nullptr;     // [m][kOutStride]
};
using TileFn = void (*)(const TileArgs& args);

struct KernelTable {
  const char* isa;  // "portable", "avx2", "avx512", "avx512bf16"
  int max_rows;     // most activation rows per TileFn call

  // --- experts and every other linear map, by weight format and kind of activation rows; null where a format does not
  // take that kind. F32 rows are exact; Bf16 (bf16, w4c, f8) and Int8 (w*, t*) rows are Precision::Fast.
  TileFn tile[kWeightFormats][kRowKinds];

  // Gathers m rows of K floats (each scaled by scale[r], null = 1) into the packed form of TileFn.
  // K odd is padded with a zero column to the chunk.
  void (*pack_rows_f32)(const float* const* rows, const float* scale, int m, int64_t k, int64_t padded_k, float* x);
  void (*pack_rows_bf16)(const float* const* rows, const float* scale, int m, int64_t k, int64_t padded_k, uint32_t* x);
  // Per row and group of `group` columns (from 0 on; padding belongs to the last): scale = amax/127 and codes =
  // x/scale, nearest even; a group whose amax is below 2^-100 is zero; one with a NaN or infinity has scale NaN.
  // padded_k is a multiple of 4, group too unless it is K. x_scale, x_sum [groups][m].
  void (*pack_rows_int8)(const float* const* rows, const float* scale, int m, int64_t k, int64_t padded_k,
                         int64_t group, void* x, float* x_scale, int32_t* x_sum);

  // tile results -> activated hidden units, written in packed form at unit offset `unit` of x (for the down
  // projection).
  //   tile [m][kOutStride]: gate in 0..15, up in 16..31 (GLU); or units in 0..15 (plain MLP)
  //   bias: `count` floats each, or null
  //   count: columns of x to write, 1..16. A caller that pads K lets the padding columns be written here too: weight
  //   rows past the matrix are zero and every activation maps 0 to 0 (their bias must be 0). In the bf16 form an odd
  //   count writes the zero half of its last pair; in the f32 form exactly `count` columns are touched.
  //   unit: a multiple of 16; in the packed forms m is also the stride of x
  //   UnitForm::Rows: x is [m][stride] floats, exactly `count` columns from `unit` on are touched
  void (*glu)(const float* tile, const float* bias_gate, const float* bias_up, const ActivationSpec& act, int m,
              int count, int64_t unit, void* x, UnitForm form, int64_t stride);
  void (*mlp)(const float* tile, const float* bias, Activation act, int m, int count, int64_t unit, void* x,
              UnitForm form, int64_t stride);

  // --- combine + residual in one pass over memory, one token.
  //   y = sum over slots in slot order of weight[j]*rows[j][.]  (rows[j] null: skipped), + shared_scale*shared (null:
  //   none) then `step`. update_out (nullable) also receives y (for traces). out may alias residual.
  void (*combine)(const float* const* rows, const float* weight, int slots, const float* shared, float shared_scale,
                  const float* residual, const ResidualStep* step, const ResidualState* state, int64_t h, float* out,
                  float* update_out);
  // u += c*m, the look-ahead of robust and Nesterov momentum.
  void (*axpy)(float c, const float* m, int64_t h, float* u);

  // --- norms, one row. out may alias x. weight/bias null = 1/0.
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t h, float* out);
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, int64_t h, float* out);
  void (*add)(const float* x, const float* y, int64_t h, float* out);  // out = x + y
  // Rotates the first rotary_dim elements of a head in place, half-split (Hugging Face) pairing (i, i + rotary_dim/2).
  void (*rotate)(float* head, const float* cos, const float* sin, int64_t rotary_dim);  // cos, sin [rotary_dim/2]
  void (*round_bf16)(float* x, int64_t n);  // rounds in place to bf16 values

  // --- attention, one (token, head). K cache in 16-key panels [ceil(n/16)][head_dim][16], V cache [n][head_dim].
  // f32 caches in exact, bf16 caches in fast. scores: scratch of ceil(n/16)*16 floats. Keys [begin, end) take part.
  // sink: a further score that takes its share of the softmax and has no value; -infinity for none.
  void (*attend_f32)(const float* q, const float* k_panels, const float* v, int64_t begin, int64_t end,
                     int64_t head_dim, float scale, float sink, float* scores, float* out);
  void (*attend_bf16)(const float* q, const uint16_t* k_panels, const uint16_t* v, int64_t begin, int64_t end,
                      int64_t head_dim, float scale, float sink, float* scores, float* out);
  // Multi-head latent attention: panels [ceil(n/16)][key_dim][16], whose first value_dim elements are the values too.
  void (*attend_latent_f32)(const float* q, const float* panels, int64_t begin, int64_t end, int64_t key_dim,
                            int64_t value_dim, float scale, float* scores, float* out);
  void (*attend_latent_bf16)(const float* q, const uint16_t* panels, int64_t begin, int64_t end, int64_t key_dim,
                             int64_t value_dim, float scale, float* scores, float* out);

  // --- routing and output rows
  void (*softmax)(const float* x, int64_t n, float* out);  // out may alias x; max-subtracted
  void (*sigmoid)(const float* x, int64_t n, float* out);
  // log(sum(exp(x))), accumulated in double.
  double (*log_sum_exp)(const float* x, int64_t n);

  // --- machine ceilings (kernels/tuning/ceilings.h). Each keeps one unit busy and returns something that depends on
  // all its work. Reads bytes (a multiple of 1024) of 64-byte aligned memory in order, as one stream.
  uint32_t (*probe_read)(const void* data, int64_t bytes);
  // `rounds` rounds of independent chains; the operations done are added to *flops. bf16 null: no such instruction,
  // bf16 rows are multiplied in f32 and the f32 figure is its ceiling.
  float (*probe_fma)(int64_t rounds, double* flops);
  float (*probe_bf16)(int64_t rounds, double* flops);
  // The byte dot product that Int8 rows use, two operations per product.
  float (*probe_int8)(int64_t rounds, double* ops);
  // The same for codes of at most four bits. Null: no faster.
  float (*probe_int4)(int64_t rounds, double* ops);
};

// Tables by name; null when this build or this CPU lacks the instruction set.
const KernelTable* find_kernels(const char* isa);
// The best table, or the one SMOE_ISA names. Null when SMOE_ISA names one that is unknown or not usable here.
const KernelTable* kernels();
// Makes kernels() return the named table from now on, whatever SMOE_ISA says; null goes back to the default. False, and
// nothing changes, when the name is unknown or not usable here. Operations under way keep the table they took.
bool force_kernels(const char* isa);
// Names of the tables usable on this machine, best last, count written to *count.
const char* const* usable_isas(int* count);

}  // namespace smoe
