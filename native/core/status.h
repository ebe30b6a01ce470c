// Status: how everything below bindings/ reports failure. Nothing there throws, prints or aborts.
#pragma once

#include <string>
#include <utility>

namespace smoe {

enum class Code {
  Ok = 0,
#define SMOE_ERROR(name, text) name,
#include "core/error_codes.def"
#undef SMOE_ERROR
};

// The stable string that JavaScript sees as error.code; "OK" for Code::Ok.
const char* code_name(Code code);

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == Code::Ok; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  Code code_ = Code::Ok;
  std::string message_;
};

// printf-style construction, for messages that name the argument, what was expected and what came.
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
Status
error(Code code, const char* format, ...);

#define SMOE_RETURN_IF_ERROR(expression)         \
  do {                                           \
    ::smoe::Status smoe_status_ = (expression);  \
    if (!smoe_status_.ok()) return smoe_status_; \
  } while (0)

}  // namespace smoe
