// Launches: blocks one after the other, the threads of each in turn until all are done.
#include "block.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>

#include "fibers.h"
#include "memory.h"
#include "observer.h"
#include "state.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulate {

Block block;

namespace {

std::map<const void*, size_t> dynamic_limits;  // that cudaFuncSetAttribute has set
Body kernel_body;

void run_thread(void* context) {
  kernel_body(context);
  block.threads[state.thread].wait = Wait::kDone;
  --block.alive;
  const int w = state.thread / kWarp;
  block.warps[w].alive &= ~(1u << state.thread % kWarp);
  if (block.at_barrier) fault("barrier not met by all", nullptr, "a thread exits while others wait");
  release_barrier();
  release_exchange(w);
}

void open_block(void* context) {
  const int count = static_cast<int>(blockDim.x * blockDim.y * blockDim.z);
  state.block_epoch = ++state.epoch;
  ++state.totals.blocks;
  state.totals.threads += count;
  block.threads.assign(count, {});
  block.warps.assign((count + kWarp - 1) / kWarp, Warp{});
  block.alive = count;
  block.at_barrier = 0;
  for (int t = 0; t < count; ++t) {
    const unsigned u = t;
    block.threads[t].index = {u % blockDim.x, u / blockDim.x % blockDim.y, u / (blockDim.x * blockDim.y)};
    block.warps[t / kWarp].alive |= 1u << t % kWarp;
    start_fiber(t, run_thread, context);
  }
}

// Runs all threads that do not wait, in this order but for the warp that lags. Returns whether any ran.
bool run_turn(const std::vector<int>& order, int lagging) {
  bool any = false;
  for (const int t : order) {
    if (block.threads[t].wait != Wait::kNothing || t / kWarp == lagging) continue;
    any = true;
    state.thread = t;
    threadIdx = block.threads[t].index;
    resume_fiber(t);
  }
  return any;
}

void report_deadlock() {
  int counts[4] = {};
  for (const Thread& thread : block.threads) ++counts[static_cast<int>(thread.wait)];
  fault("barrier not met by all", nullptr,
        std::to_string(counts[static_cast<int>(Wait::kBarrier)]) + " threads wait at a barrier, " +
            std::to_string(counts[static_cast<int>(Wait::kExchange)]) + " at an exchange of their warp, " +
            std::to_string(counts[static_cast<int>(Wait::kDone)]) + " are done");
}

void run_threads() {
  const bool shuffled = state.order == Order::kShuffled;
  std::vector<int> order(block.threads.size());
  std::iota(order.begin(), order.end(), 0);
  if (state.order == Order::kDescending) std::reverse(order.begin(), order.end());
  const auto any_warp = [&] { return static_cast<int>(state.random() % block.warps.size()); };
  int lagging = shuffled && state.random() % 2 ? any_warp() : -1;
  while (block.alive > 0) {
    if (shuffled) std::shuffle(order.begin(), order.end(), state.random);
    const bool any = run_turn(order, lagging);
    if (!any && lagging < 0) return report_deadlock();
    if (!any) {
      lagging = -1;
    } else if (shuffled && lagging < 0 && state.random() % 16 == 0) {
      lagging = any_warp();
    }
  }
}

// Returns whether a device would accept the launch.
bool check_settings(const Settings& s, size_t dynamic_limit) {
  const size_t threads = size_t{s.block.x} * s.block.y * s.block.z;
  const auto text = [](const dim3& d) {
    return std::to_string(d.x) + " x " + std::to_string(d.y) + " x " + std::to_string(d.z);
  };
  if (threads == 0 || threads > 1024) {
    fault("launch", nullptr, text(s.block) + " threads");
  } else if (s.grid.x == 0 || s.grid.y == 0 || s.grid.z == 0 || s.grid.x > 0x7FFFFFFFu || s.grid.y > 65535 ||
             s.grid.z > 65535) {
    fault("launch", nullptr, text(s.grid) + " blocks");
  } else if (s.shared > dynamic_limit) {
    fault("launch", nullptr,
          std::to_string(s.shared) + " bytes of dynamic shared memory, allowed " +
              std::to_string(dynamic_limit));
  } else {
    return true;
  }
  return false;
}

}  // namespace

void allow_dynamic_shared(const void* function, int bytes) {
  if (bytes > static_cast<int>(limits.shared_bytes)) {
    fault("launch", nullptr, std::to_string(bytes) + " bytes of shared memory asked for");
  }
  dynamic_limits[function] = bytes;
}

void run_grid(const char* kernel, const void* function, const Settings& settings, Body body, void* context) {
  state.kernel = kernel;
  const auto limit = dynamic_limits.find(function);
  const bool asked = function && limit != dynamic_limits.end();
  if (!check_settings(settings, asked ? limit->second : kSharedBytesUnasked)) return;
  ++state.totals.launches;
  state.launch_epoch = state.epoch + 1;
  gridDim = settings.grid;
  blockDim = settings.block;
  kernel_body = body;
  on_launch(kernel, settings);
  const size_t blocks = size_t{gridDim.x} * gridDim.y * gridDim.z;
  std::vector<size_t> order(state.block_limit ? std::min(state.block_limit, blocks) : blocks);
  for (size_t i = 0; i < order.size(); ++i) order[i] = i * blocks / order.size();
  if (state.order == Order::kDescending) std::reverse(order.begin(), order.end());
  if (state.order == Order::kShuffled) std::shuffle(order.begin(), order.end(), state.random);
  size_t declared = 0;
  for (const size_t i : order) {
    blockIdx = {static_cast<unsigned>(i % gridDim.x), static_cast<unsigned>(i / gridDim.x % gridDim.y),
                static_cast<unsigned>(i / gridDim.x / gridDim.y)};
    open_shared(settings.shared);
    open_block(context);
    state.in_kernel = true;
    run_threads();
    state.in_kernel = false;
    on_block_end();
    declared = close_shared();
    if (declared + settings.shared > (asked ? limits.shared_bytes : kSharedBytesUnasked)) {
      fault("launch", nullptr,
            std::to_string(declared) + " + " + std::to_string(settings.shared) + " bytes of shared memory");
    }
  }
  on_launch_end(declared);
  state.kernel = "host code";
}

}  // namespace emulate
