// A weight on its way in: a slice of a mapped file, a copy of a typed array, or a quantized matrix. Parsed on the JS
// thread, read on the op thread.
#pragma once

#include <napi.h>

#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "bindings/mapped_file.h"
#include "core/buffer.h"
#include "formats/packed_matrix.h"

namespace smoe {

struct NativeQuantized;
struct QuantizedMatrix;

class TensorSource {
 public:
  // Parses a TensorSource that has exactly this shape. Offsets and sizes are checked against the file here.
  static TensorSource parse(napi_env env, napi_value value, const std::string& name,
                            std::initializer_list<int64_t> shape);
  // One dimension of a matrix whose shape is not known yet. Nothing else is checked.
  static int64_t rows_of(napi_env env, napi_value value, const std::string& name);
  static int64_t cols_of(napi_env env, napi_value value, const std::string& name);

  bool empty() const { return rows_ == 0 && cols_ == 0; }
  Dtype dtype() const { return dtype_; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }

  // Null unless the weight is quantized already.
  const QuantizedMatrix* quantized() const;
  // A view on the data; a file is asked for its size first (FILE_CHANGED). Valid while this object lives.
  Status matrix(MatrixSource* out) const;
  // All elements as f32.
  Status values(std::vector<float>* out) const;

 private:
  Status bytes(const void** out) const;

  std::shared_ptr<MappedFile> file_;
  size_t offset_ = 0;
  std::shared_ptr<NativeQuantized> quantized_;
  mutable Buffer copy_;  // of the data; of a quantized matrix its values, made on first use
  Dtype dtype_ = Dtype::F32;
  int64_t rows_ = 0, cols_ = 0;  // a vector is one row
};

// Parses `owner.key` into *out unless it is absent.
void parse_optional(napi_env env, napi_value owner, const char* key, const std::string& owner_name,
                    std::initializer_list<int64_t> shape, TensorSource* out);

}  // namespace smoe
