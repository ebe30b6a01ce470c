#include "cuda/emu/global_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace smoe::cu::emu {

struct GlobalBuffer::Granule {
  uint32_t write_launch, write_block, write_tick, write_tickets;
  uint32_t read_launch, read_block;  // read_block: kManyBlocks when several
  uint16_t writer;
  uint8_t written;
};

namespace {

constexpr uint32_t kManyBlocks = 0xFFFFFFFFu;

void* map_zeroed(size_t bytes) {
  void* const base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return base == MAP_FAILED ? nullptr : base;
}

}  // namespace

GlobalMemory::~GlobalMemory() {
  while (!buffers_.empty()) release(buffers_.back().get());
}

GlobalBuffer* GlobalMemory::allocate(size_t bytes, bool constant, const char* name) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  // cudaMalloc aligns to 256 bytes; here 16, so that the end can lie close to the guard page.
  const size_t body = (bytes + 15) / 16 * 16, pages = (body + page - 1) / page * page;
  auto buffer = std::make_unique<GlobalBuffer>();
  buffer->mapping_bytes = pages + 2 * page;
  buffer->mapping = map_zeroed(buffer->mapping_bytes);
  if (buffer->mapping == nullptr) return nullptr;
  unsigned char* const base = static_cast<unsigned char*>(buffer->mapping);
  mprotect(base, page, PROT_NONE);
  mprotect(base + page + pages, page, PROT_NONE);
  buffer->data = base + page + pages - body;
  buffer->bytes = bytes;
  buffer->constant = constant;
  buffer->name = name;
  std::memset(buffer->data, 0xFF, body);
  buffer->granule_bytes = (bytes / 2 + 1) * sizeof(GlobalBuffer::Granule);
  buffer->granules = static_cast<GlobalBuffer::Granule*>(map_zeroed(buffer->granule_bytes));
  if (buffer->granules == nullptr) {
    munmap(buffer->mapping, buffer->mapping_bytes);
    return nullptr;
  }
  const auto place = std::upper_bound(buffers_.begin(), buffers_.end(), buffer,
                                      [](const auto& a, const auto& b) { return a->data < b->data; });
  return buffers_.insert(place, std::move(buffer))->get();
}

void GlobalMemory::release(GlobalBuffer* buffer) {
  munmap(buffer->mapping, buffer->mapping_bytes);
  munmap(buffer->granules, buffer->granule_bytes);
  last_ = nullptr;
  buffers_.erase(std::find_if(buffers_.begin(), buffers_.end(), [&](const auto& b) { return b.get() == buffer; }));
}

void GlobalMemory::mark_written(GlobalBuffer* buffer, size_t offset, size_t bytes) {
  if (buffer->constant || bytes == 0) return;
  for (size_t g = offset / 2; g <= (offset + bytes - 1) / 2; ++g) buffer->granules[g].written = 1;
}

size_t GlobalMemory::unwritten(const GlobalBuffer* buffer) const {
  size_t count = 0;
  for (size_t i = 0; i < buffer->bytes; ++i) count += buffer->granules[i / 2].written == 0;
  return count;
}

GlobalBuffer* GlobalMemory::find(const void* address) {
  const unsigned char* const p = static_cast<const unsigned char*>(address);
  if (last_ != nullptr && p >= last_->data && p < last_->data + last_->bytes) return last_;
  const auto after = std::upper_bound(buffers_.begin(), buffers_.end(), p,
                                      [](const unsigned char* a, const auto& b) { return a < b->data; });
  if (after == buffers_.begin()) return buffers_.empty() ? nullptr : buffers_.front().get();
  return last_ = std::prev(after)->get();
}

std::string GlobalMemory::describe(const void* address, size_t bytes) {
  const GlobalBuffer* const near = find(address);
  if (near == nullptr) return "no buffer is registered";
  const int64_t offset = static_cast<const unsigned char*>(address) - near->data;
  return std::to_string(bytes) + " bytes at offset " + std::to_string(offset) + " of '" + near->name + "' (" +
         std::to_string(near->bytes) + " bytes)";
}

Conflict GlobalMemory::check_bounds(const void* address, size_t bytes, GlobalBuffer** buffer) {
  if (reinterpret_cast<uintptr_t>(address) % std::min<size_t>(bytes, 16) != 0) {
    return {Fault::Misaligned, -1, "address is not a multiple of the access size:"};
  }
  *buffer = find(address);
  const unsigned char* const p = static_cast<const unsigned char*>(address);
  if (*buffer == nullptr || p < (*buffer)->data || p + bytes > (*buffer)->data + (*buffer)->bytes) {
    return {Fault::OutOfBounds, -1, "outside its buffer:"};
  }
  return {};
}

Conflict GlobalMemory::read(GlobalBuffer* buffer, const GlobalActor& actor, const void* address, size_t bytes) {
  if (buffer->constant) return {};
  const size_t offset = static_cast<size_t>(static_cast<const unsigned char*>(address) - buffer->data);
  for (size_t g = offset / 2; g <= (offset + bytes - 1) / 2; ++g) {
    GlobalBuffer::Granule& cell = buffer->granules[g];
    if (cell.written == 0) return {Fault::ReadBeforeWrite, -1, "nobody has written"};
    // The launch before this one let it start behind its own pdl_wait, so that all before that have ended.
    if (actor.early && (cell.write_launch == 0 ? !buffer->copied_in : cell.write_launch + 2 > actor.launch)) {
      return {Fault::PdlContract, -1, "reads before pdl_wait"};
    }
    if (cell.write_launch == actor.launch) {
      if (cell.write_block != actor.block && !actor.acquired) {
        return {Fault::GlobalRace, -1, "reads what another block of this launch wrote, without a last-arriver ticket:"};
      }
      if (cell.write_block != actor.block && (*actor.tickets)[cell.write_block] == cell.write_tickets) {
        return {Fault::GlobalRace, -1, "reads what another block wrote after its ticket:"};
      }
      if (cell.write_block == actor.block && !actor.thread.knows(cell.writer, cell.write_tick)) {
        return {Fault::GlobalRace, cell.writer, "reads what another thread of the block wrote without a barrier:"};
      }
    }
    if (cell.read_launch != actor.launch) {
      cell.read_launch = actor.launch;
      cell.read_block = actor.block;
    } else if (cell.read_block != actor.block) {
      cell.read_block = kManyBlocks;
    }
  }
  return {};
}

Conflict GlobalMemory::write(GlobalBuffer* buffer, const GlobalActor& actor, const void* address, size_t bytes) {
  if (buffer->constant) return {Fault::WriteToConstant, -1, "the buffer is marked constant:"};
  const size_t offset = static_cast<size_t>(static_cast<const unsigned char*>(address) - buffer->data);
  for (size_t g = offset / 2; g <= (offset + bytes - 1) / 2; ++g) {
    GlobalBuffer::Granule& cell = buffer->granules[g];
    // Single bytes share a granule with a neighbour, who may be anyone.
    if (cell.write_launch == actor.launch && bytes > 1) {
      if (cell.write_block != actor.block && !actor.acquired) {
        return {Fault::GlobalRace, -1, "writes what another block of this launch wrote:"};
      }
      if (cell.write_block == actor.block && !actor.thread.knows(cell.writer, cell.write_tick)) {
        return {Fault::GlobalRace, cell.writer, "writes what another thread of the block wrote without a barrier:"};
      }
    }
    if (cell.read_launch == actor.launch && cell.read_block != actor.block && !actor.acquired && bytes > 1) {
      return {Fault::GlobalRace, -1, "writes what another block of this launch read:"};
    }
    cell.written = 1;
    cell.write_launch = actor.launch;
    cell.write_block = actor.block;
    cell.write_tick = actor.thread.tick;
    cell.write_tickets = (*actor.tickets)[actor.block];
    cell.writer = static_cast<uint16_t>(actor.thread.component);
  }
  return {};
}

}  // namespace smoe::cu::emu
