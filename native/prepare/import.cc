#include "prepare/import.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "core/buffer.h"
#include "prepare/import_tensor.h"

namespace smoe {
namespace {

using namespace import_detail;

Status format_of_bits(int bits, WeightFormat* out) {
  switch (bits) {
    case 8:
      *out = WeightFormat::W8;
      return Status();
    case 4:
      *out = WeightFormat::W4;
      return Status();
    case 3:
      *out = WeightFormat::W3;
      return Status();
    case 2:
      *out = WeightFormat::W2;
      return Status();
    default:
      return error(Code::InvalidQuantization, "%d bits per weight are not supported (2, 3, 4, 8 are)", bits);
  }
}

// Field `index` of `bits` bits in an LSB-first stream of little-endian words that lie `stride` words apart.
uint32_t field(const uint8_t* words, int64_t index, int bits, int64_t stride) {
  const int64_t bit = index * bits, word = bit / 32, shift = bit % 32;
  uint64_t value;
  uint32_t low, high = 0;
  std::memcpy(&low, words + word * stride * 4, 4);
  if (shift + bits > 32) std::memcpy(&high, words + (word + 1) * stride * 4, 4);
  value = low | static_cast<uint64_t>(high) << 32;
  return static_cast<uint32_t>(value >> shift) & ((1u << bits) - 1);
}

// Groups in their order along K: a permuted g_idx (desc_act) would need the activations permuted as well.
Status check_order(const RawTensors& tensors, const char* name, int64_t cols, int64_t group) {
  const RawTensor* tensor = find(tensors, name);
  if (tensor == nullptr) return Status();
  SMOE_RETURN_IF_ERROR(expect(*tensor, name, {"I32"}, {cols}));
  for (int64_t k = 0; k < cols; ++k) {
    int32_t index;
    std::memcpy(&index, tensor->bytes.data() + 4 * k, 4);
    if (index == k / group) continue;
    return error(Code::InvalidQuantization, "%s is not in order (desc_act): column %lld is in group %d", name,
                 static_cast<long long>(k), index);
  }
  return Status();
}

// Zero points that are all the middle say nothing: the symmetric form is smaller and faster.
void drop_middle_zeros(float middle, QuantizedMatrix* out) {
  for (float zero : out->zeros)
    if (zero != middle) return;
  out->zeros.clear();
}

Status gptq(const ImportOptions& o, const RawTensors& tensors, QuantizedMatrix* out) {
  const int64_t n = o.rows, k = o.cols, groups = out->groups(), bits = o.bits;
  if (k * bits % 32 != 0 || n * bits % 32 != 0)
    return error(Code::InvalidQuantization, "GPTQ words need sizes that fill them, got [%lld, %lld] at %d bits",
                 static_cast<long long>(n), static_cast<long long>(k), o.bits);
  const RawTensor *weight, *zeros;
  SMOE_RETURN_IF_ERROR(require(tensors, "qweight", {"I32"}, {k * bits / 32, n}, &weight));
  SMOE_RETURN_IF_ERROR(require(tensors, "qzeros", {"I32"}, {groups, n * bits / 32}, &zeros));
  std::vector<float> scales;
  SMOE_RETURN_IF_ERROR(read_floats(tensors, "scales", {groups, n}, &scales));
  SMOE_RETURN_IF_ERROR(check_order(tensors, "g_idx", k, out->group));
  const uint32_t mask = (1u << bits) - 1;
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t i = 0; i < k; ++i)
      out->codes[size_t(row * k + i)] = static_cast<uint8_t>(field(weight->bytes.data() + 4 * row, i, o.bits, n));
    for (int64_t g = 0; g < groups; ++g) {
      out->scales[size_t(row * groups + g)] = scales[size_t(g * n + row)];
      uint32_t zero = field(zeros->bytes.data() + g * (n * bits / 32) * 4, row, o.bits, 1);
      if (o.stored_zero_minus_one) zero = (zero + 1) & mask;
      out->zeros[size_t(row * groups + g)] = static_cast<float>(zero);
    }
  }
  return Status();
}

Status awq(const ImportOptions& o, const RawTensors& tensors, QuantizedMatrix* out) {
  static const int nibble_of[] = {0, 4, 1, 5, 2, 6, 3, 7};  // of column 8c + j
  const int64_t n = o.rows, k = o.cols, groups = out->groups();
  if (o.bits != 4 || n % 8 != 0)
    return error(Code::InvalidQuantization, "AWQ has 4 bits and a multiple of 8 rows, got %d and %lld", o.bits,
                 static_cast<long long>(n));
  const RawTensor *weight, *zeros;
  SMOE_RETURN_IF_ERROR(require(tensors, "qweight", {"I32"}, {k, n / 8}, &weight));
  SMOE_RETURN_IF_ERROR(require(tensors, "qzeros", {"I32"}, {groups, n / 8}, &zeros));
  std::vector<float> scales;
  SMOE_RETURN_IF_ERROR(read_floats(tensors, "scales", {groups, n}, &scales));
  const auto nibble = [&](const RawTensor& tensor, int64_t line, int64_t row) {
    const int place = nibble_of[row % 8];
    const uint8_t byte = tensor.bytes[size_t((line * (n / 8) + row / 8) * 4 + place / 2)];
    return static_cast<uint8_t>(place % 2 != 0 ? byte >> 4 : byte & 15);
  };
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t i = 0; i < k; ++i) out->codes[size_t(row * k + i)] = nibble(*weight, i, row);
    for (int64_t g = 0; g < groups; ++g) {
      out->scales[size_t(row * groups + g)] = scales[size_t(g * n + row)];
      out->zeros[size_t(row * groups + g)] = nibble(*zeros, g, row);
    }
  }
  return Status();
}

Status packed(const ImportOptions& o, const RawTensors& tensors, QuantizedMatrix* out) {
  const int64_t n = o.rows, k = o.cols, groups = out->groups(), per_word = 32 / o.bits;
  const RawTensor* weight;
  SMOE_RETURN_IF_ERROR(require(tensors, "weight_packed", {"I32"}, {n, (k + per_word - 1) / per_word}, &weight));
  SMOE_RETURN_IF_ERROR(read_floats(tensors, "weight_scale", {n, groups}, &out->scales));
  SMOE_RETURN_IF_ERROR(check_order(tensors, "weight_g_idx", k, out->group));
  const RawTensor* zeros = find(tensors, "weight_zero_point");
  if (zeros != nullptr)
    SMOE_RETURN_IF_ERROR(expect(*zeros, "weight_zero_point", {"I32"}, {(n + per_word - 1) / per_word, groups}));
  // Whole codes per word: at 3 bits 10 of them and 2 bits unused, unlike the GPTQ stream.
  const auto code = [&](const RawTensor& tensor, int64_t word, int64_t index) {
    uint32_t value;
    std::memcpy(&value, tensor.bytes.data() + word * 4, 4);
    return value >> (o.bits * static_cast<int>(index % per_word)) & ((1u << o.bits) - 1);
  };
  const int64_t words = (k + per_word - 1) / per_word;
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t i = 0; i < k; ++i)
      out->codes[size_t(row * k + i)] = static_cast<uint8_t>(code(*weight, row * words + i / per_word, i));
    for (int64_t g = 0; g < groups; ++g)
      out->zeros[size_t(row * groups + g)] = zeros == nullptr
                                                 ? static_cast<float>(1 << (o.bits - 1))
                                                 : static_cast<float>(code(*zeros, row / per_word * groups + g, row));
  }
  return Status();
}

Status int8(const ImportOptions& o, const RawTensors& tensors, QuantizedMatrix* out) {
  const int64_t n = o.rows, k = o.cols, groups = out->groups();
  const RawTensor* weight;
  SMOE_RETURN_IF_ERROR(require(tensors, "weight", {"I8"}, {n, k}, &weight));
  SMOE_RETURN_IF_ERROR(read_floats(tensors, "weight_scale", {n, groups}, &out->scales));
  for (size_t i = 0; i < out->codes.size(); ++i) out->codes[i] = static_cast<uint8_t>(weight->bytes[i] ^ 0x80);
  std::fill(out->zeros.begin(), out->zeros.end(), 128.0f);
  const RawTensor* zeros = find(tensors, "weight_zero_point");
  if (zeros == nullptr) return Status();
  SMOE_RETURN_IF_ERROR(expect(*zeros, "weight_zero_point", {"I8"}, {n, groups}));
  for (size_t i = 0; i < out->zeros.size(); ++i) out->zeros[i] = static_cast<float>(zeros->bytes[i] ^ 0x80);
  return Status();
}

// One scale for the tensor, per row, or per block: the shape of the scale tensor says which.
Status float8(const ImportOptions& o, const RawTensors& tensors, QuantizedMatrix* out) {
  const int64_t n = o.rows, k = o.cols;
  const RawTensor *weight, *scale = find(tensors, "weight_scale");
  SMOE_RETURN_IF_ERROR(require(tensors, "weight", {"F8_E4M3"}, {n, k}, &weight));
  if (scale == nullptr) return error(Code::MissingTensor, "weight_scale is missing");
  std::vector<int64_t> shape = scale->shape;
  if (shape.empty()) shape = {1};
  if (shape.size() == 1) shape.push_back(1);
  const int64_t down = shape[0], across = shape[1];
  const int64_t row_block = down == n ? 1 : down == 1 ? n : 128;
  const int64_t group = across == 1 && (down == n || down == 1) ? k : 128;
  if (shape.size() != 2 || down != (n + row_block - 1) / row_block || across != (k + group - 1) / group)
    return error(Code::InvalidQuantization,
                 "weight_scale of an FP8 matrix [%lld, %lld] must be [1], [N, 1] or one per 128 x 128",
                 static_cast<long long>(n), static_cast<long long>(k));
  std::vector<float> scales;
  SMOE_RETURN_IF_ERROR(read_floats(tensors, "weight_scale", scale->shape, &scales));
  // Groups divide the columns here, so a last block that is short makes all groups smaller.
  out->group = group == k ? k : std::gcd(k, group);
  out->codes = weight->bytes;
  const int64_t groups = k / out->group;
  out->scales.resize(size_t(n * groups));
  for (int64_t row = 0; row < n; ++row)
    for (int64_t g = 0; g < groups; ++g)
      out->scales[size_t(row * groups + g)] = scales[size_t(row / row_block * across + g * out->group / group)];
  return Status();
}

void low_nibble_first(const uint8_t* bytes, int64_t cols, uint8_t* codes) {
  for (int64_t i = 0; i < cols; ++i)
    codes[i] = static_cast<uint8_t>(i % 2 != 0 ? bytes[i / 2] >> 4 : bytes[i / 2] & 15);
}

Status mxfp4(const ImportOptions& o, const RawTensors& tensors, QuantizedMatrix* out) {
  const int64_t n = o.rows, k = o.cols, groups = k / 32;
  const RawTensor *blocks, *scales;
  if (k % 32 != 0)
    return error(Code::InvalidQuantization, "MXFP4 needs a multiple of 32 columns, got %lld",
                 static_cast<long long>(k));
  SMOE_RETURN_IF_ERROR(require_bytes(tensors, "blocks", {"U8"}, &blocks));
  SMOE_RETURN_IF_ERROR(require_bytes(tensors, "scales", {"U8", "F8_E8M0"}, &scales));
  if (static_cast<int64_t>(scales->bytes.size()) != n * groups ||
      static_cast<int64_t>(blocks->bytes.size()) != n * (k / 2))
    return error(Code::InvalidQuantization, "MXFP4 blocks and scales do not hold the %lld rows of %lld columns wanted",
                 static_cast<long long>(n), static_cast<long long>(k));
  for (int64_t row = 0; row < n; ++row) {
    low_nibble_first(blocks->bytes.data() + row * (k / 2), k, &out->codes[size_t(row * k)]);
    for (int64_t g = 0; g < groups; ++g) {
      const int e = scales->bytes[size_t(row * groups + g)];
      if (e == 255) return error(Code::InvalidQuantization, "an MXFP4 scale is NaN (255)");
      out->scales[size_t(row * groups + g)] = std::ldexp(1.0f, e - 127);
    }
  }
  return Status();
}

Status nvfp4(const ImportOptions& o, const RawTensors& tensors, QuantizedMatrix* out) {
  const int64_t n = o.rows, k = o.cols, groups = k / 16;
  const RawTensor *weight, *global = find(tensors, "weight_global_scale");
  if (k % 16 != 0)
    return error(Code::InvalidQuantization, "NVFP4 needs a multiple of 16 columns, got %lld",
                 static_cast<long long>(k));
  SMOE_RETURN_IF_ERROR(require(tensors, "weight_packed", {"U8"}, {n, k / 2}, &weight));
  SMOE_RETURN_IF_ERROR(read_floats(tensors, "weight_scale", {n, groups}, &out->scales));
  std::vector<float> value;
  if (global == nullptr) return error(Code::MissingTensor, "weight_global_scale is missing");
  SMOE_RETURN_IF_ERROR(read_floats(tensors, "weight_global_scale", global->shape, &value));
  if (value.size() != 1) return error(Code::InvalidQuantization, "weight_global_scale must hold one value");
  out->mul = 1 / value[0];
  out->codebook = 1;
  for (int64_t row = 0; row < n; ++row)
    low_nibble_first(weight->bytes.data() + row * (k / 2), k, &out->codes[size_t(row * k)]);
  return Status();
}

Status bitnet(const ImportOptions& o, const RawTensors& tensors, QuantizedMatrix* out) {
  const int64_t n = o.rows, k = o.cols, quarter = n / 4;
  const RawTensor *weight, *scale = find(tensors, "weight_scale");
  if (n % 4 != 0)
    return error(Code::InvalidQuantization, "BitNet packs four rows: %lld is no multiple of 4",
                 static_cast<long long>(n));
  SMOE_RETURN_IF_ERROR(require(tensors, "weight", {"U8"}, {quarter, k}, &weight));
  if (scale == nullptr) return error(Code::MissingTensor, "weight_scale is missing");
  std::vector<float> value;
  SMOE_RETURN_IF_ERROR(read_floats(tensors, "weight_scale", scale->shape, &value));
  if (value.size() != 1) return error(Code::InvalidQuantization, "weight_scale of BitNet must hold one value");
  for (int64_t row = 0; row < n; ++row)
    for (int64_t i = 0; i < k; ++i)
      out->codes[size_t(row * k + i)] =
          static_cast<uint8_t>(weight->bytes[size_t(row % quarter * k + i)] >> (2 * (row / quarter)) & 3);
  std::fill(out->scales.begin(), out->scales.end(), o.divide ? 1 / value[0] : value[0]);
  return Status();
}

}  // namespace

Status import_quantized(const ImportOptions& o, const RawTensors& tensors, QuantizedMatrix* out) {
  constexpr int64_t kMaxSide = int64_t{1} << 24;
  QuantizedMatrix m;
  if (o.rows <= 0 || o.cols <= 0 || o.rows > kMaxSide || o.cols > kMaxSide)
    return error(Code::InvalidArgument, "a matrix cannot be [%lld, %lld]", static_cast<long long>(o.rows),
                 static_cast<long long>(o.cols));
  m.rows = o.rows;
  m.cols = o.cols;
  const bool integer = o.kind == ImportKind::Gptq || o.kind == ImportKind::Awq || o.kind == ImportKind::Packed;
  if (integer) SMOE_RETURN_IF_ERROR(format_of_bits(o.bits, &m.format));
  if (o.kind == ImportKind::Int8) m.format = WeightFormat::W8;
  if (o.kind == ImportKind::Float8) m.format = WeightFormat::F8;
  if (o.kind == ImportKind::Mxfp4 || o.kind == ImportKind::Nvfp4) m.format = WeightFormat::W4C;
  if (o.kind == ImportKind::BitNet) m.format = WeightFormat::T2;
  m.group = o.kind == ImportKind::Mxfp4    ? 32
            : o.kind == ImportKind::Nvfp4  ? 16
            : o.kind == ImportKind::BitNet ? o.cols
            : o.group > 0                  ? o.group
                                           : o.cols;
  if (o.group < 0 || o.cols % m.group != 0)
    return error(Code::InvalidQuantization, "groups of %lld do not divide %lld columns",
                 static_cast<long long>(m.group), static_cast<long long>(o.cols));
  // The weights prove their size before memory is taken for what they claim to hold.
  const RawTensor* first = nullptr;
  for (const char* name : {"qweight", "weight_packed", "weight", "blocks"})
    if (first == nullptr) first = find(tensors, name);
  if (first == nullptr) return error(Code::MissingTensor, "no tensor holds the weights");
  if (static_cast<int64_t>(first->bytes.size()) < o.rows * o.cols / 8)
    return error(Code::InvalidQuantization, "%zu bytes cannot hold [%lld, %lld]", first->bytes.size(),
                 static_cast<long long>(o.rows), static_cast<long long>(o.cols));
  m.codes.resize(size_t(o.rows * o.cols));
  m.scales.resize(size_t(o.rows * m.groups()));
  if (integer || o.kind == ImportKind::Int8) m.zeros.resize(m.scales.size());
  static Status (*const importers[])(const ImportOptions&, const RawTensors&, QuantizedMatrix*) = {
      gptq, awq, packed, int8, float8, mxfp4, nvfp4, bitnet};
  SMOE_RETURN_IF_ERROR(importers[static_cast<int>(o.kind)](o, tensors, &m));
  if (integer || o.kind == ImportKind::Int8)
    drop_middle_zeros(m.format == WeightFormat::W8 ? 128.0f : static_cast<float>(1 << (o.bits - 1)), &m);
  SMOE_RETURN_IF_ERROR(validate(m));
  *out = std::move(m);
  return Status();
}

}  // namespace smoe
