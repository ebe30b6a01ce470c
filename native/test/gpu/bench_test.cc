// The benchmark measures what it says: its cases run at a small size, count the experts that routing chose, and turn
// what went wrong into an error of their line rather than a figure.
#include <doctest/doctest.h>

#include "bench/cuda/cases.h"

using namespace smoe::bench;

namespace {

constexpr Effort kLittle = {0, 2, 3, 2, 1 << 16};
const MoeShape kTiny = {"tiny", 128, 64, 8, 2};

bool has(const Json& line, const char* text) { return line.text().find(text) != std::string::npos; }
double value(const Json& line, const std::string& key) {
  const std::string text = line.text(), quoted = "\"" + key + "\": ";
  const size_t at = text.find(quoted);
  REQUIRE_MESSAGE(at != std::string::npos, text);
  return std::atof(text.c_str() + at + quoted.size());
}

}  // namespace

TEST_CASE("bench: every format and path, all kinds of routing") {
  BenchDevice device;
  REQUIRE_MESSAGE(device.error().empty(), device.error());
  const Ceilings ceilings = {1e9, 1e12, 1e12};
  for (const WeightFormatSpec& format : bench_formats()) {
    for (const Skew skew : {Skew::Uniform, Skew::Zipf, Skew::SameExperts, Skew::OneHot}) {
      if (skew != Skew::Uniform && format.format != smoe::cu::AtomFormat::Bf16) continue;
      const Json line = run_decode(device, {kTiny, format, 9, skew}, ceilings, kLittle);
      CAPTURE(line.text());
      REQUIRE(!has(line, "\"error\""));
      const double active = value(line, "active_experts");
      if (skew == Skew::SameExperts) CHECK(active == kTiny.k);
      CHECK(active >= kTiny.k);
      CHECK(active <= kTiny.experts);
      CHECK(value(line, "us_median") > 0);
      // The experts' bytes and little more.
      const double weights = active * static_cast<double>(MoeRig::expert_bytes(kTiny, format)) / 1e6;
      CHECK(value(line, "mb") >= weights);
      CHECK(value(line, "mb") <= weights + 0.05);
    }
    for (const bool hopper : {false, true}) {
      if (hopper && !(format.wgmma && device.has_wgmma())) continue;
      const Json line = run_prefill(device, {kTiny, format, 70, Skew::Uniform, hopper}, ceilings, kLittle);
      CAPTURE(line.text());
      CHECK(!has(line, "\"error\""));
      CHECK(value(line, "gflop") == doctest::Approx(6.0 * 70 * 2 * 128 * 64 / 1e9));
    }
  }
}

TEST_CASE("bench: ceilings") {
  BenchDevice device;
  REQUIRE_MESSAGE(device.error().empty(), device.error());
  Ceilings ceilings;
  for (const Json& line : measure_ceilings(device, kLittle, &ceilings))
    CHECK_MESSAGE(!has(line, "\"error\""), line.text());
  CHECK(ceilings.read_bytes > 0);
  CHECK(ceilings.mma_flops > 0);
}

TEST_CASE("bench: a refused allocation ends one case and is forgotten before the next") {
  BenchDevice device;
  REQUIRE_MESSAGE(device.error().empty(), device.error());
  const Ceilings ceilings = {1e9, 1e12, 1e12};
  const MoeShape huge = {"huge", 1 << 16, 1 << 16, 1024, 2};
  CHECK(has(run_decode(device, {huge, bench_formats().front(), 1}, ceilings, kLittle), "\"skipped\""));
  const DeviceBlock<unsigned char> refused(device, int64_t{1} << 50);
  CHECK(refused.data() == nullptr);
  CHECK(!device.error().empty());
  device.forget_error();
  CHECK(!has(run_decode(device, {kTiny, bench_formats().front(), 1}, ceilings, kLittle), "\"error\""));
}

TEST_CASE("bench: middle and 99th percentile") {
  std::vector<double> values;
  for (int i = 1; i <= 100; ++i) values.push_back(i);
  CHECK(median(values) == 51);
  CHECK(percentile99(values) == 99);
  CHECK(percentile99({7}) == 7);
  CHECK(Json().add("a", "x\"\n").add("b", NAN).add("c", 1.5).text() == "{\"a\": \"x\\\" \", \"b\": null, \"c\": 1.5}");
}
