// The mode with shadow memory: of each granule whether it exists and is set, and who touched it last.
#include <cstdint>
#include <cstring>
#include <string>

#include "arena.h"
#include "observer.h"
#include "state.h"

namespace emulate {

namespace {

// Bytes that share a shadow: the smallest value that kernels have arrays of.
constexpr size_t kGranule = 2;

enum class Granule : uint8_t { kNone, kUnset, kSet };

// The last access of a kind to a granule. As blocks follow each other, the epoch tells the block.
struct Touch {
  uint32_t epoch;
  uint16_t warp_sync;
  uint16_t thread : 10;
  uint16_t is_atomic : 1;
  uint16_t by_threads : 1;  // more than one since the last barrier
  uint16_t by_warps : 1;    // the same
  uint16_t by_blocks : 1;   // more than one in this launch
};

struct Shadow {
  Touch write, read;
};

struct ShadowedArena : Arena {
  Granule* granules;
  Shadow* shadows;

  ShadowedArena(const char* name, size_t size, size_t alignment, size_t gap)
      : Arena(name, size, alignment, gap),
        granules(map_pages<Granule>(size / kGranule)),
        shadows(map_pages<Shadow>(size / kGranule)) {}

  void mark(const void* place, size_t bytes, Granule granule) {
    const size_t begin = offset(place) / kGranule, end = (offset(place) + bytes + kGranule - 1) / kGranule;
    std::memset(static_cast<void*>(granules + begin), static_cast<int>(granule), end - begin);
  }
};

// The gap between device arrays is more than a row, that is, than one bound too far.
ShadowedArena device_arena("global", size_t{256} << 20, kDeviceAlignment, 48 * 1024);
ShadowedArena shared_arena("shared", size_t{1} << 20, kSharedAlignment, 64);

uint16_t warp_syncs[1024 / kWarp];

// Whether __syncwarp of the running thread's warp has come after the touch.
bool is_before_warp_sync(const Touch& touch) {
  const int warp = state.thread / kWarp;
  return touch.thread / kWarp == warp && !touch.by_warps && touch.warp_sync != warp_syncs[warp];
}

// Who made a touch that the running thread's access is not ordered after; null where it is. `first` is the
// epoch from which on touches count: the launch's first, of shared memory the block's.
const char* unordered(const Touch& touch, uint32_t first) {
  if (touch.epoch < first) return nullptr;
  if (touch.epoch < state.block_epoch || touch.by_blocks) return "another block";
  if (touch.epoch != state.epoch || is_before_warp_sync(touch)) return nullptr;
  return touch.thread != state.thread || touch.by_threads ? "another thread" : nullptr;
}

Touch touch_now(Access access) {
  const auto thread = static_cast<uint16_t>(state.thread);
  return {state.epoch, warp_syncs[thread / kWarp], thread, access == Access::kAtomic, false, false, false};
}

// Remembers that others have read the same: in this launch, or since the last barrier.
void note_read(Touch& last, uint32_t first) {
  Touch now = touch_now(Access::kRead);
  if (last.epoch >= first) {
    now.by_blocks = last.by_blocks || last.epoch < state.block_epoch;
    if (last.epoch == now.epoch && !is_before_warp_sync(last)) {
      now.by_threads = last.thread != now.thread || last.by_threads;
      now.by_warps = last.thread / kWarp != now.thread / kWarp || last.by_warps;
    }
  }
  last = now;
}

}  // namespace

void on_access(const void* place, size_t size, Access access, const void* pc, bool is_word) {
  if (!state.in_kernel) return;
  const bool is_shared = shared_arena.holds(place);
  if (!is_shared && !device_arena.holds(place)) return;  // a thread's own memory
  ShadowedArena& arena = is_shared ? shared_arena : device_arena;
  ++state.totals.accesses;
  const auto what = [&] {
    const char* kinds[] = {" read", " write", " atomic"};
    return std::string(arena.name()) + kinds[static_cast<int>(access)] + " of " + std::to_string(size) +
           " bytes";
  };
  if (is_word && reinterpret_cast<uintptr_t>(place) % size != 0) fault("misaligned", pc, what());
  const uint32_t first = is_shared ? state.block_epoch : state.launch_epoch;
  const size_t end = (arena.offset(place) + size - 1) / kGranule;
  for (size_t i = arena.offset(place) / kGranule; i <= end; ++i) {
    Granule& granule = arena.granules[i];
    if (granule == Granule::kNone) return fault("out of bounds", pc, what());
    if (access != Access::kWrite && granule == Granule::kUnset) return fault("uninitialised", pc, what());
    Touch &write = arena.shadows[i].write, &read = arena.shadows[i].read;
    const char* after = unordered(write, first);
    if (after && !(write.is_atomic && access == Access::kAtomic)) {
      fault("race", pc, what() + " after a write of " + after);
    }
    if (access == Access::kRead) {
      note_read(read, first);
      continue;
    }
    after = unordered(read, first);
    if (after) fault("race", pc, what() + " after a read of " + after);
    granule = Granule::kSet;
    write = touch_now(access);
  }
}

void on_launch(const char*, const Settings&) {}
void on_launch_end(size_t) {}
void on_block_end() {}
void on_barrier() {}
void on_exchange(int warp, Exchange kind, size_t) {
  if (kind == Exchange::kSync) ++warp_syncs[warp];
}

unsigned char* new_device_memory(size_t bytes, size_t shift) {
  unsigned char* place = device_arena.take(bytes, shift);
  device_arena.mark(place, bytes, Granule::kUnset);
  return place;
}
void delete_device_memory(unsigned char* place, size_t bytes, size_t) {
  device_arena.mark(place, bytes, Granule::kNone);
  device_arena.give_back();
}
unsigned char* new_shared_memory(size_t bytes) {
  unsigned char* place = shared_arena.take(bytes, 0);
  shared_arena.mark(place, bytes, Granule::kUnset);
  return place;
}
void delete_shared_memory() {
  shared_arena.mark(shared_arena.bytes(), shared_arena.used(), Granule::kNone);
  shared_arena.give_back_all();
}
void on_initialised(const void* place, size_t bytes) { device_arena.mark(place, bytes, Granule::kSet); }
void on_uninitialised(const void* place, size_t bytes) { device_arena.mark(place, bytes, Granule::kUnset); }

}  // namespace emulate
