// One pass through one MoE layer on whichever thread runs it: conversion to f32, the check for NaN and infinity,
// look-ahead, the layer itself, conversion back.
#pragma once

#include "bindings/momentum_state_object.h"
#include "core/cancel.h"
#include "core/workspace.h"
#include "layer/device_moe_layer.h"

namespace smoe {

struct LayerCall {
  const MoeLayer* layer = nullptr;
  DeviceMoeLayer* device = nullptr;  // where its weights are; null: in `layer`
  Dtype dtype = Dtype::F32;          // of hidden and out
  int64_t tokens = 0;
  const void* hidden = nullptr;     // [T, H]
  const float* residual = nullptr;  // [T, H] or null
  Routing given;                    // slots 0: route
  NativeMomentumState* state = nullptr;
  std::vector<uint8_t> expert_bits;  // [E] or empty
  void* out = nullptr;               // [T, H]; overlaps no input
  uint64_t* counts = nullptr;        // [E], added to
  const CancelFlag* cancel = nullptr;

  // `work` is the layer's own; its nested workspace holds what conversion needs.
  Status run(Workspace& work);
};

// The first row that holds NaN or infinity, or -1.
int64_t first_non_finite_row(const float* data, int64_t rows, int64_t cols);
// The active kernels, or ISA_UNAVAILABLE.
Status active_kernels(const KernelTable** out);

}  // namespace smoe
