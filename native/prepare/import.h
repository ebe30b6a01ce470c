// Quantized weights of other tools into the canonical form (specs/quantization.md 1.1.2, 1.2.2, 1.3, 1.4, 1.5). Files
// are untrusted: every size is checked against the tensors' own before a byte is read.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "formats/quantized.h"

namespace smoe {

// A tensor as its file holds it.
struct RawTensor {
  std::string dtype;  // as safetensors spells it: "I32", "F8_E4M3", ...
  std::vector<int64_t> shape;
  std::vector<uint8_t> bytes;
};
using RawTensors = std::map<std::string, RawTensor>;

enum class ImportKind : int {
  Gptq = 0,    // qweight, qzeros, scales, g_idx (optional); [K, N]
  Awq = 1,     // qweight, qzeros, scales; [K, N], columns interleaved
  Packed = 2,  // compressed-tensors pack-quantized: weight_packed, weight_scale, weight_zero_point, weight_g_idx
  Int8 = 3,    // compressed-tensors int-quantized: weight I8, weight_scale, weight_zero_point
  Float8 = 4,  // weight F8_E4M3, weight_scale of any block size, multiplied (DeepSeek's weight_scale_inv too)
  Mxfp4 = 5,   // blocks U8 with the low nibble first, scales U8 (E8M0) per 32
  Nvfp4 = 6,   // weight_packed U8, weight_scale F8_E4M3 per 16, weight_global_scale F32, which divides
  BitNet = 7,  // weight U8 [N/4, K], weight_scale
};

struct ImportOptions {
  ImportKind kind = ImportKind::Gptq;
  int64_t rows = 0, cols = 0;         // of the matrix wanted
  int bits = 4;                       // Gptq, Awq, Packed
  int64_t group = 0;                  // 0 = the whole row
  bool stored_zero_minus_one = true;  // Gptq checkpoint_format "gptq"; false for "gptq_v2"
  bool divide = false;                // BitNet: weight_scale is 1 / gamma (linear_class "bitlinear")
};

Status import_quantized(const ImportOptions& options, const RawTensors& tensors, QuantizedMatrix* out);

}  // namespace smoe
