#pragma once

#include "bindings/tagged_object.h"
#include "core/buffer.h"
#include "layer/momentum.h"

namespace smoe {

// The momentum of one forward pass up the depth, [tokens, hidden] per state tensor.
struct NativeMomentumState {
  MomentumSpec spec;
  int64_t tokens = 0, hidden = 0;
  Buffer tensors[3];  // m; then m_im (complex) or p, v (adam)
  int depth = 0;
  bool in_use = false;
  // A call failed half-way through: some rows are a layer ahead of others.
  bool broken = false;

  size_t elements() const { return static_cast<size_t>(tokens) * static_cast<size_t>(hidden); }
  size_t bytes() const { return tensors[0].bytes() + tensors[1].bytes() + tensors[2].bytes(); }
  Status allocate();
  ResidualState pointers();
};

class MomentumStateObject : public TaggedObject<MomentumStateObject> {
 public:
  static constexpr const char* kName = "MomentumState";
  static constexpr napi_type_tag kTag{0x736d6f654d6f6d65, 3};

  static Napi::Function define(Napi::Env env);
  explicit MomentumStateObject(const Napi::CallbackInfo& info);
  void Finalize(Napi::BasicEnv env) override { memory_.close(env); }

  const std::shared_ptr<NativeMomentumState>& native(napi_env env) const;

 private:
  Napi::Value reset(const Napi::CallbackInfo& info);
  Napi::Value depth(const Napi::CallbackInfo& info);
  Napi::Value bytes(const Napi::CallbackInfo& info);
  Napi::Value read(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);

  const std::shared_ptr<NativeMomentumState>& idle(napi_env env) const;

  std::shared_ptr<NativeMomentumState> state_;
  ExternalMemory memory_;
};

}  // namespace smoe
