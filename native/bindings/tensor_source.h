// A weight on its way in: a slice of a mapped file, or a copy of a typed array. Parsed on the JS thread, read on the op
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

class TensorSource {
 public:
  // Parses a TensorSource that has exactly this shape. Offsets and sizes are checked against the file here.
  static TensorSource parse(napi_env env, napi_value value, const std::string& name,
                            std::initializer_list<int64_t> shape);
  // `format`, `group` and `asym` of a matrix that is to be quantized as it is loaded.
  void parse_format(napi_env env, napi_value value, const std::string& name);
  // One dimension of a matrix whose shape is not known yet. Nothing else is checked.
  static int64_t rows_of(napi_env env, napi_value value, const std::string& name);
  static int64_t cols_of(napi_env env, napi_value value, const std::string& name);

  bool empty() const { return rows_ == 0 && cols_ == 0; }
  Dtype dtype() const { return dtype_; }
  // The format to keep a matrix in: what the source asks for, or its natural one.
  WeightFormat format() const { return format_.value_or(natural_format(dtype_)); }
  const RtnOptions& rtn() const { return rtn_; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }

  // A view on the data; a file is asked for its size first (FILE_CHANGED). Valid while this object lives.
  Status matrix(MatrixSource* out) const;
  // All elements as f32.
  Status values(std::vector<float>* out) const;

 private:
  Status bytes(const void** out) const;

  std::shared_ptr<MappedFile> file_;
  size_t offset_ = 0;
  Buffer copy_;
  Dtype dtype_ = Dtype::F32;
  int64_t rows_ = 0, cols_ = 0;  // a vector is one row
  std::optional<WeightFormat> format_;
  RtnOptions rtn_;
};

// Parses `owner.key` into *out unless it is absent.
void parse_optional(napi_env env, napi_value owner, const char* key, const std::string& owner_name,
                    std::initializer_list<int64_t> shape, TensorSource* out);

}  // namespace smoe
