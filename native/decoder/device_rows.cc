#include "decoder/device_rows.h"

#include <algorithm>

#include "decoder/device_attention.h"
#include "decoder/device_dense.h"
#include "decoder/device_head.h"

namespace smoe {
namespace {

// Beside the weights of a large model on one device this much is left.
constexpr size_t kScratchBudget = size_t{1} << 30;
constexpr int64_t kMaxChunkRows = 2048;

int most_parts(const DeviceModel& model) {
  int parts = activation_parts(model.shape.precision);
  for (const DecoderLayer& layer : model.shape.layers)
    parts = std::max(parts, attention_parts(layer.attention, model.shape.precision));
  for (const DeviceLayer& layer : model.layers)
    if (layer.moe != nullptr) parts = std::max(parts, layer.moe->activation_parts());
  return parts;
}

size_t stage_bytes(const DeviceModel& model, int64_t rows) {
  const Precision precision = model.shape.precision;
  size_t most = head_bytes(model, rows);
  for (size_t index = 0; index < model.layers.size(); ++index) {
    const AttentionConfig& attention = model.shape.layers[index].attention;
    most = std::max(most, attention_bytes(attention, precision, rows, model.device->info().sms));
    const DeviceDense* dense = model.layers[index].dense.get();
    if (dense != nullptr) most = std::max(most, dense_bytes(dense->width, precision, rows));
  }
  return most;
}

size_t moe_bytes(const DeviceModel& model, int64_t rows) {
  size_t most = 0;
  for (size_t index = 0; index < model.layers.size(); ++index) {
    const DeviceMoeLayer* moe = model.layers[index].moe.get();
    if (moe == nullptr) continue;
    most = std::max(most, DeviceMoeLayer::scratch_bytes(*moe, rows, model.shape.layers[index].moe->config.router.k));
  }
  return most;
}

}  // namespace

DeviceKvShape DeviceModel::cache_shape() const {
  DeviceKvShape cache;
  cache.layers = static_cast<int>(layers.size());
  if (!layers.empty()) cache.kv = shape.layers.front().attention.cache_shape();
  cache.f32 = shape.precision == Precision::Exact;
  return cache;
}

size_t DeviceModel::bytes() const {
  size_t total = ends.bytes();
  for (const DeviceLayer& layer : layers) total += layer.bytes();
  return total;
}

size_t DeviceRows::lay_out(const DeviceModel& model, int64_t rows, void* memory) {
  DeviceArena arena(memory);
  const int64_t elements = rows * model.shape.hidden;
  input = reinterpret_cast<PassInput*>(
      arena.take<unsigned char>(static_cast<int64_t>(sizeof(PassInput)) + 2 * rows * int64_t{sizeof(int32_t)}));
  x = arena.take<float>(elements);
  u = arena.take<float>(elements);
  planes = take_planes(&arena, elements, most_parts(model)).data;
  const int states = state_tensors(model.shape.momentum);
  state = ResidualState();
  if (states >= 1) state.m = arena.take<float>(elements);
  if (states == 2) state.m_im = arena.take<float>(elements);
  if (states == 3) {
    state.p = arena.take<float>(elements);
    state.v = arena.take<float>(elements);
  }
  stage = arena.take<unsigned char>(static_cast<int64_t>(stage_bytes(model, rows)));
  return arena.bytes();
}

size_t DeviceRows::bytes_for(const DeviceModel& model, int64_t rows) {
  return DeviceRows().lay_out(model, rows, nullptr) + moe_bytes(model, rows);
}

Status DeviceRows::reserve(const DeviceModel& model, int64_t rows) {
  if (rows <= rows_) return Status();
  release();
  Device& device = *model.device;
  DeviceBuffer memory, moe_memory;
  SMOE_RETURN_IF_ERROR(device.allocate(lay_out(model, rows, nullptr), &memory));
  const size_t moe_size = moe_bytes(model, rows);
  if (moe_size > 0) {
    SMOE_RETURN_IF_ERROR(device.allocate(moe_size, &moe_memory));
    SMOE_RETURN_IF_ERROR(device.fill(moe_memory.data(), 0, DeviceMoeLayer::kScratchZeros));
  }
  memory_ = std::move(memory);
  moe_memory_ = std::move(moe_memory);
  lay_out(model, rows, memory_.data());
  moe = moe_memory_.data();
  rows_ = rows;
  return Status();
}

void DeviceRows::release() { *this = DeviceRows(); }

int64_t default_chunk_rows(const DeviceModel& model) {
  int64_t rows = kMaxChunkRows;
  while (rows > kMinChunkRows && DeviceRows::bytes_for(model, rows) > kScratchBudget) rows /= 2;
  return rows;
}

}  // namespace smoe
