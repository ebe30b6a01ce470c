// Checked access to the tensors of an import.
#pragma once

#include <initializer_list>

#include "prepare/import.h"

namespace smoe::import_detail {

const RawTensor* find(const RawTensors& tensors, const char* name);
// Refuses another dtype or shape; sizes of the bytes are checked with them.
Status expect(const RawTensor& tensor, const char* name, std::initializer_list<const char*> dtypes,
              const std::vector<int64_t>& shape);
Status require(const RawTensors& tensors, const char* name, std::initializer_list<const char*> dtypes,
               const std::vector<int64_t>& shape, const RawTensor** out);
// Any shape, as long as its product is the bytes.
Status require_bytes(const RawTensors& tensors, const char* name, std::initializer_list<const char*> dtypes,
                     const RawTensor** out);
// F32, F16, BF16 or F8_E4M3 as f32; [N, 1] also answers to [N] and a scalar to [1].
Status read_floats(const RawTensors& tensors, const char* name, const std::vector<int64_t>& shape,
                   std::vector<float>* out);

}  // namespace smoe::import_detail
