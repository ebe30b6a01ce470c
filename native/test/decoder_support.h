// Runs tiny decoders: whole, in pieces, and against the double-precision reference.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "decoder/decoder.h"
#include "decoder/reference.h"
#include "tiny_decoder.h"

namespace smoe::test {

struct Session {
  const Decoder& model;
  KvCache cache;
  ThreadPool pool;
  Workspace workspace;

  explicit Session(const Decoder& decoder, int threads = 1, int64_t capacity = 1024)
      : model(decoder), cache(decoder.make_cache(capacity)), pool(threads) {}

  Status forward(Decoder::Forward args, const std::vector<int32_t>& ids) {
    args.ids = ids.data();
    args.tokens = static_cast<int64_t>(ids.size());
    args.cache = &cache;
    return model.forward(args, *kernels(), pool, workspace);
  }
  std::vector<float> logits(const std::vector<int32_t>& ids) {
    std::vector<float> out(ids.size() * static_cast<size_t>(model.vocab), NAN);
    Decoder::Forward args;
    args.all_logits = true;
    args.logits = out.data();
    const Status status = forward(args, ids);
    REQUIRE_MESSAGE(status.ok(), status.message());
    return out;
  }
};

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

inline std::vector<int32_t> slice(const std::vector<int32_t>& ids, size_t first, size_t last) {
  return std::vector<int32_t>(ids.begin() + static_cast<std::ptrdiff_t>(first),
                              ids.begin() + static_cast<std::ptrdiff_t>(last));
}

// Logits of `ids` fed in pieces that end at the given places.
inline std::vector<float> in_pieces(const Decoder& model, const std::vector<int32_t>& ids,
                                    const std::vector<size_t>& ends, int threads) {
  Session session(model, threads);
  std::vector<float> all;
  size_t first = 0;
  for (const size_t end : ends) {
    const std::vector<float> part = session.logits(slice(ids, first, end));
    all.insert(all.end(), part.begin(), part.end());
    first = end;
  }
  return all;
}

// f32 sums of at most K = 48 terms err by about sqrt(48) * 2^-24 = 4e-7 relative; some ten of them follow each other
// in each of 3 layers, and norms of small rows and the saturating Adam step can multiply an error by about ten. 1e-4 of
// the largest logit leaves a factor of ten, and a wrong formula errs by far more.
constexpr double kExactTolerance = 1e-4;

inline void check_against_reference(const TinyOptions& options, double tolerance) {
  const Decoder model = tiny(options);
  const Status status = model.validate();
  REQUIRE_MESSAGE(status.ok(), status.message());
  const std::vector<int32_t> ids = random_ids(21, model.vocab, options.seed + 100);
  const reference::Pass expected = reference::decoder(model, ids);
  REQUIRE(expected.router_margin > 1e-4);  // a closer tie may fall either way: choose another seed
  const std::vector<float> got = Session(model).logits(ids);
  double worst = 0, largest = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    worst = std::max(worst, std::fabs(got[i] - expected.logits[i]));
    largest = std::max(largest, std::fabs(expected.logits[i]));
    if (std::isnan(got[i])) worst = INFINITY;
  }
  CHECK(largest > 0.1);
  CHECK(worst <= tolerance * largest);
}

}  // namespace smoe::test
