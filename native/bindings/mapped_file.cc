#include "bindings/mapped_file.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#ifndef _WIN32
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace smoe {

#ifdef _WIN32

// Read as a whole instead of mapped: a mapped file cannot be replaced or deleted on Windows.
Status MappedFile::open(const std::string& path, std::shared_ptr<MappedFile>* out) {
  std::shared_ptr<MappedFile> file(new MappedFile);
  const std::filesystem::path native = std::filesystem::u8path(path);
  std::error_code failure;
  if (!std::filesystem::exists(native, failure)) return error(Code::FileNotFound, "no such file: %s", path.c_str());
  std::ifstream stream(native, std::ios::binary | std::ios::ate);
  if (!stream) return error(Code::FileRead, "cannot open %s", path.c_str());
  file->size_ = static_cast<size_t>(stream.tellg());
  SMOE_RETURN_IF_ERROR(file->contents_.allocate(file->size_ + 1));
  stream.seekg(0);
  if (!stream.read(file->contents_.as<char>(), static_cast<std::streamsize>(file->size_))) {
    return error(Code::FileRead, "cannot read %s", path.c_str());
  }
  file->path_ = path;
  file->data_ = file->contents_.as<unsigned char>();
  *out = std::move(file);
  return {};
}

MappedFile::~MappedFile() = default;
Status MappedFile::check() const { return {}; }
Status MappedFile::read(size_t offset, size_t length, void* out) const {
  std::memcpy(out, data_ + offset, length);
  return {};
}

#else

namespace {

Status system_error(const char* what, const std::string& path, int number) {
  const Code code = number == ENOENT || number == ENOTDIR ? Code::FileNotFound : Code::FileRead;
  return error(code, "cannot %s %s: %s", what, path.c_str(), std::strerror(number));
}

}  // namespace

Status MappedFile::open(const std::string& path, std::shared_ptr<MappedFile>* out) {
  if (path.find('\0') != std::string::npos) return Status(Code::InvalidArgument, "path contains a zero byte");
  std::shared_ptr<MappedFile> file(new MappedFile);
  file->path_ = path;
  // O_NONBLOCK: opening a named pipe must not hang the event loop before fstat can refuse it.
  file->descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file->descriptor_ < 0) return system_error("open", path, errno);
  struct stat info;
  if (fstat(file->descriptor_, &info) != 0) return system_error("stat", path, errno);
  if (!S_ISREG(info.st_mode)) return error(Code::FileRead, "not a regular file: %s", path.c_str());
  file->size_ = static_cast<size_t>(info.st_size);
  if (file->size_ > 0) {
    void* address = mmap(nullptr, file->size_, PROT_READ, MAP_PRIVATE, file->descriptor_, 0);
    if (address == MAP_FAILED) return system_error("map", path, errno);
    file->data_ = static_cast<const unsigned char*>(address);
  }
  *out = std::move(file);
  return {};
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<unsigned char*>(data_), size_);
  if (descriptor_ >= 0) close(descriptor_);
}

Status MappedFile::check() const {
  struct stat info;
  if (fstat(descriptor_, &info) != 0) return system_error("stat", path_, errno);
  if (static_cast<size_t>(info.st_size) < size_) {
    return error(Code::FileChanged, "%s shrank from %zu to %lld bytes while it was open", path_.c_str(), size_,
                 static_cast<long long>(info.st_size));
  }
  return {};
}

Status MappedFile::read(size_t offset, size_t length, void* out) const {
  SMOE_RETURN_IF_ERROR(check());
  auto* target = static_cast<unsigned char*>(out);
  while (length > 0) {
    const ssize_t count = pread(descriptor_, target, length, static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return system_error("read", path_, errno);
    if (count == 0) return error(Code::FileChanged, "%s shrank while it was read", path_.c_str());
    target += count;
    offset += static_cast<size_t>(count);
    length -= static_cast<size_t>(count);
  }
  return {};
}

#endif

}  // namespace smoe
