// A whole file mapped read-only, shared by the JS object and the running calls that read weights from it.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "core/buffer.h"
#include "core/status.h"

namespace smoe {

class MappedFile {
 public:
  static Status open(const std::string& path, std::shared_ptr<MappedFile>* out);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  size_t size() const { return size_; }
  // Reading a mapping past the end of a file that shrank raises SIGBUS and ends the process. Nothing can close that gap
  // altogether; asking for the size right before each use narrows it to that use.
  Status check() const;
  const unsigned char* data() const { return data_; }
  // Copies [offset, offset + length), which lies inside size(). Reads through the descriptor where there is one: that
  // cannot fault.
  Status read(size_t offset, size_t length, void* out) const;

 private:
  MappedFile() = default;

  std::string path_;
  size_t size_ = 0;
  const unsigned char* data_ = nullptr;
#ifdef _WIN32
  Buffer contents_;
#else
  int descriptor_ = -1;
#endif
};

}  // namespace smoe
