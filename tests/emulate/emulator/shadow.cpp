// With shadow memory (EMULATE_SHADOW), kernels are compiled for ThreadSanitizer, whose calls before each
// access come here (hooks.cpp).
#include "shadow.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "state.h"

namespace emulate {

namespace {

// Bytes that share a shadow: the smallest value that kernels have arrays of.
constexpr size_t kGranule = 2;

// The last access of a kind to a granule. As blocks follow each other, the epoch tells the block.
struct Touch {
  uint32_t epoch;
  uint16_t warp_sync;
  uint16_t thread : 12;
  uint16_t is_atomic : 1;
  uint16_t by_threads : 1;  // more than one since the last barrier
  uint16_t by_blocks : 1;   // more than one in this launch
};

struct Shadow {
  Touch write, read;
};

template <typename T>
T* map(size_t count) {
  void* place = mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (place == MAP_FAILED) {
    std::perror("emulator: mmap");
    std::exit(2);
  }
  return static_cast<T*>(place);
}

struct Arena {
  const char* name;
  size_t size;
  unsigned char* bytes;
  Byte* states;
  Shadow* shadows;

  Arena(const char* name, size_t size)
      : name(name),
        size(size),
        bytes(map<unsigned char>(size)),
        states(map<Byte>(size / kGranule)),
        shadows(map<Shadow>(size / kGranule)) {}
  bool holds(const unsigned char* place) const { return place >= bytes && place < bytes + size; }
};

Arena& device() {
  static Arena arena("global", kDeviceArena);
  return arena;
}
Arena& shared() {
  static Arena arena("shared", kSharedArena);
  return arena;
}

uint16_t warp_syncs[1024 / kWarp];

// Who made a touch that the running thread's access is not ordered after; null where it is. `first` is the
// epoch from which on touches count: the launch's first, of shared memory the block's.
const char* unordered(const Touch& touch, uint32_t first) {
  if (touch.epoch < first) return nullptr;
  if (touch.epoch < state.block_epoch || touch.by_blocks) return "another block";
  if (touch.epoch != state.epoch) return nullptr;
  if (touch.thread == state.thread && !touch.by_threads) return nullptr;
  const bool same_warp = touch.thread / kWarp == state.thread / kWarp;
  if (same_warp && touch.warp_sync != warp_syncs[state.thread / kWarp]) return nullptr;
  return "another thread";
}

Touch touch_now(Access access) {
  const auto thread = static_cast<uint16_t>(state.thread);
  return {state.epoch, warp_syncs[thread / kWarp], thread, access == Access::kAtomic, false, false};
}

// Remembers that others have read the same: in this launch, or since the last barrier.
void note_read(Touch& last, uint32_t first) {
  Touch now = touch_now(Access::kRead);
  if (last.epoch >= first) {
    now.by_blocks = last.by_blocks || last.epoch < state.block_epoch;
    now.by_threads = last.epoch == now.epoch && (last.thread != now.thread || last.by_threads);
  }
  last = now;
}

}  // namespace

unsigned char* arena_of_device() { return device().bytes; }
unsigned char* arena_of_shared() { return shared().bytes; }

void mark(const void* place, size_t bytes, Byte byte) {
  const auto* p = static_cast<const unsigned char*>(place);
  Arena& arena = device().holds(p) ? device() : shared();
  const size_t begin = (p - arena.bytes) / kGranule,
               end = (p - arena.bytes + bytes + kGranule - 1) / kGranule;
  std::memset(static_cast<void*>(arena.states + begin), static_cast<int>(byte), end - begin);
}

void count_warp_sync(int warp) { ++warp_syncs[warp]; }

void check_access(const void* place, size_t size, Access access, const void* pc, bool is_word) {
  if (!state.in_kernel) return;
  const auto* p = static_cast<const unsigned char*>(place);
  const bool is_shared = shared().holds(p);
  if (!is_shared && !device().holds(p)) return;  // a thread's own memory
  Arena& arena = is_shared ? shared() : device();
  ++state.totals.accesses;
  const auto what = [&] {
    const char* kinds[] = {" read", " write", " atomic"};
    return std::string(arena.name) + kinds[static_cast<int>(access)] + " of " + std::to_string(size) +
           " bytes";
  };
  if (is_word && reinterpret_cast<uintptr_t>(p) % size != 0) fault("misaligned", pc, what());
  const uint32_t first = is_shared ? state.block_epoch : state.launch_epoch;
  const size_t end = (p - arena.bytes + size - 1) / kGranule;
  for (size_t i = (p - arena.bytes) / kGranule; i <= end; ++i) {
    Byte& byte = arena.states[i];
    if (byte == Byte::kNone) return fault("out of bounds", pc, what());
    if (access != Access::kWrite && byte == Byte::kUnset) return fault("uninitialised", pc, what());
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
    byte = Byte::kSet;
    write = touch_now(access);
  }
}

}  // namespace emulate
