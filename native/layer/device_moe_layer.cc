#include "layer/device_moe_layer.h"

#include <algorithm>

#include "layer/device_moe_pass.h"

namespace smoe {

Status DeviceMoeLayer::create(std::shared_ptr<Device> device, const MoeLayer& from, ThreadPool& pool,
                              const CancelFlag* cancel, std::unique_ptr<DeviceMoeLayer>* out) {
  std::unique_ptr<DeviceMoeLayer> made(new DeviceMoeLayer);
  made->weights_ = std::make_unique<DeviceMoeWeights>();
  SMOE_RETURN_IF_ERROR(upload_moe_weights(std::move(device), from, pool, cancel, made->weights_.get()));
  *out = std::move(made);
  return Status();
}

DeviceMoeLayer::~DeviceMoeLayer() = default;

const std::shared_ptr<Device>& DeviceMoeLayer::device() const { return weights_->device; }
size_t DeviceMoeLayer::bytes() const { return weights_->bytes(); }
int64_t DeviceMoeLayer::row_width() const { return weights_->hidden; }
int64_t DeviceMoeLayer::few_rows() const { return weights_->few_rows(); }
int DeviceMoeLayer::activation_parts() const { return weights_->parts; }
bool DeviceMoeLayer::nested() const { return weights_->experts.nested; }

Status DeviceMoeLayer::check_expert_bits() const {
  if (!weights_->experts.decoded_nested) return Status();
  return error(Code::InvalidArgument,
               "expert bits: a bit-nested expert (wn) lies decoded on the device, because its gate and up projections "
               "differ in format or its columns are odd, and cannot be read in part; use device \"cpu\"");
}

void DeviceMoeLayer::planes_of_bits(const uint8_t* bits, int64_t count, int32_t* planes) {
  for (int64_t e = 0; e < count; ++e) planes[e] = bits[e] > 2 ? bits[e] - 2 : 0;
}

size_t DeviceMoeLayer::scratch_bytes(const DeviceMoeLayer& layer, int64_t tokens, int slots) {
  const int64_t few = std::min(tokens, layer.weights_->few_rows());
  return std::max(lay_out(*layer.weights_, tokens, slots, nullptr).bytes,
                  lay_out(*layer.weights_, few, slots, nullptr).bytes);
}

// The main path: hidden -> route -> dispatch -> experts -> combine -> residual.
Status DeviceMoeLayer::enqueue(const Rows& rows, void* scratch) const {
  if (rows.max_tokens <= 0) return Status();
  if (rows.planes.parts != weights_->parts) {
    return error(Code::Internal, "the layer needs %d planes of activations, got %d", weights_->parts,
                 rows.planes.parts);
  }
  DeviceMoePass pass(*weights_, rows, scratch);
  if (rows.max_tokens <= few_rows()) {
    SMOE_RETURN_IF_ERROR(pass.route_few());
    SMOE_RETURN_IF_ERROR(pass.shared_few());
    return pass.experts_few();
  }
  if (rows.num_tokens != nullptr) {
    return error(Code::Internal, "more than %d rows must all be real", static_cast<int>(few_rows()));
  }
  SMOE_RETURN_IF_ERROR(pass.route_many());
  SMOE_RETURN_IF_ERROR(pass.shared_many());
  return pass.experts_many();
}

}  // namespace smoe
