#include "bindings/tensor_source.h"

#include <cstring>

#include "bindings/convert.h"
#include "bindings/errors.h"
#include "bindings/mapped_file_object.h"
#include "bindings/quantized_object.h"

namespace smoe {
namespace {

constexpr int64_t kMaxDimension = int64_t{1} << 40;

std::string shape_text(const int64_t* shape, size_t rank) {
  std::string result = "[";
  for (size_t i = 0; i < rank; i++) result += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return result + "]";
}

std::vector<int64_t> parse_shape(napi_env env, napi_value value, const std::string& name) {
  std::vector<int64_t> shape(array_length(env, value, name.c_str(), 8));
  for (uint32_t i = 0; i < shape.size(); i++) {
    shape[i] = integer(env, element(env, value, i), name.c_str(), 0, kMaxDimension);
  }
  return shape;
}

std::vector<int64_t> matrix_shape(napi_env env, napi_value value, const std::string& name) {
  std::vector<int64_t> shape = parse_shape(env, property(env, value, "shape", name.c_str()), name + ".shape");
  if (shape.size() == 2) return shape;
  throw_error(env, Code::ShapeMismatch, "%s must have two dimensions, got %s", name.c_str(),
              shape_text(shape.data(), shape.size()).c_str());
}

}  // namespace

TensorSource TensorSource::parse(napi_env env, napi_value value, const std::string& name,
                                 std::initializer_list<int64_t> expected) {
  TensorSource source;
  const napi_value file = property(env, value, "file", name.c_str());
  const napi_value data = property(env, value, "data", name.c_str());
  const napi_value offset = property(env, value, "offset", name.c_str());
  const napi_value quantized = property(env, value, "quantized", name.c_str());
  source.dtype_ = float_dtype(env, property(env, value, "dtype", name.c_str()), (name + ".dtype").c_str());
  const std::vector<int64_t> shape = parse_shape(env, property(env, value, "shape", name.c_str()), name + ".shape");
  if (shape.size() != expected.size() || !std::equal(shape.begin(), shape.end(), expected.begin())) {
    throw_error(env, Code::ShapeMismatch, "%s must have shape %s, got %s", name.c_str(),
                shape_text(expected.begin(), expected.size()).c_str(), shape_text(shape.data(), shape.size()).c_str());
  }
  source.cols_ = shape.back();
  source.rows_ = shape.size() == 2 ? shape[0] : 1;
  const int64_t count = element_count(env, source.rows_, source.cols_, name.c_str());
  if (count == 0) throw_error(env, Code::ShapeMismatch, "%s has no elements", name.c_str());
  const size_t bytes = static_cast<size_t>(count) * dtype_bytes(source.dtype_);

  if (!is_nullish(env, quantized)) {
    source.quantized_ = QuantizedMatrixObject::from(env, quantized, (name + ".quantized").c_str()).native(env);
    const QuantizedMatrix& matrix = source.quantized_->matrix;
    if (source.dtype_ != Dtype::F32 || matrix.rows != source.rows_ || matrix.cols != source.cols_) {
      throw_error(env, Code::ShapeMismatch, "%s.quantized is [%lld, %lld]", name.c_str(),
                  static_cast<long long>(matrix.rows), static_cast<long long>(matrix.cols));
    }
    return source;
  }
  if (is_nullish(env, file)) {
    const TypedView view = float_array(env, data, (name + ".data").c_str(), source.dtype_, count);
    throw_if_error(env, source.copy_.allocate(bytes));
    std::memcpy(source.copy_.data(), view.data, bytes);
    return source;
  }
  source.file_ = MappedFileObject::from(env, file, (name + ".file").c_str()).file(env);
  const size_t size = source.file_->size();
  source.offset_ = static_cast<size_t>(integer(env, offset, (name + ".offset").c_str(), 0, static_cast<int64_t>(size)));
  if (bytes > size - source.offset_) {
    throw_error(env, Code::InvalidArgument, "%s needs %zu bytes at offset %zu, but the file has only %zu", name.c_str(),
                bytes, source.offset_, size);
  }
  return source;
}

int64_t TensorSource::rows_of(napi_env env, napi_value value, const std::string& name) {
  return matrix_shape(env, value, name)[0];
}
int64_t TensorSource::cols_of(napi_env env, napi_value value, const std::string& name) {
  return matrix_shape(env, value, name)[1];
}

const QuantizedMatrix* TensorSource::quantized() const { return quantized_ == nullptr ? nullptr : &quantized_->matrix; }

Status TensorSource::bytes(const void** out) const {
  if (quantized_ != nullptr && copy_.bytes() == 0) {
    SMOE_RETURN_IF_ERROR(copy_.allocate(static_cast<size_t>(rows_ * cols_) * sizeof(float)));
    for (int64_t r = 0; r < rows_; r++) dequantize_row(quantized_->matrix, r, copy_.as<float>() + r * cols_);
  }
  if (file_ == nullptr) {
    *out = copy_.data();
    return {};
  }
  SMOE_RETURN_IF_ERROR(file_->check());
  *out = file_->data() + offset_;
  return {};
}

Status TensorSource::matrix(MatrixSource* out) const {
  const void* data;
  SMOE_RETURN_IF_ERROR(bytes(&data));
  *out = {data, dtype_, rows_, cols_};
  return {};
}

Status TensorSource::values(std::vector<float>* out) const {
  const void* data;
  SMOE_RETURN_IF_ERROR(bytes(&data));
  out->resize(static_cast<size_t>(rows_) * static_cast<size_t>(cols_));
  to_f32(data, dtype_, out->size(), out->data());
  return {};
}

void parse_optional(napi_env env, napi_value owner, const char* key, const std::string& owner_name,
                    std::initializer_list<int64_t> shape, TensorSource* out) {
  const napi_value value = property(env, owner, key, owner_name.c_str());
  if (!is_nullish(env, value)) *out = TensorSource::parse(env, value, owner_name + "." + key, shape);
}

}  // namespace smoe
