// Vector clocks of the emulated threads of a block. Component t of a thread's clock says up to which of its ticks
// thread t's accesses are known to have happened before. A thread ticks whenever it publishes (barrier, syncwarp,
// mbarrier arrive, fence). After a barrier all threads know the same, so clocks are immutable and shared; a thread
// keeps its own component apart.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <utility>
#include <vector>

namespace smoe::cu::emu {

class Clock {
 public:
  Clock() = default;
  Clock(const Clock& other) : data_(other.data_) { retain(); }
  Clock(Clock&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  Clock& operator=(Clock other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  ~Clock() { drop(); }

  static Clock from(const std::vector<uint32_t>& values) {
    Clock clock;
    clock.data_ = static_cast<Data*>(std::malloc(sizeof(Data) + values.size() * sizeof(uint32_t)));
    clock.data_->references = 1;
    for (size_t i = 0; i < values.size(); ++i) clock.data_->at()[i] = values[i];
    return clock;
  }
  // The empty clock knows nothing.
  uint32_t at(int component) const { return data_ == nullptr ? 0 : data_->at()[component]; }
  bool empty() const { return data_ == nullptr; }
  bool same(const Clock& other) const { return data_ == other.data_; }
  void join_into(std::vector<uint32_t>* values) const {
    if (data_ == nullptr) return;
    const uint32_t* const mine = data_->at();
    uint32_t* const out = values->data();
    const size_t n = values->size();
    for (size_t i = 0; i < n; ++i) out[i] = out[i] > mine[i] ? out[i] : mine[i];
  }

 private:
  struct Data {
    uint32_t references;
    uint32_t* at() { return reinterpret_cast<uint32_t*>(this + 1); }
  };
  void retain() {
    if (data_ != nullptr) ++data_->references;
  }
  void drop() {
    Data* const mine = std::exchange(data_, nullptr);
    if (mine != nullptr && --mine->references == 0) std::free(mine);
  }
  Data* data_ = nullptr;
};

// A point where threads meet: gathers what the arrivals know, hands the union to those that leave.
class Meeting {
 public:
  void reset(size_t components) {
    joined_.assign(components, 0);
    last_ = Clock();
    any_ = false;
  }
  void arrive(const Clock& known, int component, uint32_t tick) {
    if (!any_ || !known.same(last_)) known.join_into(&joined_);
    last_ = known;
    any_ = true;
    if (joined_[static_cast<size_t>(component)] < tick) joined_[static_cast<size_t>(component)] = tick;
  }
  Clock result() const { return Clock::from(joined_); }

 private:
  std::vector<uint32_t> joined_;
  Clock last_;
  bool any_ = false;
};

}  // namespace smoe::cu::emu
