// Linear maps of up to 64 rows: those of bf16 parts, and the choice of a kernel.
#include "kernels/experts/linear_rows_launch.h"

namespace smoe::cu {
namespace {

constexpr int kInvalidValue = 1;  // of cudaError_t

// x is read two columns at a time; codes, unlike bf16, have no path for an odd column at the end.
bool supported(const LinearArgs& args) {
  const bool bf16_parts = args.weight.format == AtomFormat::Bf16 || args.weight.format == AtomFormat::Bf16x3;
  if (args.x.parts != 1 && args.x.parts != 3) return false;
  if (!bf16_parts && args.k % 2 != 0) return false;
  return args.max_tokens <= 64 && args.x_stride % 2 == 0 && args.x_step % 2 == 0 &&
         (args.x.parts == 1 || args.x.step % 2 == 0);
}

}  // namespace

int launch_linear_rows(Stream stream, const LinearArgs& args) {
  if (args.max_tokens <= 0 || args.rows <= 0 || args.batch <= 0) return 0;
  if (!supported(args)) return kInvalidValue;
  switch (args.weight.format) {
    case AtomFormat::Bf16:
      return linear_rows_of<LinearParts<1>>(stream, args);
    case AtomFormat::Bf16x3:
      return linear_rows_of<LinearParts<3>>(stream, args);
    case AtomFormat::W8:
      return linear_rows_w8(stream, args);
    case AtomFormat::W4:
      return linear_rows_w4(stream, args);
    case AtomFormat::T2:
      return linear_rows_t2(stream, args);
    case AtomFormat::F8:
      return linear_rows_f8(stream, args);
    case AtomFormat::Mxfp4:
      return linear_rows_mxfp4(stream, args);
    case AtomFormat::Signs:  // planes of experts
      break;
  }
  return kInvalidValue;
}

}  // namespace smoe::cu
