// The CUDA backend as a whole: where its library is, and what it finds.
#pragma once

#include <napi.h>

namespace smoe {

Napi::Value set_cuda_library_path(const Napi::CallbackInfo& info);
Napi::Value cuda_info(const Napi::CallbackInfo& info);

}  // namespace smoe
