// One sparse MoE layer on the CPU: hidden -> route -> dispatch -> experts -> combine -> residual.
#pragma once

#include <memory>
#include <vector>

#include "core/cancel.h"
#include "core/thread_pool.h"
#include "core/workspace.h"
#include "formats/packed_matrix.h"
#include "kernels/dispatch/dispatch.h"
#include "kernels/route/router.h"
#include "layer/expert_ffn.h"
#include "layer/grouped_linear.h"

namespace smoe {

// What experts of integers are multiplied by under Precision::Fast: activations rounded to bf16, or to int8 per group
// of the weights, which tensor cores multiply at twice the rate and without decoding codes. Auto: bf16 on a device; the
// CPU always takes int8.
enum class Activations : int { Auto, Bf16, Int8 };

struct MoeLayerConfig {
  int64_t hidden = 0;
  ActivationSpec activation;
  bool glu = true;
  Precision precision = Precision::Fast;
  // Int8 needs Fast and, on a device, routed experts that are all of integers (a shared expert of another format keeps
  // bf16); Bf16 has no kernels on the CPU.
  Activations activations = Activations::Auto;
  RouterConfig router;
};

class MoeLayer {
 public:
  MoeLayerConfig config;
  PackedMatrix router_weight;          // [E, H]
  std::vector<float> router_bias;      // [E] logit bias, or empty
  std::vector<float> model_bias;       // [E] selection bias, or empty
  std::vector<ExpertWeights> experts;  // E; widths may differ
  std::vector<ExpertWeights> shared;   // 0 or 1
  PackedMatrix shared_gate;            // [1, H]: shared output times sigmoid of it; or empty

  // Refuses shapes that do not agree; call once after filling the fields.
  Status validate() const;
  // Whether the CPU has kernels for what the configuration asks for; after validate().
  Status validate_on_cpu() const;
  size_t bytes() const;

  struct Forward {
    const float* hidden = nullptr;    // [T, H]: router and expert input, never written
    const float* residual = nullptr;  // [T, H] or null (Update)
    int64_t tokens = 0;
    const Routing* routing = nullptr;  // given assignments (ids checked by the caller), or null: route
    // [E] bits per weight, 2 to 8, at which bit-nested experts (wn) are read: a call may take fewer planes than they
    // hold, and reads no more bytes than it takes (D2MoE, arXiv 2504.15299). Other formats are not concerned. Null:
    // all.
    const uint8_t* expert_bits = nullptr;
    ResidualStep step;
    ResidualState state;   // base pointers of [T, H] states; null where unused
    float* out = nullptr;  // [T, H]; may alias residual
    // Optional outputs for traces and statistics; null = not wanted.
    float* router_logits = nullptr;     // [T, E]
    Routing* routing_out = nullptr;     // caller's arrays
    float* update_out = nullptr;        // [T, H] MoE output before the residual
    uint64_t* expert_counts = nullptr;  // [E], added to
    const CancelFlag* cancel = nullptr;
  };
  // Resets and reserves the workspace by itself. Long inputs are cut into chunks, so that scratch stays bounded; no
  // token's bits depend on where the cuts fall. Cancelled leaves out and the states undefined.
  Status forward(const Forward& args, const KernelTable& kernels, ThreadPool& pool, Workspace& workspace) const;

 private:
  int64_t chunk_tokens(int slots) const;
  size_t workspace_bytes(int64_t tokens, int slots, int threads) const;
  Status forward_chunk(const Forward& args, const KernelTable& kernels, ThreadPool& pool, Workspace& workspace) const;
};

}  // namespace smoe
