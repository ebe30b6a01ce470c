// Every planted bug is found, in every schedule where the access checks are on: right kind, right block and lanes,
// right line. With the checks off only the schedules and the poison are left; what those find is the table of
// specs/cuda-kernels.md 4.3.
#include "emu_test.h"
#include "kernels/gemm.cuh"
#include "kernels/reduce.cuh"
#include "kernels/ring.cuh"
#include "kernels/wgmma.cuh"

using namespace smoe::cu;
using namespace smoe::cu::test;
using emu::Buffer;
using emu::Fault;
using emu::Report;

namespace {

void check_found(const Report& report, Fault kind, const char* bug) {
  CAPTURE(bug);
  CAPTURE(report.text());
  CHECK(report.kind == kind);
  CHECK(names_bug(report, bug));
  CHECK(report.block >= 0);
  CHECK(report.warp >= 0);
  CHECK(report.lanes != 0);
  CHECK(!report.message.empty());
}

template <Bug bug>
Report run_reduce(const Run& run, uint64_t seed = 1) {
  emu::Device device;
  device.options = options_of(run, seed);
  Buffer<float> in(device, random_floats(3 * 256, 1), "in"), out(device, 3, "out");
  launch(&device, {3, 256, 0, false}, &block_reduce<bug>, {in.data(), out.data()});
  return device.report();
}

template <Bug bug>
Report run_reverse(const Run& run) {
  emu::Device device;
  device.options = options_of(run);
  Buffer<float> in(device, random_floats(128, 1), "in"), out(device, 128, "out");
  launch(&device, {2, 64, 0, false}, &warp_reverse<bug>, {in.data(), out.data()});
  return device.report();
}

template <Bug bug>
Report run_ticket(const Run& run, bool initialised = true) {
  emu::Device device;
  device.options = options_of(run);
  Buffer<float> in(device, random_floats(4 * 128, 1), "in"), partials(device, 4, "partials"), out(device, 1, "out");
  Buffer<uint32_t> ticket(device, std::vector<uint32_t>{0}, "ticket");
  if (initialised) partials.upload(std::vector<float>(4, 0.0f));
  launch(&device, {4, 128, 0, true}, &ticket_reduce<bug>, {in.data(), partials.data(), ticket.data(), out.data()});
  return device.report();
}

constexpr int kM = 64, kN = 32, kK = 128;

template <Bug bug>
Report run_gemm(const Run& run, bool track, uint64_t seed, std::vector<float>* result) {
  emu::Device device;
  device.options = options_of(run, seed);
  device.options.track = track;
  Buffer<bf16> a(device, random_bf16(kM * kK, 1), "a"), b(device, random_bf16(kN * kK, 2), "b");
  Buffer<float> c(device, kM * kN, "c");
  launch(&device, {1, 128, kGemmShared, false}, &gemm<bug>, {a.data(), b.data(), c.data(), kM, kN, kK});
  if (result != nullptr) *result = c.download();
  return device.report();
}

template <Bug bug>
Report run_ring(const Run& run) {
  emu::Device device;
  device.options = options_of(run);
  Buffer<float> in(device, random_floats(7 * kRingFloats, 1), "in"), out(device, kRingFloats, "out");
  launch(&device, {1, kRingThreads, kRingShared, false}, &ring_sum<bug>, {in.data(), out.data(), 7});
  return device.report();
}

template <Bug bug, bool relay = false>
Report run_wgmma(const Run& run) {
  emu::Device device;
  device.options = options_of(run);
  Buffer<bf16> a(device, random_bf16(64 * 128, 1), "a"), b(device, random_bf16(16 * 128, 2), "b");
  Buffer<float> c(device, 64 * 16, "c");
  launch(&device, {1, 128, wgmma_shared<16>, false}, &wgmma_gemm<16, bug, relay>, {a.data(), b.data(), c.data(), 128});
  return device.report();
}

}  // namespace

TEST_CASE("barriers and warp operations that some never reach") {
  for (const Run& run : all_runs()) {
    const Report odd = run_reduce<Bug::DivergentBarrier>(run);
    check_found(odd, Fault::DivergentBarrier, "DivergentBarrier");
    CHECK(odd.warp == 2);
    CHECK(odd.lanes == 0x55555555u);
    const Report left = run_reduce<Bug::ExitBeforeBarrier>(run);
    check_found(left, Fault::DivergentBarrier, "ExitBeforeBarrier");
    CHECK(left.warp == 1);
    CHECK(left.lanes == 0xFFu);
    // Depending on who comes first, the lanes in the branch wait for ever, or meet the others elsewhere.
    const Report shuffle = run_reduce<Bug::DivergentShuffle>(run);
    CHECK(shuffle.kind == Fault::DivergentCollective);
    CHECK(shuffle.lanes != 0);
  }
}

TEST_CASE("addresses") {
  for (const Run& run : all_runs()) {
    const Report beyond = run_reduce<Bug::OutOfBounds>(run);
    check_found(beyond, Fault::OutOfBounds, "OutOfBounds");
    CHECK(beyond.block == 2);
    CHECK(beyond.warp == 7);
    CHECK(beyond.lanes == 0x80000000u);
    CHECK(beyond.message.find("'in'") != std::string::npos);
    check_found(run_reduce<Bug::Misaligned>(run), Fault::Misaligned, "Misaligned");
    const Report shared = run_reduce<Bug::SharedOutOfBounds>(run);
    CHECK((shared.kind == Fault::OutOfBounds || shared.kind == Fault::ReadBeforeWrite));
    CHECK(names_bug(shared, "SharedOutOfBounds"));
    CHECK(shared.warp == 0);
  }
}

TEST_CASE("shared memory races") {
  for (const Run& run : all_runs()) {
    check_found(run_reduce<Bug::SharedRace>(run), Fault::SharedRace, "SharedRace");
    const Report reverse = run_reverse<Bug::MissingSyncWarp>(run);
    CAPTURE(reverse.text());
    CHECK((reverse.kind == Fault::SharedRace || reverse.kind == Fault::ReadBeforeWrite));
    CHECK(names_bug(reverse, "MissingSyncWarp"));
  }
}

TEST_CASE("async copies: missing wait, missing barriers") {
  for (const Run& run : all_runs()) {
    check_found(run_gemm<Bug::MissingWait>(run, true, 1, nullptr), Fault::PendingCopy, "MissingWait");
    const Report early = run_gemm<Bug::MissingBarrier>(run, true, 1, nullptr);
    CAPTURE(early.text());
    CHECK(
        (early.kind == Fault::SharedRace || early.kind == Fault::PendingCopy || early.kind == Fault::ReadBeforeWrite));
    const Report reuse = run_gemm<Bug::MissingReuseBarrier>(run, true, 1, nullptr);
    check_found(reuse, Fault::SharedRace, "MissingReuseBarrier");
    check_found(run_gemm<Bug::CopyAtExit>(run, true, 1, nullptr), Fault::PendingCopy, "CopyAtExit");
  }
}

// What schedules and poison show by themselves. NaN must count as a difference: a comparator made of max() misses it.
TEST_CASE("without the access checks") {
  using emu::BlockOrder;
  using emu::Schedule;
  const Run lazy{Schedule::LazyRoundRobin, BlockOrder::Ascending}, eager{Schedule::EagerGreedy, BlockOrder::Ascending};
  std::vector<float> good, bad;
  REQUIRE(run_gemm<Bug::None>(lazy, false, 1, &good).ok());
  const auto wrong = [&] {
    size_t count = 0;
    for (size_t i = 0; i < good.size(); ++i) count += !(good[i] == bad[i]);
    return count > 0;
  };
  REQUIRE(run_gemm<Bug::None>(eager, false, 1, &bad).ok());
  CHECK(!wrong());
  REQUIRE(run_gemm<Bug::MissingWait>(lazy, false, 1, &bad).ok());
  CHECK(wrong());
  size_t nans = 0;
  for (const float x : bad) nans += std::isnan(x);
  CHECK(nans > 0);
  REQUIRE(run_gemm<Bug::MissingWait>(eager, false, 1, &bad).ok());
  CHECK(!wrong());  // the copies have landed
  REQUIRE(run_gemm<Bug::MissingBarrier>(eager, false, 1, &bad).ok());
  CHECK(wrong());
  REQUIRE(run_gemm<Bug::MissingReuseBarrier>(lazy, false, 1, &bad).ok());
  CHECK(!wrong());
  REQUIRE(run_gemm<Bug::MissingReuseBarrier>(eager, false, 1, &bad).ok());
  CHECK(wrong());
}

TEST_CASE("the bulk-copy ring") {
  for (const Run& run : all_runs()) {
    // By what comes first: a read during the copy, a read after it that nothing orders, or a copy over such a read.
    const Report early = run_ring<Bug::MissingWait>(run);
    check_found(early, early.kind == Fault::PendingCopy ? Fault::PendingCopy : Fault::SharedRace, "MissingWait");
    check_found(run_ring<Bug::WrongBytes>(run), Fault::MbarrierTx, "WrongBytes");
    check_found(run_ring<Bug::MissingProxyFence>(run), Fault::ProxyFence, "MissingProxyFence");
    const Report reuse = run_ring<Bug::MissingReuseBarrier>(run);
    CAPTURE(reuse.text());
    CHECK((reuse.kind == Fault::SharedRace || reuse.kind == Fault::PendingCopy || reuse.kind == Fault::MbarrierMisuse));
  }
}

TEST_CASE("wgmma") {
  for (const Run& run : all_runs()) {
    check_found(run_wgmma<Bug::MissingProxyFence>(run), Fault::ProxyFence, "MissingProxyFence");
    check_found(run_wgmma<Bug::MissingProxyFence, true>(run), Fault::ProxyFence, "MissingProxyFence");
    const Report passed_by = run_wgmma<Bug::MissingWait, true>(run);  // the copies are known, the fence is not
    check_found(passed_by, Fault::ProxyFence, "MissingWait");
    check_found(run_wgmma<Bug::MissingWgmmaFence>(run), Fault::WgmmaMisuse, "MissingWgmmaFence");
    const Report reuse = run_wgmma<Bug::MissingReuseBarrier>(run);
    CAPTURE(reuse.text());
    CHECK(reuse.kind == Fault::SharedRace);
    if (run.schedule == emu::Schedule::LazyRoundRobin) {
      check_found(run_wgmma<Bug::TouchedAccumulator>(run), Fault::WgmmaMisuse, "TouchedAccumulator");
    }
  }
}

TEST_CASE("tickets, blocks and launches") {
  for (const Run& run : all_runs()) {
    check_found(run_ticket<Bug::MissingTicketFence>(run), Fault::TicketFence, "MissingTicketFence");
    const Report unordered = run_ticket<Bug::MissingTicketBarrier>(run);
    CAPTURE(unordered.text());
    // Found at the ticket when the store came first, else when the last block reads.
    CHECK((unordered.kind == Fault::TicketFence || unordered.kind == Fault::GlobalRace));
    check_found(run_ticket<Bug::MissingAcquire>(run), Fault::GlobalRace, "MissingAcquire");
    const Report unwritten = run_ticket<Bug::MissingAcquire>(run, false);
    CHECK((unwritten.kind == Fault::ReadBeforeWrite || unwritten.kind == Fault::GlobalRace));
    check_found(run_ticket<Bug::EarlyAccess>(run), Fault::PdlContract, "EarlyAccess");
    CHECK(run_ticket<Bug::NoPdlWait>(run).kind == Fault::PdlContract);

    emu::Device device;
    device.options = options_of(run);
    Buffer<uint32_t> ticket(device, std::vector<uint32_t>{0}, "ticket");
    TicketArgs args{};
    args.ticket = ticket.data();
    launch(&device, {4, 32, 0, false}, &grid_barrier, args);
    check_found(device.report(), Fault::Deadlock, "GridBarrier");
  }
}

TEST_CASE("reading global memory that nobody wrote") {
  for (const Run& run : all_runs()) {
    emu::Device device;
    device.options = options_of(run);
    Buffer<float> in(device, 256, "in"), out(device, 1, "out");
    launch(&device, {1, 256, 0, false}, &block_reduce<Bug::None>, {in.data(), out.data()});
    CHECK(device.report().kind == Fault::ReadBeforeWrite);
    CHECK(names_bug(device.report(), "OutOfBounds"));  // the same line of the kernel
  }
}

TEST_CASE("a fault stops its launch, and later ones until it is cleared") {
  emu::Device device;
  Buffer<float> in(device, random_floats(256, 1), "in"), out(device, 1, "out");
  const BlockReduceArgs args{in.data(), out.data()};
  CHECK(launch(&device, {1, 256, 0, false}, &block_reduce<Bug::DivergentBarrier>, args) != 0);
  CHECK(launch(&device, {1, 256, 0, false}, &block_reduce<Bug::None>, args) != 0);
  CHECK(out.unwritten_bytes() == 4);
  device.clear();
  CHECK(launch(&device, {1, 256, 0, false}, &block_reduce<Bug::None>, args) == 0);
  CHECK(out.unwritten_bytes() == 0);
}

TEST_CASE("launch shapes that no GPU accepts") {
  emu::Device device;
  Buffer<float> in(device, random_floats(256, 1), "in"), out(device, 1, "out");
  const BlockReduceArgs args{in.data(), out.data()};
  for (const Shape& shape : {Shape{0, 32, 0, false}, Shape{1, 33, 0, false}, Shape{1, 1056, 0, false},
                             Shape{1, 32, emu::kSharedLimit + 1, false}}) {
    CHECK(launch(&device, shape, &block_reduce<Bug::None>, args) != 0);
    CHECK(device.report().kind == Fault::BadLaunch);
    device.clear();
  }
}
