#include "prepare/import_tensor.h"

#include <cmath>

#include "core/buffer.h"
#include "core/dtype.h"

namespace smoe::import_detail {
namespace {

size_t element_bytes(const std::string& dtype) {
  if (dtype == "F32" || dtype == "I32") return 4;
  if (dtype == "F16" || dtype == "BF16") return 2;
  return 1;
}

std::string text(const std::vector<int64_t>& shape) {
  std::string result = "[";
  for (size_t i = 0; i < shape.size(); ++i) result += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return result + "]";
}

bool fills(const RawTensor& tensor) {
  size_t bytes = element_bytes(tensor.dtype);
  for (int64_t size : tensor.shape)
    if (size < 0 || !checked_product(bytes, static_cast<size_t>(size), &bytes)) return false;
  return bytes == tensor.bytes.size();
}

float e4m3(uint8_t code) {
  const int exponent = (code >> 3) & 15, mantissa = code & 7;
  if ((code & 0x7f) == 0x7f) return NAN;
  const float size = exponent > 0 ? std::ldexp(8.0f + static_cast<float>(mantissa), exponent - 10)
                                  : std::ldexp(static_cast<float>(mantissa), -9);
  return (code & 0x80) != 0 ? -size : size;
}

}  // namespace

const RawTensor* find(const RawTensors& tensors, const char* name) {
  const auto found = tensors.find(name);
  return found == tensors.end() ? nullptr : &found->second;
}

Status expect(const RawTensor& tensor, const char* name, std::initializer_list<const char*> dtypes,
              const std::vector<int64_t>& shape) {
  bool known = false;
  for (const char* dtype : dtypes) known = known || tensor.dtype == dtype;
  if (!known) return error(Code::DtypeMismatch, "%s must be %s, got %s", name, *dtypes.begin(), tensor.dtype.c_str());
  if (tensor.shape != shape || !fills(tensor))
    return error(Code::ShapeMismatch, "%s must be %s, got %s of %zu bytes", name, text(shape).c_str(),
                 text(tensor.shape).c_str(), tensor.bytes.size());
  return Status();
}

Status require(const RawTensors& tensors, const char* name, std::initializer_list<const char*> dtypes,
               const std::vector<int64_t>& shape, const RawTensor** out) {
  *out = find(tensors, name);
  if (*out == nullptr) return error(Code::MissingTensor, "%s is missing", name);
  return expect(**out, name, dtypes, shape);
}

Status require_bytes(const RawTensors& tensors, const char* name, std::initializer_list<const char*> dtypes,
                     const RawTensor** out) {
  *out = find(tensors, name);
  if (*out == nullptr) return error(Code::MissingTensor, "%s is missing", name);
  return expect(**out, name, dtypes, (*out)->shape);
}

Status read_floats(const RawTensors& tensors, const char* name, const std::vector<int64_t>& shape,
                   std::vector<float>* out) {
  const RawTensor* found = find(tensors, name);
  if (found == nullptr) return error(Code::MissingTensor, "%s is missing", name);
  std::vector<int64_t> actual = found->shape;
  if (actual != shape && shape.size() == actual.size() + 1 && shape.back() == 1) actual.push_back(1);
  if (actual != shape || !fills(*found))
    return error(Code::ShapeMismatch, "%s must be %s, got %s of %zu bytes", name, text(shape).c_str(),
                 text(found->shape).c_str(), found->bytes.size());
  const std::string& dtype = found->dtype;
  const size_t count = found->bytes.size() / element_bytes(dtype);
  out->resize(count);
  if (dtype == "F32" || dtype == "F16" || dtype == "BF16") {
    to_f32(found->bytes.data(),
           dtype == "F32"   ? Dtype::F32
           : dtype == "F16" ? Dtype::F16
                            : Dtype::BF16,
           count, out->data());
  } else if (dtype == "F8_E4M3") {
    for (size_t i = 0; i < count; ++i) (*out)[i] = e4m3(found->bytes[i]);
  } else {
    return error(Code::DtypeMismatch, "%s must be F32, F16, BF16 or F8_E4M3, got %s", name, dtype.c_str());
  }
  return Status();
}

}  // namespace smoe::import_detail
