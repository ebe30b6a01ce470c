// Random rows, arrays that end at an unreadable page, and bit comparison, for the tests of the smaller kernels.
#pragma once

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/kernel_table.h"

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace smoe_test {

constexpr double kU = 1.0 / (1 << 24);  // unit roundoff of f32

struct Random {
  std::mt19937 engine;
  explicit Random(unsigned seed) : engine(seed) {}
  float normal() { return std::normal_distribution<float>(0, 1)(engine); }
  float uniform(float low, float high) { return std::uniform_real_distribution<float>(low, high)(engine); }
  int below(int n) { return static_cast<int>(engine() % static_cast<unsigned>(n)); }
  std::vector<float> row(int64_t n, float scale = 1) {
    std::vector<float> out(static_cast<size_t>(n));
    for (float& value : out) value = scale * normal();
    return out;
  }
};

// An array whose last element is the last of its page, the next page being unreadable: a kernel that touches anything
// past the end crashes, also with instructions that sanitizers do not watch.
template <class T>
class Guarded {
 public:
  explicit Guarded(const std::vector<T>& values) : size_(values.size()) {
#if defined(__unix__) || defined(__APPLE__)
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t room = (size_ * sizeof(T) + page - 1) / page * page;
    mapped_ = room + page;
    base_ = static_cast<char*>(mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    mprotect(base_ + room, page, PROT_NONE);
    data_ = reinterpret_cast<T*>(base_ + room - size_ * sizeof(T));
#else
    data_ = new T[size_ + 1];
#endif
    if (size_ > 0) std::memcpy(data_, values.data(), size_ * sizeof(T));
  }
  Guarded(size_t size, T value) : Guarded(std::vector<T>(size, value)) {}
  ~Guarded() {
#if defined(__unix__) || defined(__APPLE__)
    munmap(base_, mapped_);
#else
    delete[] data_;
#endif
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  T* data() { return data_; }
  T& operator[](size_t i) { return data_[i]; }
  std::vector<T> copy() const { return std::vector<T>(data_, data_ + size_); }

 private:
  T* data_ = nullptr;
  size_t size_ = 0;
  char* base_ = nullptr;
  size_t mapped_ = 0;
};

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

}  // namespace smoe_test
