#include "decoder/check_tokens.h"

namespace smoe {
namespace {

Status check_ids(const char* name, const int32_t* ids, int64_t count, int64_t vocab) {
  for (int64_t i = 0; i < count; ++i) {
    if (ids[i] < 0 || ids[i] >= vocab) {
      return error(Code::TokenOutOfRange, "%s[%lld] must be in [0, %lld), got %d", name, static_cast<long long>(i),
                   static_cast<long long>(vocab), ids[i]);
    }
  }
  return Status();
}

}  // namespace

Status check_tokens(const Decoder& decoder, const Decoder::Forward& args) {
  if (args.ids == nullptr || args.tokens <= 0) return error(Code::InvalidArgument, "ids must hold at least one token");
  SMOE_RETURN_IF_ERROR(check_ids("ids", args.ids, args.tokens, decoder.vocab));
  if (args.nll == nullptr) return Status();
  if (args.targets == nullptr) return error(Code::InvalidArgument, "nll needs targets");
  return check_ids("targets", args.targets, args.tokens, decoder.vocab);
}

}  // namespace smoe
