// What a test uses of the emulator: memory, the order of threads, and what was found.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace emulate {

// Of the blocks of a launch and the threads of a block. Shuffled: another order in each turn, and at times a
// warp that lags behind the others.
enum class Order { kAscending, kDescending, kShuffled };
void set_order(Order order, uint32_t seed);
void set_case(const std::string& description);
// Only so many blocks of a launch run, evenly spaced; 0: all. What others would have written is then missing.
void set_block_limit(size_t blocks);

// Device memory of exactly this size, `shift` bytes off a wide alignment, uninitialised.
void* allocate(size_t bytes, size_t shift);
void release(void* place, size_t bytes, size_t shift);
void mark_initialised(const void* place, size_t bytes);
void mark_uninitialised(const void* place, size_t bytes);

struct Fault {
  std::string kind, detail;
  std::string kernel, where;  // where: file and line of the kernel's source, and of what called it
  std::string case_name;
  std::string thread;  // "block (0, 0), thread (1, 0), threads ascending"
  int64_t count;
};
const std::vector<Fault>& faults();
void forget_faults();
void print_faults();
void report_crashes();  // as faults; not where AddressSanitizer does

struct Totals {
  int64_t launches, blocks, threads, barriers, exchanges, accesses;
};
const Totals& totals();

}  // namespace emulate
