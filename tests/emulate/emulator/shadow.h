// Shadow memory: of each byte whether it exists and is set, and who touched it last.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emulate {

enum class Access { kRead, kWrite, kAtomic };
enum class Byte : uint8_t { kNone, kUnset, kSet };

// Reports what is wrong with an access by the running thread. `size` bytes need not be one machine word
// where `is_word` is false.
void check_access(const void* place, size_t size, Access access, const void* pc, bool is_word = true);

// Arenas. Null where memory is the heap's.
unsigned char* arena_of_device();
unsigned char* arena_of_shared();
constexpr size_t kDeviceArena = size_t{256} << 20, kSharedArena = size_t{1} << 20;
void mark(const void* place, size_t bytes, Byte byte);

// Orders the accesses of a warp's lanes before those after it.
void count_warp_sync(int warp);

}  // namespace emulate
