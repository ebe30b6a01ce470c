// NativeMoe and NativeExpert, parsed on the JS thread and built into a MoeLayer on the op thread.
#pragma once

#include <napi.h>

#include <string>
#include <vector>

#include "bindings/packing.h"
#include "bindings/router_config.h"
#include "layer/moe_layer.h"

namespace smoe {

Activation parse_activation(napi_env env, napi_value value, const std::string& name);
Precision parse_precision(napi_env env, napi_value value);

struct ExpertSource {
  TensorSource gate, up, down, gate_bias, up_bias, down_bias;

  static ExpertSource parse(napi_env env, napi_value value, const std::string& name, int64_t hidden);
  bool glu() const { return !gate.empty(); }
  void pack_into(PackList& list, ExpertWeights* out) const;
};

struct MoeSource {
  MoeLayerConfig config;
  std::vector<float> config_bias;  // router.modelBias
  TensorSource router_weight, router_bias, model_bias;
  std::vector<ExpertSource> experts, shared;  // shared: 0 or 1
  TensorSource shared_gate;

  static MoeSource parse(napi_env env, napi_value value, const std::string& name);
  // Sets the configuration of `out` and queues its weights. `this` and `out` stay where they are until the list has
  // run; then out->validate() is due.
  void pack_into(PackList& list, Precision precision, MoeLayer* out) const;
};

}  // namespace smoe
