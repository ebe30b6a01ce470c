// A quantized matrix to and from the arrays that files hold.
#include "bindings/cancel_token_object.h"
#include "bindings/quantized_task.h"
#include "prepare/canonical.h"

namespace smoe {
namespace {

std::vector<uint8_t> packed_codes(WeightFormat format, const std::vector<uint8_t>& codes, int64_t rows, int64_t cols) {
  const int64_t bytes = code_row_bytes(format, cols);
  std::vector<uint8_t> packed(static_cast<size_t>(rows * bytes));
  for (int64_t r = 0; r < rows; ++r) pack_row_codes(format, codes.data() + r * cols, cols, packed.data() + r * bytes);
  return packed;
}

Napi::Value byte_copy(napi_env env, const std::vector<uint8_t>& bytes) {
  return copied_array(env, napi_uint8_array, bytes.data(), static_cast<int64_t>(bytes.size()));
}

Napi::Value float_copy(napi_env env, const std::vector<float>& values) {
  return copied_array(env, napi_float32_array, values.data(), static_cast<int64_t>(values.size()));
}

std::vector<uint8_t> code_bytes(napi_env env, napi_value value, WeightFormat format, const QuantizedMatrix& m) {
  const int64_t bytes = element_count(env, m.rows, code_row_bytes(format, m.cols), "codes");
  const auto* first = static_cast<const uint8_t*>(typed_array(env, value, "codes", napi_uint8_array, bytes).data);
  return std::vector<uint8_t>(first, first + bytes);
}

void read_values(napi_env env, napi_value value, const char* name, int64_t count, std::vector<float>* out) {
  const float* values = f32_array(env, value, name, count);
  out->assign(values, values + count);
}

// What from() copied, before it is unpacked on the op thread.
class FromTask : public MakeTask {
 public:
  struct Codes {
    WeightFormat format;
    std::vector<uint8_t> bytes;
    std::vector<uint8_t>* out;
  };
  QuantizedMatrix& matrix() { return made_->matrix; }
  std::vector<Codes> codes;

 protected:
  Status run() override {
    QuantizedMatrix& m = made_->matrix;
    for (Codes& one : codes) {
      const int64_t bytes = code_row_bytes(one.format, m.cols);
      one.out->resize(static_cast<size_t>(m.rows * m.cols));
      for (int64_t r = 0; r < m.rows; ++r)
        unpack_row_codes(one.format, one.bytes.data() + r * bytes, m.cols, one.out->data() + r * m.cols);
      one.bytes = {};
      if (cancelled(cancel())) return Status(Code::Cancelled, "cancelled");
    }
    return validate(m);
  }
};

// Holds the matrix, which may be disposed of meanwhile.
class PartsTask : public AsyncTask {
 public:
  explicit PartsTask(std::shared_ptr<const NativeQuantized> from) : from_(std::move(from)) {}

 protected:
  Status run() override {
    const QuantizedMatrix& m = from_->matrix;
    codes_.push_back(packed_codes(m.format, m.codes, m.rows, m.cols));
    for (const QuantizedMatrix::Plane& plane : m.planes) {
      if (cancelled(cancel())) return Status(Code::Cancelled, "cancelled");
      codes_.push_back(packed_codes(WeightFormat::W1, plane.bits, m.rows, m.cols));
    }
    return Status();
  }
  Napi::Value result(Napi::Env env) override {
    const QuantizedMatrix& m = from_->matrix;
    Napi::Object object = Napi::Object::New(env);
    object.Set("format", weight_format_name(m.format));
    object.Set("rows", static_cast<double>(m.rows));
    object.Set("cols", static_cast<double>(m.cols));
    object.Set("group", static_cast<double>(m.group));
    object.Set("mul", m.mul);
    object.Set("codebook", m.codebook);
    object.Set("codes", byte_copy(env, codes_[0]));
    object.Set("scales", float_copy(env, m.scales));
    if (!m.zeros.empty()) object.Set("zeros", float_copy(env, m.zeros));
    Napi::Array planes = Napi::Array::New(env);
    for (uint32_t i = 0; i < m.planes.size(); ++i) {
      Napi::Object plane = Napi::Object::New(env);
      plane.Set("codes", byte_copy(env, codes_[i + 1]));
      plane.Set("scales", float_copy(env, m.planes[i].scales));
      planes[i] = plane;
    }
    object.Set("planes", planes);
    return object;
  }

 private:
  std::shared_ptr<const NativeQuantized> from_;
  std::vector<std::vector<uint8_t>> codes_;  // of the matrix, then of its planes
};

}  // namespace

// from(parts, cancel)
Napi::Value QuantizedMatrixObject::from_parts(const Napi::CallbackInfo& info) {
  return guarded_async(info.Env(), [&]() -> Napi::Value {
    const Napi::Env env = info.Env();
    const auto field = [&](const char* key) { return property(env, info[0], key, "parts"); };
    auto task = std::make_shared<FromTask>();
    QuantizedMatrix& m = task->matrix();
    m.format = parse_format(env, field("format"));
    m.rows = integer(env, field("rows"), "rows", 1, kMaxSide);
    m.cols = integer(env, field("cols"), "cols", 1, kMaxSide);
    m.group = integer(env, field("group"), "group", 1, kMaxSide);
    m.codebook = static_cast<int>(integer_or(env, info[0], "codebook", 0, 2, 0));
    m.mul = static_cast<float>(number(env, field("mul"), "mul"));
    const napi_value codes = field("codes"), scales = field("scales"), zeros = field("zeros"), planes = field("planes");
    const uint32_t count = is_nullish(env, planes) ? 0 : array_length(env, planes, "planes", 6);
    std::vector<std::pair<napi_value, napi_value>> plane_fields;
    for (uint32_t i = 0; i < count; ++i) {
      const napi_value plane = element(env, planes, i);
      plane_fields.emplace_back(property(env, plane, "codes", "plane"), property(env, plane, "scales", "plane"));
    }
    const int64_t groups = element_count(env, m.rows, m.groups(), "scales");
    read_values(env, scales, "scales", groups, &m.scales);
    if (!is_nullish(env, zeros)) read_values(env, zeros, "zeros", groups, &m.zeros);
    task->codes.push_back({m.format, code_bytes(env, codes, m.format, m), &m.codes});
    m.planes.resize(count);
    for (uint32_t i = 0; i < count; ++i) {
      const auto& [bits, values] = plane_fields[i];
      task->codes.push_back({WeightFormat::W1, code_bytes(env, bits, WeightFormat::W1, m), &m.planes[i].bits});
      read_values(env, values, "plane scales", groups, &m.planes[i].scales);
    }
    return AsyncTask::start(env, std::move(task), CancelTokenObject::flag_of(env, info[1]));
  });
}

Napi::Value QuantizedMatrixObject::parts(const Napi::CallbackInfo& info) {
  return guarded_async(info.Env(), [&]() -> Napi::Value {
    auto task = std::make_shared<PartsTask>(native(info.Env()));
    return AsyncTask::start(info.Env(), std::move(task), CancelTokenObject::flag_of(info.Env(), info[0]));
  });
}

}  // namespace smoe
