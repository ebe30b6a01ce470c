#include "formats/format_info.h"

#include "formats/f8.h"
#include "formats/t2.h"
#include "formats/t5.h"
#include "formats/w1.h"
#include "formats/w2.h"
#include "formats/w3.h"
#include "formats/w4.h"
#include "formats/w4c.h"
#include "formats/w8.h"
#include "formats/wn.h"

namespace smoe {

const FormatInfo* format_info(WeightFormat format) {
  static const FormatInfo* const table[kWeightFormats] = {
      nullptr,          nullptr,          &w8_format::info, &w4_format::info, &w4c_format::info, &w3_format::info,
      &w2_format::info, &w1_format::info, &wn_format::info, &t2_format::info, &t5_format::info,  &f8_format::info};
  const int index = static_cast<int>(format);
  return index >= 0 && index < kWeightFormats ? table[index] : nullptr;
}

}  // namespace smoe
