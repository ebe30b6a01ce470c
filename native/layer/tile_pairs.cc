#include "layer/tile_pairs.h"

#include "formats/format_info.h"

namespace smoe {
namespace {

TileFn tile_function(const KernelTable& kernels, const PackedMatrix& matrix, const RowLayout& layout) {
  return kernels.tile[static_cast<int>(matrix.format)][static_cast<int>(layout.kind)];
}

const unsigned char* at(const unsigned char* base, size_t bytes, int64_t tile) {
  return base == nullptr ? nullptr : base + static_cast<size_t>(tile) * bytes;
}

// The kernel's reading of two tiles in one call: all that it knows once for both agrees.
bool pairable(const PackedMatrix& a, const PackedMatrix& b) {
  return a.scale_type == b.scale_type && a.zero_type == b.zero_type && a.codebook == b.codebook &&
         a.planes == b.planes && a.group == b.group && (a.zeros.bytes() == 0) == (b.zeros.bytes() == 0);
}

}  // namespace

TilePairs::Tiles::Tiles(const PackedMatrix& matrix, int planes_read)
    : w(matrix.tile(0)),
      s(static_cast<const unsigned char*>(matrix.tile_scales(0))),
      z(static_cast<const unsigned char*>(matrix.tile_zeros(0))),
      w_bytes(matrix.tile_bytes()),
      s_bytes(matrix.tile_scale_bytes()),
      z_bytes(matrix.tile_zero_bytes()),
      mul(matrix.mul),
      scale_type(matrix.scale_type),
      zero_type(matrix.zero_type),
      codebook(matrix.codebook),
      planes(matrix.planes < planes_read ? matrix.planes : planes_read) {}

void TilePairs::Tiles::set_first(int64_t tile, TileArgs* args) const {
  args->w0 = at(w, w_bytes, tile);
  args->s0 = at(s, s_bytes, tile);
  args->z0 = at(z, z_bytes, tile);
  args->mul0 = mul;
}

void TilePairs::Tiles::set_types(TileArgs* args) const {
  args->scale_type = scale_type;
  args->zero_type = zero_type;
  args->codebook = codebook;
  args->planes = planes;
}

TilePairs::TilePairs(const KernelTable& kernels, const RowLayout& layout, const PackedMatrix& a, const PackedMatrix* b,
                     float* out, int planes)
    : run_(tile_function(kernels, a, layout)),
      int8_(layout.kind == RowKind::Int8),
      padded_(static_cast<size_t>(layout.padded)),
      groups_(static_cast<size_t>(layout.groups)),
      a_(a, planes) {
  if (b != nullptr) {
    b_ = b == &a ? a_ : Tiles(*b, planes);
    one_call_ = pairable(a, *b);
  }
  call_.out = out;
  call_.chunks = a.chunks();
  if (a.quantized()) {
    call_.groups = a.groups();
    call_.group_chunks = a.group == a.cols ? call_.chunks : a.group / a.chunk_cols();
    call_.zero = format_info(a.format)->zero;
    a_.set_types(&call_);
  }
}

void TilePairs::set_rows(const void* block, int m) {
  call_.x = block;
  call_.m = m;
  if (!int8_) return;
  const size_t rows = static_cast<size_t>(m);
  call_.x_scale = reinterpret_cast<const float*>(static_cast<const unsigned char*>(block) + padded_ * rows);
  call_.x_sum = reinterpret_cast<const int32_t*>(call_.x_scale + groups_ * rows);
}

void TilePairs::run(int64_t first, int64_t second) {
  a_.set_first(first, &call_);
  if (second < 0) {
    call_.w1 = nullptr;
    return run_(call_);
  }
  if (one_call_) {
    call_.w1 = at(b_.w, b_.w_bytes, second);
    call_.s1 = at(b_.s, b_.s_bytes, second);
    call_.z1 = at(b_.z, b_.z_bytes, second);
    call_.mul1 = b_.mul;
    return run_(call_);
  }
  run_(call_);
  TileArgs other = call_;
  b_.set_first(second, &other);
  b_.set_types(&other);
  other.out += kTileRows;
  run_(other);
}

}  // namespace smoe
