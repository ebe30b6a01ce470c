// A weight on its way in: a slice of a mapped file, or a copy of a typed array; plain elements, or codes with one scale
// per block, and possibly a view of what is stored; or a quantized matrix. Parsed on the JS thread, read on the op
// thread.
#pragma once

#include <napi.h>

#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bindings/mapped_file.h"
#include "core/buffer.h"
#include "formats/packed_matrix.h"
#include "formats/rtn.h"

namespace smoe {

struct NativeQuantized;
struct QuantizedMatrix;

class TensorSource {
 public:
  // Parses a TensorSource that has exactly this shape. Offsets, strides and sizes are checked against the file here.
  // Vectors must be plain.
  static TensorSource parse(napi_env env, napi_value value, const std::string& name,
                            std::initializer_list<int64_t> shape);
  // `format`, `group`, `asym` and `codebook` of a matrix that is to be quantized as it is loaded.
  void parse_format(napi_env env, napi_value value, const std::string& name);
  // One dimension of a matrix whose shape is not known yet. Nothing else is checked.
  static int64_t rows_of(napi_env env, napi_value value, const std::string& name);
  static int64_t cols_of(napi_env env, napi_value value, const std::string& name);

  bool empty() const { return view_.rows == 0; }
  const std::string& name() const { return name_; }
  int64_t rows() const { return view_.rows; }
  int64_t cols() const { return view_.cols; }
  // The format to keep the matrix in: what the source asks for, or its natural one.
  WeightFormat format(const MatrixSource& source, bool exact) const {
    return format_.value_or(natural_format(source, exact));
  }
  const RtnOptions& rtn() const { return rtn_; }

  // Null unless the weight is quantized already.
  const QuantizedMatrix* quantized() const;
  // `count` rows from `first` of a matrix parsed before, or their transpose.
  TensorSource part(int64_t first, int64_t count, bool transposed) const;

  // The matrix, its data found; a file is asked for its size first (FILE_CHANGED), scales are looked at. Valid while
  // this object or a copy of it lives.
  Status matrix(MatrixSource* out) const;
  // All elements as f32.
  Status values(std::vector<float>* out) const;

 private:
  // Bytes of a file, or of a copy.
  struct Place {
    std::shared_ptr<MappedFile> file;
    size_t offset = 0;
    std::shared_ptr<Buffer> copy;

    static Place parse(napi_env env, napi_value value, const std::string& name, size_t bytes);
    Status find(const void** out) const;
  };
  void parse_view(napi_env env, napi_value value, size_t rank);
  void parse_codes(napi_env env, napi_value value);

  Status dequantize() const;

  std::string name_;
  mutable Place data_;  // of a quantized matrix its values, made on first use
  Place scales_;
  MatrixSource view_;  // without its pointers; a vector is one row
  std::optional<WeightFormat> format_;
  RtnOptions rtn_;
  std::shared_ptr<NativeQuantized> quantized_;
};

// Parses `owner.key` into *out unless it is absent.
void parse_optional(napi_env env, napi_value owner, const char* key, const std::string& owner_name,
                    std::initializer_list<int64_t> shape, TensorSource* out);

}  // namespace smoe
