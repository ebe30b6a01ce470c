#pragma once

#include <napi.h>

#include <string>

#include "layer/momentum.h"

namespace smoe {

// NativeMomentumSpec -> MomentumSpec, validated. Absent fields keep the defaults of the type.
MomentumSpec parse_momentum(napi_env env, napi_value value, const std::string& name);

}  // namespace smoe
