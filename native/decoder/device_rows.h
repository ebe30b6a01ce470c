// Memory of the rows that go through the layers together: what decoder/chunk.h is on the CPU.
#pragma once

#include "decoder/device_kv_cache.h"
#include "decoder/device_pass.h"
#include "decoder/device_weights.h"

namespace smoe {

// The model as it lies on the device. `shape` has the configuration of every layer, and no weights.
struct DeviceModel {
  std::shared_ptr<Device> device;
  Decoder shape;
  DeviceEnds ends;
  std::vector<DeviceLayer> layers;

  DeviceKvShape cache_shape() const;
  size_t bytes() const;
};

class DeviceRows {
 public:
  float *x = nullptr, *u = nullptr;  // [rows, H] residual stream; normed input of a feed-forward, for routers
  cu::bf16* planes = nullptr;        // [parts][rows, H] normed input of a sub-layer
  ResidualState state;               // [rows, H]
  PassInput* input = nullptr;        // then ids and targets, [rows] each
  void* stage = nullptr;             // what a stage may use while it runs
  void* moe = nullptr;               // of MoE layers

  // Room for `rows` rows. A failure leaves none.
  Status reserve(const DeviceModel& model, int64_t rows);
  void release();
  int64_t rows() const { return rows_; }
  size_t bytes() const { return memory_.bytes() + moe_memory_.bytes(); }
  int32_t* ids() const { return reinterpret_cast<int32_t*>(input + 1); }
  int32_t* targets() const { return ids() + rows_; }

  static size_t bytes_for(const DeviceModel& model, int64_t rows);

 private:
  size_t lay_out(const DeviceModel& model, int64_t rows, void* memory);

  DeviceBuffer memory_, moe_memory_;
  int64_t rows_ = 0;
};

// More than two pieces of kFewRows: pieces of a longer call then all have more than kFewRows rows.
constexpr int64_t kMinChunkRows = 256;
// Most rows that go through the layers together, a power of two: what the scratch budget allows. Past about a thousand
// rows every expert of common models has enough of them to keep the multipliers busy.
int64_t default_chunk_rows(const DeviceModel& model);
// Pieces of `total` rows of at most `most` rows each, as equal as can be, so that none of several is small.
inline int64_t piece_count(int64_t total, int64_t most) { return (total + most - 1) / most; }
inline int64_t piece_begin(int64_t total, int64_t pieces, int64_t piece) { return total * piece / pieces; }

}  // namespace smoe
