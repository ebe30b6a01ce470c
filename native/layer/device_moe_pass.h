// One pass of a MoE layer on a device: the arguments of its launches.
#pragma once

#include "device/launch.h"
#include "layer/device_moe_layer.h"
#include "layer/device_moe_scratch.h"
#include "layer/device_moe_weights.h"

namespace smoe {

// Each stage is one launch, or a few. Stages named `few` take up to DeviceMoeWeights::few_rows() rows.
class DeviceMoePass {
 public:
  DeviceMoePass(const DeviceMoeWeights& weights, const DeviceMoeLayer::Rows& rows, void* memory);

  Status route_few();     // K1 or a dispatch of what is given
  Status route_many();    // P1 or a histogram of what is given, and P2
  Status shared_few();    // K2 over a dispatch that sends every token to the one shared expert, and a linear map
  Status shared_many();   // P3 and P4 with one group
  Status experts_few();   // K2 and K3
  Status experts_many();  // P3, P4 and P5. With int8 activations, all of these have a quantisation before each map

 private:
  const cu::CudaTable& table() const { return w_.device->table(); }
  int grid() const { return 2 * w_.device->info().sms; }  // two blocks share an SM
  bool given() const { return rows_.given_ids != nullptr; }
  bool on_input() const { return w_.config.router.weight_on_input; }
  const int32_t* ids() const { return given() ? rows_.given_ids : routing_.ids; }
  const float* slot_weights() const { return given() ? rows_.given_weights : routing_.weights; }
  const float* shared_scale() const { return w_.shared_gate.bytes() != 0 ? s_.shared_routing.weights : nullptr; }
  cu::NestedRead nested(const DeviceFfn& ffn) const { return {ffn.nested, rows_.expert_planes}; }
  cu::DispatchBits counted(cu::DispatchBits plan) const;
  cu::Planes units(const DeviceFfn& ffn, int slots) const;

  template <class Args>
  Status launch(cu::CudaError (*entry)(void*, const Args*), const Args& args, const char* what) {
    return smoe::launch(*w_.device, entry, args, what);
  }
  Status write_count(int32_t* to);
  Status gate_up(const DeviceFfn& ffn, const cu::DispatchBits& plan, const cu::Planes& h);
  Status shared_down_few();
  Status combine();
  cu::GateUpArgs gate_up_args(const DeviceFfn& ffn, const cu::DispatchBits& plan) const;
  cu::DownCombineArgs down_args() const;
  // With int8 activations (device_moe_int8.cc).
  struct Int8Dispatch;
  Status shared_few_int8();
  Status shared_many_int8();
  Status experts_few_int8();
  Status experts_many_int8();
  Status units_few_int8(const DeviceFfn& ffn, const DeviceInt8& s, const cu::DispatchBits& plan, int slots);
  Status units_many_int8(const DeviceFfn& ffn, const DeviceInt8& s, const Int8Dispatch& rows);
  Status down_many_int8(const DeviceFfn& ffn, const DeviceInt8& s, const Int8Dispatch& rows, float* out);
  Status quantize_input(const DeviceFfn& ffn, const DeviceInt8& s, const Int8Dispatch& rows);
  Status quantize_units(const DeviceFfn& ffn, const DeviceInt8& s, const Int8Dispatch& rows);
  cu::RouteDispatchArgs router_of_few() const;
  cu::RouteManyArgs router_of_many() const;
  GroupedGemm gemm(const DeviceFfn& ffn) const;
  cu::GroupedGemmArgs any_gemm(const DeviceFfn& ffn, const int32_t* offset, int64_t most) const;
  cu::GroupedGemmArgs up_gemm(const DeviceFfn& ffn, const int32_t* offset, int64_t most) const;
  cu::GroupedGemmArgs down_gemm(const DeviceFfn& ffn, const cu::Planes& h, const int32_t* offset, int64_t most) const;

  const DeviceMoeWeights& w_;
  const DeviceMoeLayer::Rows& rows_;
  DeviceMoeScratch s_;
  int slots_;
  cu::RoutingOut routing_;
};

}  // namespace smoe
