// Scales and zero points of a row block for a loop that takes 64 columns at a time, whatever the groups are. Groups of
// whole 64s are cut into as many pieces; shorter ones, or odd ones, into spans that each lie in one group. Of the spans
// the four lanes that share a row look up four in one go, one lane each, and a span's scale comes from its lane by a
// shuffle. So what a lookup costs, which the type of the plane decides, is paid once for four spans or once for a
// group, and its latency passes while what came before is multiplied.
#pragma once

#include "kernels/experts/group_scales.cuh"

namespace smoe::cu {

constexpr int kHalfCols = 64, kHalfSteps = kHalfCols / 16;

// Spans of 64 columns from column `col` on: one, two or four.
SMOE_DEVICE int half_spans(int group, int col) {
  if (group <= 0 || ((group | col) & (kHalfCols - 1)) == 0) return 1;
  return (group & 31) == 0 ? 2 : 4;
}

// Of rows g (0) and g + 8 (1) of a lane.
struct SpanScale {
  float scale[2], zero[2];
};

// kCols: how many columns are taken at a time. Where it is not 64, groups are of whole such pieces. zeros: whether
// there can be zero points.
template <int kCols = kHalfCols, bool zeros = true>
class SpanScales {
 public:
  // From column `col` of a block of `padded` columns on.
  SMOE_DEVICE SpanScales(const AtomMatrix& matrix, int64_t block, int col, int padded)
      : type_(matrix.scale_type), mul_(matrix.mul), spans_(kCols == kHalfCols ? half_spans(matrix.group, col) : 1) {
    group_ = matrix.group > 0 ? matrix.group : 1 << 30;
    last_ = (padded + group_ - 1) / group_ - 1;
    const int64_t at = off(block, last_ + 1) * kAtomRows + lane() / 4;
    scales_ = plane_at(matrix.scales, type_, at);
    zeros_ = matrix.zeros == nullptr ? nullptr : plane_at(matrix.zeros, type_, at);
    const int span = kCols / spans_, mine = spans_ == 1 ? col : col + span * (lane() % 4);
    index_ = mine / group_;
    place_ = mine - index_ * group_;
    look_up(scales_, ahead_.scale);
    if (!symmetric()) look_up(zeros_, ahead_.zero);
  }
  SMOE_DEVICE int spans() const { return kCols == kHalfCols ? spans_ : 1; }
  SMOE_DEVICE bool symmetric() const { return !zeros || zeros_ == nullptr; }
  // Before each kCols columns.
  SMOE_DEVICE void next() {
    if (left_ == 0) {
      move();
      plane_floats(ahead_.scale, type_, scale_);
      scale_[0] *= mul_;
      scale_[1] *= mul_;
      look_up(scales_, ahead_.scale);
      if (!symmetric()) {
        plane_floats(ahead_.zero, type_, zero_);
        look_up(zeros_, ahead_.zero);
      }
    }
    --left_;
  }
  // Behind them: whether their group ends here, where it is of whole such pieces.
  SMOE_DEVICE bool ends() const { return left_ == 0; }
  // Of span i of the kSpans of these columns.
  template <int kSpans>
  SMOE_DEVICE SpanScale span(int i) const {
    SpanScale s = {{scale_[0], scale_[1]}, {zero_[0], zero_[1]}};
    if (kSpans == 1) return s;
    const int from = (lane() & ~3) + 4 - kSpans * (left_ + 1) + i;
    s.scale[0] = shfl(scale_[0], from);
    s.scale[1] = shfl(scale_[1], from);
    if (!symmetric()) {
      s.zero[0] = shfl(zero_[0], from);
      s.zero[1] = shfl(zero_[1], from);
    }
    return s;
  }

 private:
  // Spans past the last group, which multiply zeros, take its scale.
  SMOE_DEVICE void look_up(const void* plane, uint32_t (&bits)[2]) const {
    plane_pair(plane, type_, index_ < last_ ? index_ : last_, bits);
  }
  // To what is looked up next: the next group, or the spans four on.
  SMOE_DEVICE void move() {
    if (spans() == 1) {
      left_ = (group_ - place_) / kCols;
      place_ = 0;
      ++index_;
      return;
    }
    left_ = 4 / spans_;
    place_ += 4 * kCols / spans_;  // from one span of a lane to its next
    SMOE_UNROLL1
    for (; place_ >= group_; ++index_) place_ -= group_;
  }

  const void *scales_, *zeros_;  // of row g, from the block's first group on
  ScaleType type_;
  float mul_;
  int spans_, group_, last_;
  int index_, place_;  // the group of the last lookup, and where in it the span begins
  int left_ = 0;       // of kCols columns, those that the scales serve yet
  struct {
    uint32_t scale[2], zero[2];
  } ahead_;
  float scale_[2] = {0, 0}, zero_[2] = {0, 0};
};

}  // namespace smoe::cu
