// Attention of one head and one query in double precision. Used by tests only.
#pragma once

#include <cstdint>
#include <vector>

namespace smoe::reference {

struct Attention {
  std::vector<double> out;        // [value_dim]
  std::vector<double> magnitude;  // [value_dim] sum of weight * |value|
  double largest_score = 0;       // largest sum |q_i k_i| * scale: what rounding errors of scores are relative to
  double largest_distance = 0;    // largest distance of a score from the maximum
};

// Keys and values row by row, [n][head_dim] and [n][value_dim]. sink: -infinity for none.
Attention attend(const float* q, const float* k, const float* v, int64_t begin, int64_t end, int64_t head_dim,
                 int64_t value_dim, double scale, double sink);

}  // namespace smoe::reference
