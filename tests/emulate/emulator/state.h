// What runs at this moment: the parts of the emulator share it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>

#include "cuda_runtime.h"
#include "emulator.h"

namespace emulate {

struct State {
  std::string case_name;
  Order order = Order::kAscending;
  std::mt19937 random{1};
  size_t block_limit = 0;
  Totals totals = {};

  const char* kernel = "host code";
  const char* barrier_file = "";  // where the last barrier is
  int barrier_line = 0;
  bool in_kernel = false;
  int thread = 0;  // of the block
  // Epochs are counted over all launches; one ends with a barrier or a block.
  uint32_t epoch = 0;
  uint32_t block_epoch = 0, launch_epoch = 0;  // the block's and the launch's first
};
extern State state;

// `pc` is an address in the kernel, or null.
void fault(const std::string& kind, const void* pc, const std::string& detail = "");

// "csrc/common/vec.cuh:35, from csrc/project/project_cuda.cu:44": the line and what it is inlined in.
std::string source_of(const void* pc);
std::string last_barrier();  // "csrc/project/project_cuda.cu:188"

}  // namespace emulate
