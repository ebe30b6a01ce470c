#include "bindings/mapped_file_object.h"

namespace smoe {

Napi::Function MappedFileObject::define(Napi::Env env) {
  return DefineClass(env, kName,
                     {getter<&MappedFileObject::size>("size"), method<&MappedFileObject::read>("read"),
                      method<&MappedFileObject::close>("close")});
}

MappedFileObject::MappedFileObject(const Napi::CallbackInfo& info) : TaggedObject(info) {
  guarded(info.Env(), [&] { throw_if_error(info.Env(), MappedFile::open(text(info.Env(), info[0], "path"), &file_)); });
}

const std::shared_ptr<MappedFile>& MappedFileObject::file(napi_env env) const {
  if (file_ == nullptr) throw_error(env, Code::Disposed, "MappedFile is closed");
  return file_;
}

Napi::Value MappedFileObject::size(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(file(info.Env())->size()));
}

Napi::Value MappedFileObject::read(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const std::shared_ptr<MappedFile> file = this->file(env);
  const auto size = static_cast<int64_t>(file->size());
  const int64_t offset = integer(env, info[0], "offset", 0, size);
  const int64_t length = integer(env, info[1], "length", 0, size - offset);
  const NewArray bytes = new_array(env, napi_uint8_array, length);
  throw_if_error(env, file->read(static_cast<size_t>(offset), static_cast<size_t>(length), bytes.data));
  return bytes.value;
}

Napi::Value MappedFileObject::close(const Napi::CallbackInfo& info) {
  file_.reset();
  return info.Env().Undefined();
}

}  // namespace smoe
