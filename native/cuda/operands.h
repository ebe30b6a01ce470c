// Operands of the CUDA kernels: rows of activations, packed matrices, pages of a KV cache. Plain structs of device
// pointers, filled by the host and passed by value; nothing here owns memory.
#pragma once

#include "cuda/types.h"

namespace smoe::cu {

// Activations as tensor cores read them: `parts` planes of bf16 whose sum is the value. One plane, rounded, under
// Precision::Fast; three under Exact, which is all 24 significant bits of an f32 (3 x 8). A row-major matrix per plane.
struct Planes {
  bf16* data = nullptr;
  int64_t step = 0;  // elements from a plane to the next
  int parts = 1;     // 1 or 3
};

// How the elements of an atom are coded. Bf16x3 is an f32 matrix as three Bf16 matrices, one after the other, in the
// order of their parts. In the others a code stands for a value that bf16 holds exactly:
// W8 u - 128, W4 u - 8, T2 u - 1, F8 and Mxfp4 the float; an element is mul * scale * (value - zero). Which formats of
// formats/quantized.h are kept as which, kernels/experts/pack_atoms.h says; atoms are in kernels/experts/atoms*.h.
// Signs, 2u - 1, is the format of residual planes alone.
enum class AtomFormat : int { Bf16 = 0, Bf16x3 = 1, W8 = 2, W4 = 3, T2 = 4, F8 = 5, Mxfp4 = 6, Signs = 7 };
constexpr int kAtomFormats = 7;  // that a matrix may be of

// Element of a scale or zero plane. E8m0: a byte e that stands for 2^(e - 127), scales only.
enum class ScaleType : int { F32 = 0, F16 = 1, E8m0 = 2 };

// A packed matrix [rows, cols]: row blocks of 16 rows, each a run of atoms along the columns. In a gated expert's
// gate-and-up matrix a block is 8 gate rows and the 8 up rows of the same features, so rows = 2 * ceil8(width).
// Rows and columns past the matrix hold the code of zero (bf16: zeros).
struct AtomMatrix {
  const U32x4* atoms = nullptr;  // [row blocks][atoms along K][32 lanes]
  int64_t part_step = 0;         // Bf16x3: U32x4 elements from one part to the next
  const void* scales = nullptr;  // [row blocks][groups][16], groups of whole atoms: ceil(atoms along K / group)
  const void* zeros = nullptr;   // as scales, or null: symmetric
  AtomFormat format = AtomFormat::Bf16;
  ScaleType scale_type = ScaleType::F32;
  int group = 0;  // columns per scale, a multiple of 32 (Mxfp4: of 16); 0: one per row
  float mul = 1;  // factor of every scale
  // Bit-nested matrices: the residual planes, matrices of Signs of the same size and groups that are added to this one.
  // A reader may take the first few. Kernels of experts alone know them (nested_planes.cuh).
  const AtomMatrix* planes = nullptr;  // [plane_count] on the device
  int plane_count = 0;
};

// Keys and values of one sequence in pages of kPageTokens positions, so that growing moves nothing and a captured graph
// stays valid. In a page, each layer's part is keys [kv_heads][kPageTokens][key_dim], then values
// [kv_heads][kPageTokens][value_dim]; value_dim 0: the first elements of the keys are the values (latent attention).
constexpr int kPageTokens = 64;
struct KvPages {
  void* const* pages = nullptr;  // device array, by position / kPageTokens
  int64_t layer_offset = 0;      // bytes from the start of a page to this layer's part
  int kv_heads = 0, key_dim = 0, value_dim = 0;
  bool f32 = false;  // Precision::Exact; else bf16
};

// What changes from call to call of one captured graph, on the device; everything else is fixed when it is captured.
struct StepInput {
  int32_t tokens = 0;     // rows that are real, at most the graph's
  int32_t position = 0;   // of the first row
  float temperature = 0;  // sampling: as decoder/sampler.h
  float top_p = 1;
  int32_t top_k = 0;
  uint32_t seed = 0;
};

}  // namespace smoe::cu
