// What each mode does for itself: shadow.cpp, count.cpp and heap.cpp have these functions, and one of them
// is compiled.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda_runtime.h"

namespace emulate {

enum class Access { kRead, kWrite, kAtomic };

// Before an access of the running thread; `pc` is where it is made. `size` bytes need not be one machine word
// where `is_word` is false.
void on_access(const void* place, size_t size, Access access, const void* pc, bool is_word = true);

void on_launch(const char* kernel, const Settings& settings);
void on_launch_end(size_t declared_shared);
void on_block_end();
void on_barrier();
void on_exchange(int warp, Exchange kind, size_t bytes);  // once all its lanes have come

// Memory, uninitialised. A block's shared memory is released all at once.
unsigned char* new_device_memory(size_t bytes, size_t shift);
void delete_device_memory(unsigned char* place, size_t bytes, size_t shift);
unsigned char* new_shared_memory(size_t bytes);
void delete_shared_memory();
void on_initialised(const void* place, size_t bytes);
void on_uninitialised(const void* place, size_t bytes);

constexpr size_t kDeviceAlignment = 256, kSharedAlignment = 16;

}  // namespace emulate
