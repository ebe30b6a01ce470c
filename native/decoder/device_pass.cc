#include "decoder/device_pass.h"

namespace smoe {

Status enqueue_linear(Device& device, int64_t rows, const DeviceMatrix& weight, cu::LinearArgs args) {
  args.weight = weight.view;
  if (args.rows == 0) args.rows = weight.rows;
  if (args.k == 0) args.k = weight.cols;
  if (args.x_stride == 0) args.x_stride = args.k;
  if (args.out_stride == 0) args.out_stride = args.rows;
  args.max_tokens = rows;
  args.blocks = device.info().sms;
  if (rows > kFewRows) {
    SMOE_ENQUEUE(device, linear_tiles, args);
    return Status();
  }
  args.blocks *= 2;  // two fit an SM, and while one adds up the other reads
  SMOE_ENQUEUE(device, linear_rows, args);
  return Status();
}

Status enqueue_linear(const DevicePass& pass, const DeviceMatrix& weight, cu::LinearArgs args) {
  args.num_tokens = pass.num_tokens();
  return enqueue_linear(*pass.device, pass.rows, weight, args);
}

}  // namespace smoe
