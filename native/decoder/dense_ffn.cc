#include "decoder/dense_ffn.h"

namespace smoe {

size_t dense_ffn_bytes(const ExpertWeights& weights, int64_t tokens, int threads) {
  return Workspace::bytes_for<const float*>(static_cast<size_t>(tokens)) + expert_group_bytes(weights, tokens) +
         expert_items_bytes(1, threads);
}

Status dense_ffn(const KernelTable& kernels, ThreadPool& pool, const ExpertWeights& weights,
                 const ActivationSpec& activation, Precision precision, const float* x, int64_t tokens, float* out,
                 const CancelFlag* cancel, Workspace& workspace) {
  const size_t mark = workspace.used();
  const float** rows = workspace.take<const float*>(static_cast<size_t>(tokens));
  for (int64_t token = 0; token < tokens; ++token) rows[token] = x + token * weights.up.cols;
  ExpertGroup group;
  group.weights = &weights;
  group.rows = tokens;
  group.inputs = rows;
  group.out = out;
  ExpertFfnArgs args;
  args.groups = &group;
  args.count = 1;
  args.activation = activation;
  args.precision = precision;
  args.cancel = cancel;
  const Status status = expert_ffn(kernels, pool, args, workspace);
  workspace.rewind(mark);
  return status;
}

}  // namespace smoe
