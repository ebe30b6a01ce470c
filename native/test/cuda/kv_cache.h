// A paged KV cache on the device of a test, filled and read from the host; shared by the tests of attention.
#pragma once

#include <memory>

#include "cuda/operands.h"
#include "gpu.h"

namespace smoe::cu::test {

// Every page is an allocation of its own, with room before this layer's part, so that a wrong page, layer or end of a
// page is a fault. A filled page is NaN from `count` on.
class KvCache {
 public:
  KvCache(Gpu& gpu, int64_t positions, int kv_heads, int key_dim, int value_dim, bool f32)
      : kv_heads_(kv_heads), key_dim_(key_dim), value_dim_(value_dim), size_(f32 ? 4 : 2) {
    const size_t part = static_cast<size_t>(kv_heads * kPageTokens * (key_dim + value_dim)) * size_;
    std::vector<void*> table;
    for (int64_t page = 0; page * kPageTokens < positions; ++page) {
      pages_.push_back(gpu.array<uint16_t>((kOffset + part) / 2, "page"));
      table.push_back(pages_.back().data());
    }
    table_ = std::make_unique<emu::Buffer<void*>>(gpu.array(table, "page table"));
  }
  KvPages pages() {
    KvPages pages;
    pages.pages = table_->data();
    pages.layer_offset = kOffset;
    pages.kv_heads = kv_heads_;
    pages.key_dim = key_dim_;
    pages.value_dim = value_dim_;
    pages.f32 = size_ == 4;
    return pages;
  }
  // element(position, head, value or key, i) for positions [0, count).
  template <class Element>
  void fill(int64_t count, Element element) {
    for (int64_t page = 0; page * kPageTokens < count; ++page) {
      auto& buffer = pages_[static_cast<size_t>(page)];
      std::vector<unsigned char> bytes = bytes_of(buffer.download());
      for (int64_t slot = 0; slot < kPageTokens; ++slot) {
        const int64_t position = page * kPageTokens + slot;
        for (int head = 0; head < kv_heads_; ++head)
          for (const bool value : {false, true})
            for (int i = 0; i < (value ? value_dim_ : key_dim_); ++i)
              put(&bytes, at(slot, head, value, i), position < count ? element(position, head, value, i) : NAN);
      }
      std::vector<uint16_t> words(bytes.size() / 2);
      std::memcpy(words.data(), bytes.data(), bytes.size());
      buffer.upload(words);
    }
  }
  float get(int64_t position, int head, bool value, int i) {
    auto& bytes = host_[static_cast<size_t>(position / kPageTokens)];
    const size_t from = at(position % kPageTokens, head, value, i);
    uint32_t bits = 0;
    std::memcpy(size_ == 4 ? reinterpret_cast<char*>(&bits) : reinterpret_cast<char*>(&bits) + 2, &bytes[from], size_);
    return bit_cast<float>(bits);
  }
  void download() {
    host_.clear();
    for (auto& page : pages_) host_.push_back(bytes_of(page.download()));
  }
  const std::vector<std::vector<unsigned char>>& bytes() const { return host_; }
  size_t unwritten_bytes() const {
    size_t sum = 0;
    for (auto& page : pages_) sum += page.unwritten_bytes();
    return sum;
  }
  size_t row_bytes() const { return static_cast<size_t>(kv_heads_ * (key_dim_ + value_dim_)) * size_; }
  size_t total_bytes() const { return pages_.size() * (kOffset + kPageTokens * row_bytes()); }

 private:
  static constexpr size_t kOffset = 32;
  static std::vector<unsigned char> bytes_of(const std::vector<uint16_t>& words) {
    const auto* const first = reinterpret_cast<const unsigned char*>(words.data());
    return {first, first + 2 * words.size()};
  }
  size_t at(int64_t slot, int head, bool value, int i) const {
    const int64_t base = value ? int64_t{kv_heads_} * kPageTokens * key_dim_ : 0;
    return kOffset +
           static_cast<size_t>(base + (head * kPageTokens + slot) * (value ? value_dim_ : key_dim_) + i) * size_;
  }
  void put(std::vector<unsigned char>* bytes, size_t to, float value) const {
    const uint32_t bits = size_ == 4 ? bit_cast<uint32_t>(value) : to_bf16(value).bits;
    std::memcpy(bytes->data() + to, &bits, size_);
  }
  int kv_heads_, key_dim_, value_dim_;
  size_t size_;
  std::vector<emu::Buffer<uint16_t>> pages_;
  std::unique_ptr<emu::Buffer<void*>> table_;
  std::vector<std::vector<unsigned char>> host_;
};

inline emu::Buffer<StepInput> step_input(Gpu& gpu, int64_t tokens, int64_t position) {
  StepInput step;
  step.tokens = static_cast<int32_t>(tokens);
  step.position = static_cast<int32_t>(position);
  return gpu.constant(std::vector<StepInput>{step}, "step");
}

}  // namespace smoe::cu::test
