#include "bindings/tensor_source.h"

#include <algorithm>
#include <cstdint>
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

size_t checked_bytes(napi_env env, int64_t elements, size_t element_bytes, const std::string& name) {
  size_t bytes = 0;
  if (!checked_product(static_cast<size_t>(elements), element_bytes, &bytes))
    throw_error(env, Code::ShapeMismatch, "%s is larger than memory can be", name.c_str());
  return bytes;
}

}  // namespace

TensorSource::Place TensorSource::Place::parse(napi_env env, napi_value value, const std::string& name, size_t bytes) {
  Place place;
  const napi_value file = property(env, value, "file", name.c_str());
  const napi_value offset = property(env, value, "offset", name.c_str());
  place.file = MappedFileObject::from(env, file, (name + ".file").c_str()).file(env);
  const size_t size = place.file->size();
  place.offset = static_cast<size_t>(integer(env, offset, (name + ".offset").c_str(), 0, static_cast<int64_t>(size)));
  if (bytes > size - place.offset) {
    throw_error(env, Code::InvalidArgument, "%s needs %zu bytes at offset %zu, but the file has only %zu", name.c_str(),
                bytes, place.offset, size);
  }
  return place;
}

Status TensorSource::Place::find(const void** out) const {
  if (file == nullptr) {
    *out = copy->data();
    return {};
  }
  SMOE_RETURN_IF_ERROR(file->check());
  *out = file->data() + offset;
  return {};
}

// `view: { first, strides }`. Sizes below 2^40 times strides below 2^40 could pass 63 bits: what the last index comes
// to is looked at before it is used.
void TensorSource::parse_view(napi_env env, napi_value value, size_t rank) {
  const napi_value view = property(env, value, "view", name_.c_str());
  if (is_nullish(env, view)) return;
  const std::string name = name_ + ".view";
  const napi_value strides = property(env, view, "strides", name.c_str());
  view_.first = integer(env, property(env, view, "first", name.c_str()), (name + ".first").c_str(), 0, kMaxDimension);
  if (array_length(env, strides, (name + ".strides").c_str(), 8) != rank)
    throw_error(env, Code::ShapeMismatch, "%s.strides must have one number per dimension", name.c_str());
  const auto stride = [&](uint32_t i) {
    return integer(env, element(env, strides, i), (name + ".strides").c_str(), 1, kMaxDimension);
  };
  view_.row_stride = rank == 2 ? stride(0) : 1;
  view_.col_stride = stride(rank == 2 ? 1 : 0);
  size_t down = 0, across = 0;
  if (!checked_product(static_cast<size_t>(view_.rows), static_cast<size_t>(view_.row_stride), &down) ||
      !checked_product(static_cast<size_t>(view_.cols), static_cast<size_t>(view_.col_stride), &across) ||
      down > SIZE_MAX / 8 || across > SIZE_MAX / 8) {
    throw_error(env, Code::ShapeMismatch, "%s reaches further than memory can", name.c_str());
  }
}

// `stored`, `scales` and the scales' `block`: codes are counted in the stored matrix.
void TensorSource::parse_codes(napi_env env, napi_value value) {
  const std::string stored_name = name_ + ".stored", scales_name = name_ + ".scales";
  const std::vector<int64_t> stored = parse_shape(env, property(env, value, "stored", name_.c_str()), stored_name);
  const napi_value scales = property(env, value, "scales", name_.c_str());
  const std::vector<int64_t> block =
      parse_shape(env, property(env, scales, "block", scales_name.c_str()), scales_name + ".block");
  if (stored.size() != 2 || block.size() != 2 || stored[0] < 1 || stored[1] < 1 || block[0] < 1 || block[1] < 1)
    throw_error(env, Code::ShapeMismatch, "%s: stored and scales.block must be two sizes above 0", name_.c_str());
  if (view_.coding == Coding::Mxfp4 && stored[1] % 2 != 0)
    throw_error(env, Code::ShapeMismatch, "%s: MXFP4 rows hold an even number of codes, got %lld", name_.c_str(),
                static_cast<long long>(stored[1]));
  view_.stored_cols = stored[1];
  const int64_t codes = element_count(env, stored[0], stored[1], name_.c_str());
  const int64_t last = view_.index(view_.rows - 1, view_.cols - 1);
  if (last >= codes) {
    throw_error(env, Code::ShapeMismatch, "%s: the view ends at element %lld of %lld stored ones", name_.c_str(),
                static_cast<long long>(last), static_cast<long long>(codes));
  }
  static const char* const dtypes[] = {"f32", "f16", "bf16", "e8m0"};
  const int dtype = choice_index(env, property(env, scales, "dtype", scales_name.c_str()),
                                 (scales_name + ".dtype").c_str(), dtypes, 4);
  view_.scales.dtype = dtype == 3 ? Dtype::U8 : static_cast<Dtype>(dtype);
  view_.scales.block_rows = block[0];
  view_.scales.block_cols = block[1];
  const std::vector<int64_t> wanted = {(stored[0] + block[0] - 1) / block[0], (stored[1] + block[1] - 1) / block[1]};
  const std::vector<int64_t> shape =
      parse_shape(env, property(env, scales, "shape", scales_name.c_str()), scales_name + ".shape");
  if (shape != wanted) {
    throw_error(env, Code::ShapeMismatch, "%s must have shape %s, got %s", scales_name.c_str(),
                shape_text(wanted.data(), 2).c_str(), shape_text(shape.data(), shape.size()).c_str());
  }
  const int64_t count = element_count(env, shape[0], shape[1], scales_name.c_str());
  scales_ = Place::parse(env, scales, scales_name, checked_bytes(env, count, dtype_bytes(view_.scales.dtype), name_));
  data_ = Place::parse(env, value, name_, static_cast<size_t>(view_.coding == Coding::Mxfp4 ? codes / 2 : codes));
}

TensorSource TensorSource::parse(napi_env env, napi_value value, const std::string& name,
                                 std::initializer_list<int64_t> expected) {
  TensorSource source;
  source.name_ = name;
  MatrixSource& view = source.view_;
  const napi_value file = property(env, value, "file", name.c_str());
  const napi_value data = property(env, value, "data", name.c_str());
  static const char* const dtypes[] = {"f32", "f16", "bf16", "f8_e4m3", "mxfp4"};
  const int dtype =
      choice_index(env, property(env, value, "dtype", name.c_str()), (name + ".dtype").c_str(), dtypes, 5);
  const bool plain = dtype < 3;
  if (plain) {
    view.dtype = static_cast<Dtype>(dtype);
  } else {
    view.coding = dtype == 3 ? Coding::F8E4M3 : Coding::Mxfp4;
    if (expected.size() != 2) throw_error(env, Code::DtypeMismatch, "%s must be f32, f16 or bf16", name.c_str());
  }
  const std::vector<int64_t> shape = parse_shape(env, property(env, value, "shape", name.c_str()), name + ".shape");
  if (shape.size() != expected.size() || !std::equal(shape.begin(), shape.end(), expected.begin())) {
    throw_error(env, Code::ShapeMismatch, "%s must have shape %s, got %s", name.c_str(),
                shape_text(expected.begin(), expected.size()).c_str(), shape_text(shape.data(), shape.size()).c_str());
  }
  view.cols = shape.back();
  view.rows = shape.size() == 2 ? shape[0] : 1;
  if (element_count(env, view.rows, view.cols, name.c_str()) == 0)
    throw_error(env, Code::ShapeMismatch, "%s has no elements", name.c_str());
  source.parse_view(env, value, shape.size());
  if (const napi_value quantized = property(env, value, "quantized", name.c_str()); !is_nullish(env, quantized)) {
    source.quantized_ = QuantizedMatrixObject::from(env, quantized, (name + ".quantized").c_str()).native(env);
    const QuantizedMatrix& matrix = source.quantized_->matrix;
    if (view.dtype != Dtype::F32 || !plain || !view.row_by_row() || matrix.rows != view.rows ||
        matrix.cols != view.cols) {
      throw_error(env, Code::ShapeMismatch, "%s.quantized is [%lld, %lld]", name.c_str(),
                  static_cast<long long>(matrix.rows), static_cast<long long>(matrix.cols));
    }
    return source;
  }
  if (!plain) {
    source.parse_codes(env, value);
    return source;
  }
  const int64_t count = view.index(view.rows - 1, view.cols - 1) + 1;
  const size_t bytes = checked_bytes(env, count, dtype_bytes(view.dtype), name);
  if (!is_nullish(env, file)) {
    source.data_ = Place::parse(env, value, name, bytes);
    return source;
  }
  const TypedView array = float_array(env, data, (name + ".data").c_str(), view.dtype, count);
  source.data_.copy = std::make_shared<Buffer>();
  throw_if_error(env, source.data_.copy->allocate(bytes));
  std::memcpy(source.data_.copy->data(), array.data, bytes);
  return source;
}

void TensorSource::parse_format(napi_env env, napi_value value, const std::string& name) {
  const napi_value format = property(env, value, "format", name.c_str());
  if (is_nullish(env, format)) return;
  const char* names[kWeightFormats];
  for (int i = 0; i < kWeightFormats; i++) names[i] = weight_format_name(WeightFormat(i));
  format_ = WeightFormat(choice_index(env, format, (name + ".format").c_str(), names, kWeightFormats));
  const napi_value group = property(env, value, "group", name.c_str());
  if (!is_nullish(env, group)) rtn_.group = integer(env, group, (name + ".group").c_str(), 1, cols());
  const napi_value codebook = property(env, value, "codebook", name.c_str());
  if (!is_nullish(env, codebook))
    rtn_.codebook = static_cast<int>(integer(env, codebook, (name + ".codebook").c_str(), 0, 2));
  const napi_value asym = property(env, value, "asym", name.c_str());
  if (!is_nullish(env, asym)) rtn_.asymmetric = boolean(env, asym, (name + ".asym").c_str());
}

int64_t TensorSource::rows_of(napi_env env, napi_value value, const std::string& name) {
  return matrix_shape(env, value, name)[0];
}
int64_t TensorSource::cols_of(napi_env env, napi_value value, const std::string& name) {
  return matrix_shape(env, value, name)[1];
}

// A view of part of it is no longer the quantized matrix.
const QuantizedMatrix* TensorSource::quantized() const {
  return quantized_ == nullptr || view_.first != 0 || !view_.row_by_row() || view_.rows != quantized_->matrix.rows
             ? nullptr
             : &quantized_->matrix;
}

TensorSource TensorSource::part(int64_t first, int64_t count, bool transposed) const {
  TensorSource source = *this;
  MatrixSource& view = source.view_;
  view.first = view_.index(first, 0);
  view.row_stride = view_.row_stride == 0 ? view_.cols : view_.row_stride;
  view.rows = count;
  if (transposed) {
    std::swap(view.rows, view.cols);
    std::swap(view.row_stride, view.col_stride);
  }
  return source;
}

// The values of a quantized matrix, made when something wants them as a plain matrix.
Status TensorSource::dequantize() const {
  const QuantizedMatrix& matrix = quantized_->matrix;
  const auto copy = std::make_shared<Buffer>();
  SMOE_RETURN_IF_ERROR(copy->allocate(static_cast<size_t>(matrix.rows * matrix.cols) * sizeof(float)));
  for (int64_t r = 0; r < matrix.rows; r++) dequantize_row(matrix, r, copy->as<float>() + r * matrix.cols);
  data_.copy = copy;
  return {};
}

Status TensorSource::matrix(MatrixSource* out) const {
  *out = view_;
  if (quantized_ != nullptr && data_.copy == nullptr) SMOE_RETURN_IF_ERROR(dequantize());
  SMOE_RETURN_IF_ERROR(data_.find(&out->data));
  if (view_.coding == Coding::Plain) return {};
  SMOE_RETURN_IF_ERROR(scales_.find(&out->scales.data));
  Status status = check_scales(*out);
  if (status.ok()) status = check_codes(*out);
  return status.ok() ? status : Status(status.code(), name_ + " " + status.message());
}

Status TensorSource::values(std::vector<float>* out) const {
  MatrixSource source;
  SMOE_RETURN_IF_ERROR(matrix(&source));
  out->resize(static_cast<size_t>(source.rows) * static_cast<size_t>(source.cols));
  for (int64_t row = 0; row < source.rows; row++)
    read_elements(source, row, 0, source.cols, out->data() + static_cast<size_t>(row * source.cols));
  return {};
}

void parse_optional(napi_env env, napi_value owner, const char* key, const std::string& owner_name,
                    std::initializer_list<int64_t> shape, TensorSource* out) {
  const napi_value value = property(env, owner, key, owner_name.c_str());
  if (!is_nullish(env, value)) *out = TensorSource::parse(env, value, owner_name + "." + key, shape);
}

}  // namespace smoe
