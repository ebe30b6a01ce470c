// The token ids of a call, on whatever device it runs.
#pragma once

#include "decoder/decoder.h"

namespace smoe {

// Refuses a call without tokens, ids and targets outside the vocabulary, and nll without targets.
Status check_tokens(const Decoder& decoder, const Decoder::Forward& args);

}  // namespace smoe
