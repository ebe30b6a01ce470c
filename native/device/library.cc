#include "device/library.h"

#include <mutex>

#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace smoe {
namespace {

// Nothing here is destroyed: addons are used until the process ends.
struct Wanted {
  std::mutex lock;
  std::string path;
};

Wanted& wanted() {
  static Wanted* const one = new Wanted;
  return *one;
}

#ifdef _WIN32

std::wstring wide(const std::string& utf8) {
  const int bytes = static_cast<int>(utf8.size());
  std::wstring text(static_cast<size_t>(MultiByteToWideChar(CP_UTF8, 0, utf8.data(), bytes, nullptr, 0)), L'\0');
  MultiByteToWideChar(CP_UTF8, 0, utf8.data(), bytes, text.data(), static_cast<int>(text.size()));
  return text;
}

void* open_library(const std::string& path, std::string* why) {
  HMODULE const module = LoadLibraryExW(wide(path).c_str(), nullptr, LOAD_WITH_ALTERED_SEARCH_PATH);
  if (module == nullptr) *why = path + ": LoadLibrary failed with error " + std::to_string(GetLastError());
  return module;
}
void* find_symbol(void* library, const char* name) {
  return reinterpret_cast<void*>(GetProcAddress(static_cast<HMODULE>(library), name));
}
void close_library(void* library) { FreeLibrary(static_cast<HMODULE>(library)); }

#else

void* open_library(const std::string& path, std::string* why) {
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library != nullptr) return library;
  const char* const text = dlerror();
  *why = text != nullptr ? text : path + ": dlopen failed";
  return nullptr;
}
void* find_symbol(void* library, const char* name) { return dlsym(library, name); }
void close_library(void* library) { dlclose(library); }

#endif

}  // namespace

CudaLibrary load_cuda_library(const std::string& path) {
  CudaLibrary loaded;
  loaded.path = path;
  if (path.empty()) {
    loaded.why = "this installation has no CUDA backend";
    return loaded;
  }
  void* const library = open_library(path, &loaded.why);
  if (library == nullptr) return loaded;
  auto* const entry = reinterpret_cast<smoe_cuda_table_fn*>(find_symbol(library, "smoe_cuda_table"));
  const cu::CudaTable* const table = entry != nullptr ? entry() : nullptr;
  if (table == nullptr) {
    loaded.why = path + " is not a CUDA backend: it exports no smoe_cuda_table";
  } else if (table->version != cu::kCudaTableVersion || table->bytes != cu::cuda_table_bytes()) {
    loaded.why = path + " belongs to another release (table version " + std::to_string(table->version) + " of " +
                 std::to_string(table->bytes) + " bytes, this one has version " +
                 std::to_string(cu::kCudaTableVersion) + " of " + std::to_string(cu::cuda_table_bytes()) +
                 "): install both from the same release";
  } else {
    loaded.table = table;
    return loaded;
  }
  close_library(library);
  return loaded;
}

void set_cuda_library(std::string path) {
  const std::lock_guard<std::mutex> guard(wanted().lock);
  wanted().path = std::move(path);
}

const CudaLibrary& cuda_library() {
  static const CudaLibrary* const loaded = [] {
    const std::lock_guard<std::mutex> guard(wanted().lock);
    return new CudaLibrary(load_cuda_library(wanted().path));
  }();
  return *loaded;
}

}  // namespace smoe
