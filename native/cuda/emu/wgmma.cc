// wgmma with A in registers and B in shared memory. Instructions are asynchronous: in lazy mode the sum appears at
// wgmma_wait and the accumulators hold NaN until then; in eager mode it appears at once. Each warp of the warpgroup
// owns 16 of the 64 rows.
#include <cstring>

#include "cuda/emu/mma.h"
#include "cuda/wgmma_descriptor.h"

namespace smoe::cu::emu {
namespace {

// A signalling NaN: any arithmetic on it sets the quiet bit, so that touching an accumulator shows.
constexpr uint32_t kNotYet = 0x7F85A5A5u;

void run(Engine& engine, const WgmmaTask& task) {
  for (int lane = 0; lane < 32; ++lane) {
    for (int reg = 0; reg < task.n / 2; ++reg) {
      const Element at = wgmma_d_element(0, lane, reg);
      float sum = task.acc[lane][reg];
      for (int k = 0; k < 16; ++k) {
        // A of row r lies with the lanes of group r % 8, as in mma.m16n8k16.
        const int owner = (at.row % 8) * 4 + k % 8 / 2, a_reg = at.row / 8 + 2 * (k / 8);
        const float a = to_float(half_of(task.a_copy[owner][a_reg], k % 2));
        bf16 b;
        std::memcpy(&b, engine.arena() + wgmma_b_address(task.descriptor, at.col, k), 2);
        sum += a * to_float(b);
      }
      task.acc[lane][reg] = sum;
    }
  }
}

bool still_poisoned(const WgmmaTask& task, int lane) {
  for (int reg = 0; reg < task.n / 2; ++reg) {
    if (std::memcmp(task.acc[lane] + reg, &kNotYet, sizeof kNotYet) != 0) return false;
  }
  return true;
}

}  // namespace

void apply_wgmma_fence(Engine& engine, int warp, uint32_t, void* const*) {
  engine.warp_state(warp).wgmma_fenced = true;
}

void apply_wgmma(Engine& engine, int warp, uint32_t, void* const* lanes) {
  Warp& state = engine.warp_state(warp);
  const Wgmma& first = *static_cast<Wgmma*>(lanes[0]);
  if (!state.wgmma_fenced) {
    engine.fault_at(Fault::WgmmaMisuse, first.site, warp, kFullMask,
                    "no wgmma_fence between the last wgmma_commit (or the start) and this wgmma");
  }
  WgmmaTask task;
  task.descriptor = first.descriptor;
  task.n = first.n;
  task.group = state.wgmma_group;
  task.site = first.site;
  for (int lane = 0; lane < 32; ++lane) {
    const Wgmma& mine = *static_cast<Wgmma*>(lanes[lane]);
    if (mine.descriptor != task.descriptor) {
      engine.fault_at(Fault::WgmmaMisuse, first.site, warp, 1u << lane, "descriptors differ between lanes");
    }
    task.acc[lane] = mine.acc;
    task.a[lane] = mine.a;
    std::memcpy(task.a_copy[lane], mine.a, sizeof task.a_copy[lane]);
  }
  for (int col = 0; col < task.n; ++col) {
    for (int k = 0; k < 16; k += 8) {
      const uint32_t at = wgmma_b_address(task.descriptor, col, k);
      engine.shared_offset(engine.arena() + at, 16, task.site);
      engine.shared_async_read(at, 16, warp, task.site);
    }
  }
  if (engine.lazy()) {
    task.saved = nullptr;
    bool chained = false;  // an earlier one in flight has the same accumulators
    for (const WgmmaTask& earlier : state.wgmma) chained |= earlier.acc[0] == task.acc[0];
    if (!chained) {
      const size_t count = static_cast<size_t>(task.n / 2);
      task.saved = std::make_shared<std::vector<float>>(32 * count);
      for (int lane = 0; lane < 32; ++lane) {
        std::memcpy(task.saved->data() + static_cast<size_t>(lane) * count, task.acc[lane], count * sizeof(float));
        for (size_t reg = 0; reg < count; ++reg) std::memcpy(task.acc[lane] + reg, &kNotYet, sizeof kNotYet);
      }
    }
  } else {
    run(engine, task);
  }
  state.wgmma.push_back(std::move(task));
}

void apply_wgmma_commit(Engine& engine, int warp, uint32_t, void* const*) {
  Warp& state = engine.warp_state(warp);
  ++state.wgmma_group;
  state.wgmma_fenced = false;
}

void apply_wgmma_wait(Engine& engine, int warp, uint32_t, void* const* lanes) {
  Warp& state = engine.warp_state(warp);
  const uint32_t pending = static_cast<WgmmaWait*>(lanes[0])->pending;
  size_t done = 0;
  for (; done < state.wgmma.size(); ++done) {
    WgmmaTask& task = state.wgmma[done];
    if (task.group + pending >= state.wgmma_group) break;
    for (int lane = 0; lane < 32; ++lane) {
      const bool a_kept = std::memcmp(task.a_copy[lane], task.a[lane], sizeof task.a_copy[lane]) == 0;
      const bool acc_kept = task.saved == nullptr || still_poisoned(task, lane);
      if (a_kept && acc_kept) continue;
      engine.fault_at(
          Fault::WgmmaMisuse, task.site, warp, 1u << lane,
          a_kept ? "accumulators were touched before wgmma_wait" : "A registers were changed before wgmma_wait");
    }
    if (engine.lazy()) {
      const size_t count = static_cast<size_t>(task.n / 2);
      for (int lane = 0; lane < 32 && task.saved != nullptr; ++lane) {
        std::memcpy(task.acc[lane], task.saved->data() + static_cast<size_t>(lane) * count, count * sizeof(float));
      }
      run(engine, task);
    }
    if (!engine.tracking()) continue;
    for (int col = 0; col < task.n; ++col) {
      for (int k = 0; k < 16; k += 8) {
        engine.shadow().settle(wgmma_b_address(task.descriptor, col, k), 16, engine.wgmma_agent(warp),
                               state.wgmma_waits + 1);
      }
    }
  }
  if (engine.tracking() && done > 0) engine.learn_component(warp, engine.wgmma_agent(warp), ++state.wgmma_waits);
  state.wgmma.erase(state.wgmma.begin(), state.wgmma.begin() + static_cast<std::ptrdiff_t>(done));
}

}  // namespace smoe::cu::emu
