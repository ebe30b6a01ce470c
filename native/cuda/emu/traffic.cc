#include "cuda/emu/traffic.h"

#include <algorithm>
#include <cstring>
#include <set>

namespace smoe::cu::emu {
namespace {

// A shared-memory access of 4, 8 or 16 bytes per lane is served for 32, 16 or 8 lanes at a time: 128 bytes, 32 banks of
// 4 bytes (CUDA C++ Programming Guide, "Shared Memory"). Lanes that name the same word share it.
int bank_ways(const uint64_t* address, uint32_t lanes, uint32_t bytes) {
  const int together = bytes <= 4 ? 32 : static_cast<int>(128 / bytes);
  int worst = 0;
  for (int first = 0; first < 32; first += together) {
    std::set<uint64_t> words[32];
    for (int lane = first; lane < first + together; ++lane) {
      if ((lanes >> lane & 1) == 0) continue;
      for (uint64_t word = address[lane] / 4; word <= (address[lane] + bytes - 1) / 4; ++word) {
        words[word % 32].insert(word);
      }
    }
    for (const auto& bank : words) worst = std::max(worst, static_cast<int>(bank.size()));
  }
  return worst;
}

}  // namespace

void Traffic::begin_block(int warps) { open_.assign(static_cast<size_t>(warps), {}); }

void Traffic::note(AccessKind kind, int warp, int lane, Site site, uint64_t address, uint32_t bytes) {
  Open& open = open_[static_cast<size_t>(warp)][site.line];
  open.kind = kind;
  const uint64_t index = open.done[lane]++ - open.first;
  if (index >= open.waiting.size()) open.waiting.resize(index + 1);
  Instruction& instruction = open.waiting[index];
  instruction.lanes |= 1u << lane;
  instruction.bytes = bytes;
  instruction.address[lane] = address;
  while (!open.waiting.empty() && open.waiting.front().lanes == 0xFFFFFFFFu) {
    count(site.line, kind, open.waiting.front());
    open.waiting.erase(open.waiting.begin());
    ++open.first;
  }
}

void Traffic::end_block() {
  for (auto& warp : open_) {
    for (auto& [line, open] : warp) {
      for (const Instruction& instruction : open.waiting) count(line, open.kind, instruction);
    }
  }
  open_.clear();
}

void Traffic::count(int line, AccessKind kind, const Instruction& instruction) {
  TrafficLine& total = lines_[line];
  total.kind = kind;
  ++total.instructions;
  total.bytes += static_cast<uint64_t>(__builtin_popcount(instruction.lanes)) * instruction.bytes;
  if (kind == AccessKind::GlobalRead || kind == AccessKind::GlobalWrite) {
    std::set<uint64_t> sectors;
    for (int lane = 0; lane < 32; ++lane) {
      if ((instruction.lanes >> lane & 1) != 0) {
        sectors.insert(instruction.address[lane] / 32);
        sectors.insert((instruction.address[lane] + instruction.bytes - 1) / 32);
      }
    }
    total.sectors += sectors.size();
  } else {
    total.worst_ways = std::max(total.worst_ways, bank_ways(instruction.address, instruction.lanes, instruction.bytes));
  }
}

const TrafficLine* Traffic::line(int number) const {
  const auto found = lines_.find(number);
  return found == lines_.end() ? nullptr : &found->second;
}

}  // namespace smoe::cu::emu
