// Linear maps of any number of rows: those of bf16 parts, and the choice of a kernel.
#include "kernels/experts/linear_tiles_launch.h"

namespace smoe::cu {
namespace {

constexpr int kInvalidValue = 1;  // of cudaError_t

// What linear_wide.cuh asks of rows.
bool whole_chunks(const LinearArgs& args) {
  const uintptr_t at =
      reinterpret_cast<uintptr_t>(args.x.data) | static_cast<uintptr_t>((args.x_stride | args.x_step | args.k) * 2);
  return args.x.parts == 1 && at % 16 == 0;
}

}  // namespace

// The large tile where it gives every SM one; else more, smaller ones.
int linear_tiles_parts(Stream stream, const LinearArgs& args) {
  const int64_t blocks = args.blocks > 0 ? args.blocks : 1;
  return linear_tiles_count<128>(args) >= blocks ? linear_tiles_of<128, false>(stream, args, blocks)
                                                 : linear_tiles_of<32, false>(stream, args, blocks);
}

int launch_linear_tiles(Stream stream, const LinearArgs& args) {
  if (args.max_tokens <= 0 || args.rows <= 0 || args.batch <= 0) return 0;
  const int format = static_cast<int>(args.weight.format);
  if (format < 0 || format >= kAtomFormats) return kInvalidValue;
  if (args.x.parts != 1 && args.x.parts != 3) return kInvalidValue;
  const bool parts = args.weight.format == AtomFormat::Bf16 || args.weight.format == AtomFormat::Bf16x3;
  if (args.weight.format == AtomFormat::Bf16x3 || !whole_chunks(args)) {
    return parts ? linear_tiles_parts(stream, args) : linear_tiles_codes(stream, args);
  }
  return parts ? linear_wide_tiles(stream, args) : linear_wide_codes_tiles(stream, args);
}

}  // namespace smoe::cu
