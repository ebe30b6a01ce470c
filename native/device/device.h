// One CUDA device (or its emulation): the table of launches, a stream, memory. Objects above hold it by shared_ptr.
#pragma once

#include <memory>
#include <mutex>

#include "core/status.h"
#include "device/library.h"

namespace smoe {

class Device;

// Memory of a device, back to its pool when it goes. Contents are undefined. Everything runs on one stream, so memory
// may go back, and be handed out again, while work that uses it is still under way.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;
  ~DeviceBuffer() { release(); }

  void* data() const { return data_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }
  void release();

 private:
  friend class Device;
  std::shared_ptr<Device> device_;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// For tests: whether devices of the emulation that are opened from now on carve small allocations from slabs, as GPUs
// do (pool.h).
void carve_emulated_devices(bool carve);

class Device : public std::enable_shared_from_this<Device> {
 public:
  // Device `index` of cuda_library(), opened at first use and shared. DeviceUnavailable with the reason and the fix;
  // DeviceLost when it has failed before in this process.
  static Status open(int index, std::shared_ptr<Device>* out);
  ~Device();

  int index() const;
  const cu::CudaDeviceInfo& info() const;  // as it was when the device was opened
  const cu::CudaTable& table() const;
  void* stream() const;

  // Work on the stream belongs to whoever holds this: one call at a time runs on a device. Launches, copies, fill and
  // synchronize need it; allocations do not. Functions that take it themselves say so.
  std::unique_lock<std::mutex> lock();

  // What a launch or a function of the runtime returned; `what` begins the message. DeviceLost is remembered, and every
  // later check() and allocation fails with it; OutOfMemory and refused launches are not.
  Status check(cu::CudaError error, const char* what);
  bool lost() const;

  // From the pool (pool.h): freed memory is kept for the next allocation of about the same size, and given back to the
  // runtime before an allocation is refused. Not to be called during a capture.
  Status allocate(size_t bytes, DeviceBuffer* out);
  size_t bytes_in_use() const;
  size_t bytes_cached() const;
  void trim();  // gives back what is cached, but for slabs of which a part is in use

  // Ordered on the stream. copy_in stages through pinned memory and returns once `from` may be reused; copy_out and
  // synchronize return once everything before them is done. None of them during a capture.
  Status copy_in(void* to_device, const void* from_host, size_t bytes);
  Status copy_out(void* to_host, const void* from_device, size_t bytes);
  // copy_out whose bytes arrive with the next synchronize() (or copy_out), so that several wait once. `to_host` must
  // stay until that has been called, also after a failure.
  Status copy_out_later(void* to_host, const void* from_device, size_t bytes);
  Status fill(void* memory, int byte, size_t bytes);
  Status synchronize();

 private:
  Device();
  friend class DeviceBuffer;
  void give_back(void* memory, size_t bytes);
  Status take_staging(size_t bytes, unsigned char** at, size_t* part);
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace smoe
