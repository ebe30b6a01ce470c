// The feed-forward of a layer without experts: one expert that every token goes to.
#pragma once

#include "core/workspace.h"
#include "layer/expert_ffn.h"

namespace smoe {

size_t dense_ffn_bytes(const ExpertWeights& weights, int64_t tokens, int threads);
// out [tokens, H] = ffn(x [tokens, H]). Takes that much from the workspace and gives it back.
Status dense_ffn(const KernelTable& kernels, ThreadPool& pool, const ExpertWeights& weights,
                 const ActivationSpec& activation, Precision precision, const float* x, int64_t tokens, float* out,
                 const CancelFlag* cancel, Workspace& workspace);

}  // namespace smoe
