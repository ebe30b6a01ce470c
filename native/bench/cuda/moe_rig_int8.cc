// The block of moe_rig.cc with int8 activations: every map is preceded by a quantisation of what it reads.
#include "moe_rig.h"

namespace smoe::bench {

using namespace cu;

Int8Operand MoeRig::x_int8() {
  Int8Operand x;
  x.rows[0] = {x_codes_.data(), x_scales_.data(), int8_stride(shape_.hidden), int8_groups(shape_.hidden, format_.group),
               format_.group};
  x.count = 1;
  return x;
}

// Every expert has the same groups, so rows of the dispatch need not be told apart.
Int8Operand MoeRig::h_int8() {
  Int8Operand h;
  h.rows[0] = {h_codes_.data(), h_scales_.data(), int8_stride(shape_.width), int8_groups(shape_.width, format_.group),
               format_.group};
  h.count = 1;
  return h;
}

bool MoeRig::quantize(const float* x, int64_t k, const Int8Operand& to, int64_t rows, const int32_t* num_rows) {
  QuantizeRowsArgs args;
  args.x = x;
  args.x_stride = args.k = k;
  args.out = to;
  args.max_rows = rows;
  args.num_rows = num_rows;
  args.blocks = 2 * device_.info().sms;
  return device_.ok(device_.table().quantize_rows(device_.stream(), &args));
}

bool MoeRig::decode_int8(const GateUpArgs& up, const DownCombineArgs& down, const float* x) {
  GateUpInt8Args gate_up;
  gate_up.map = up;
  gate_up.x = x_int8();
  gate_up.h = h_f32_.data();
  DownCombineInt8Args combine;
  combine.map = down;
  combine.h = h_int8().rows[0];
  const int32_t* const pairs = up.plan.offset + shape_.experts;
  return quantize(x, shape_.hidden, gate_up.x, up.max_tokens, down.num_tokens) &&
         device_.ok(device_.table().gate_up_int8(device_.stream(), &gate_up)) &&
         quantize(h_f32_.data(), shape_.width, h_int8(), int64_t{up.max_tokens} * shape_.k, pairs) &&
         device_.ok(device_.table().down_combine_int8(device_.stream(), &combine));
}

bool MoeRig::prefill_int8(const GroupedGemmArgs& up, const GroupedGemmArgs& down, const float* x) {
  GroupedGemmInt8Args first, second;
  first.map = up;
  first.map.out = {};
  first.map.out_f32 = h_f32_.data();
  first.x = x_int8();
  second.map = down;
  second.map.out = {};
  second.map.out_f32 = y_f32_.data();
  second.x = h_int8();
  const int64_t pairs = up.max_rows;
  return quantize(x, shape_.hidden, first.x, pairs / shape_.k, nullptr) &&
         device_.ok(device_.table().grouped_gemm_int8(device_.stream(), &first)) &&
         quantize(h_f32_.data(), shape_.width, second.x, pairs, up.offset + shape_.experts) &&
         device_.ok(device_.table().grouped_gemm_int8(device_.stream(), &second));
}

}  // namespace smoe::bench
