// What qkv_finish and latent_finish share: rotary angles and RMS norms of heads.
#pragma once

#include "cuda/cu.h"
#include "kernels/attention/attention_args.h"

namespace smoe::cu {

constexpr int kFinishWarps = 8, kFinishThreads = 32 * kFinishWarps;

// Sine and cosine in double for any angle that is an f32. The library's own keep a table in local memory for huge
// arguments; with fma, pi/2 as two doubles is enough: x - k * high has one rounding, of a number below 1. Then the
// polynomials of fdlibm (Sun Microsystems, k_sin.c and k_cos.c) on [-pi/4, pi/4], within 1e-16.
struct SineCosine {
  double sine, cosine;
};
SMOE_DEVICE SineCosine sine_cosine(double x) {
  const double turns = ::rint(x * 0.63661977236758134308);
  double r = ::fma(-turns, 1.57079632679489655800, x);
  r = ::fma(-turns, 6.12323399573676603587e-17, r);
  const double z = r * r;
  double s = 1.58969099521155010221e-10;
  s = ::fma(s, z, -2.50507602534068634195e-08);
  s = ::fma(s, z, 2.75573137070700676789e-06);
  s = ::fma(s, z, -1.98412698298579493134e-04);
  s = ::fma(s, z, 8.33333333332248946124e-03);
  s = ::fma(s, z, -1.66666666666666324348e-01);
  s = ::fma(s * z, r, r);
  double c = -1.13596475577881948265e-11;
  c = ::fma(c, z, 2.08757232129817482790e-09);
  c = ::fma(c, z, -2.75573143513906633035e-07);
  c = ::fma(c, z, 2.48015872894767294178e-05);
  c = ::fma(c, z, -1.38888888888741095749e-03);
  c = ::fma(c, z, 4.16666666666666019037e-02);
  c = ::fma(c * z, z, ::fma(-0.5, z, 1.0));
  const int quadrant = static_cast<int>(static_cast<int64_t>(turns) & 3);
  const double sine = (quadrant & 1) != 0 ? c : s, cosine = (quadrant & 1) != 0 ? s : c;
  return {quadrant >= 2 ? -sine : sine, quadrant == 1 || quadrant == 2 ? -cosine : cosine};
}

inline size_t angles_bytes(const RopeArgs& rope) { return 2 * static_cast<size_t>(rope.half) * sizeof(float); }

// Cosines [half], then sines, of one position, by the whole block; a barrier must follow. As decoder/rope.cc: the angle
// is rounded to f32, as in the models' training code, its cosine exact to one rounding.
SMOE_DEVICE void make_angles(const RopeArgs& rope, int64_t position, float* angles) {
  for (int i = tid(); i < rope.half; i += nthreads()) {
    const float angle = static_cast<float>(position) * ldg(rope.inv_freq + i);
    const SineCosine at = sine_cosine(static_cast<double>(angle));
    sts(angles + i, static_cast<float>(at.cosine) * rope.scale);
    sts(angles + rope.half + i, static_cast<float>(at.sine) * rope.scale);
  }
}

// Every lane ends with the same sum.
SMOE_DEVICE float warp_sum(float x) {
  SMOE_UNROLL
  for (int bits = 16; bits > 0; bits /= 2) x += shfl_xor(x, bits);
  return x;
}

// Squares of f32 above 1.8e19 overflow. A sum that does is taken again of elements times this power of two
// (kernels/norm/norm-inl.h).
constexpr float kNormRescue = 0x1p-80f;

// x becomes x * scale * root * weight.
struct NormFactor {
  float scale = 1, root = 1;
};
// squares: of x * scale. 0 for rows of zeros with eps = 0, not NaN.
SMOE_DEVICE NormFactor norm_factor(float squares, float scale, int64_t width, float eps) {
  const float mean = squares / static_cast<float>(width) + eps * scale * scale;
  return {scale, mean == 0 ? 0.0f : 1 / sqrtf(mean)};
}

}  // namespace smoe::cu
