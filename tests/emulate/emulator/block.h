// The threads of the block that runs, and what they wait for.
#pragma once

#include <cstdint>
#include <vector>

#include "cuda_runtime.h"

namespace emulate {

enum class Wait : uint8_t { kNothing, kBarrier, kExchange, kDone };

struct Thread {
  uint3 index;
  Wait wait;
  uint8_t parity;  // of the slots of its next exchange
};

// Exchanges use two sets of slots in turn: a lane may write the next before all have read the last.
struct Warp {
  unsigned alive, arrived, mask;
  Exchange kind;
  size_t bytes;
  alignas(16) unsigned char slots[2][kWarp][16];
};

struct Block {
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  int alive, at_barrier;
};
extern Block block;

// Lets go on who waits, where the last one has come. `w` is a warp.
void release_barrier();
void release_exchange(int w);

}  // namespace emulate
