// Barriers of a block, and exchanges of a warp.
#include <cstring>

#include "block.h"
#include "fibers.h"
#include "observer.h"
#include "state.h"

namespace emulate {

void release_barrier() {
  if (block.alive == 0 || block.at_barrier != block.alive) return;
  ++state.epoch;
  ++state.totals.barriers;
  on_barrier();
  block.at_barrier = 0;
  for (Thread& thread : block.threads) {
    if (thread.wait == Wait::kBarrier) thread.wait = Wait::kNothing;
  }
}

void release_exchange(int w) {
  Warp& warp = block.warps[w];
  const unsigned awaited = warp.mask & warp.alive;
  if (!warp.arrived || (warp.arrived & awaited) != awaited) return;
  for (int lane = 0; lane < kWarp; ++lane) {
    if (warp.arrived >> lane & 1) block.threads[w * kWarp + lane].wait = Wait::kNothing;
  }
  warp.arrived = 0;
  on_exchange(w, warp.kind, warp.bytes);
}

void sync_threads(const char* file, int line) {
  const void* pc = __builtin_return_address(0);
  if (block.at_barrier == 0) {
    state.barrier_file = file;
    state.barrier_line = line;
    if (block.alive != static_cast<int>(block.threads.size())) {
      fault("barrier not met by all", pc, "some threads have exited");
    }
  } else if (state.barrier_line != line || std::strcmp(state.barrier_file, file) != 0) {
    fault("different barriers", pc, "others wait at " + last_barrier());
  }
  block.threads[state.thread].wait = Wait::kBarrier;
  ++block.at_barrier;
  release_barrier();
  wait_in_fiber();
}

namespace {

// Waits for the lanes of `mask`.
void meet(Exchange kind, unsigned mask, size_t bytes, const void* pc) {
  const int w = state.thread / kWarp, lane = state.thread % kWarp;
  Warp& warp = block.warps[w];
  if (!(mask >> lane & 1)) fault("warp exchange", pc, "a lane that its own mask leaves out");
  if (warp.arrived == 0) {
    warp.kind = kind;
    warp.mask = mask;
    warp.bytes = bytes;
  } else if (warp.kind != kind || warp.mask != mask || warp.bytes != bytes) {
    fault("warp exchange", pc, "lanes of a warp at different exchanges");
  }
  warp.arrived |= 1u << lane;
  block.threads[state.thread].wait = Wait::kExchange;
  release_exchange(w);
  wait_in_fiber();
}

}  // namespace

void sync_warp(unsigned mask) { meet(Exchange::kSync, mask, 0, __builtin_return_address(0)); }

void exchange(Exchange kind, unsigned mask, const void* in, void* out, size_t bytes, int argument,
              int width) {
  const void* pc = __builtin_return_address(0);
  const int w = state.thread / kWarp, lane = state.thread % kWarp, base = lane / width * width;
  const int parity = block.threads[state.thread].parity ^= 1;
  ++state.totals.exchanges;
  std::memcpy(block.warps[w].slots[parity][lane], in, bytes);
  const unsigned alive = block.warps[w].alive;
  meet(kind, mask, bytes, pc);
  int from = lane;
  if (kind == Exchange::kIndex) from = base + (argument & (width - 1));
  if (kind == Exchange::kXor) from = lane ^ argument;
  if (kind == Exchange::kDown && lane + argument < base + width) from = lane + argument;
  if (kind == Exchange::kUp && lane - argument >= base) from = lane - argument;
  if (!(alive >> from & mask >> from & 1)) {
    fault("warp exchange", pc, "a value of lane " + std::to_string(from) + ", which takes no part");
  }
  std::memcpy(out, block.warps[w].slots[parity][from], bytes);
}

}  // namespace emulate
