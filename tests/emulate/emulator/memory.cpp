// Device memory, and the shared memory of the block that runs.
#include "memory.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <new>

#include "shadow.h"
#include "state.h"

namespace emulate {

namespace {

constexpr size_t kWide = 256;       // alignment of device memory
constexpr size_t kGap = 48 * 1024;  // between device arrays: more than a row, that is, than a bound too far
constexpr size_t kSharedAlignment = 16;

size_t round_up(size_t value, size_t to) { return (value + to - 1) / to * to; }

[[noreturn]] void out_of_memory(const char* which) {
  std::printf("emulator: %s memory is full\n", which);
  std::exit(2);
}

// The heap, for AddressSanitizer.
[[maybe_unused]] unsigned char* from_heap(size_t bytes, size_t alignment) {
  return static_cast<unsigned char*>(::operator new(bytes + !bytes, std::align_val_t{alignment}));
}
[[maybe_unused]] void to_heap(unsigned char* place, size_t alignment) {
  ::operator delete(place, std::align_val_t{alignment});
}

[[maybe_unused]] size_t device_top = 0;
[[maybe_unused]] int64_t device_arrays = 0;

struct Variable {
  unsigned char* place;
  size_t bytes, alignment;
};
std::map<int, Variable> variables;
unsigned char* dynamic_place;
size_t dynamic_size;
[[maybe_unused]] size_t shared_top = 0;

unsigned char* allocate_shared(size_t bytes) {
#ifdef EMULATE_SHADOW
  shared_top = round_up(shared_top + 64, kSharedAlignment);
  unsigned char* place = arena_of_shared() + shared_top;
  shared_top += bytes;
  if (shared_top + 64 > kSharedArena) out_of_memory("shared");
  mark(place, bytes, Byte::kUnset);
#else
  unsigned char* place = from_heap(bytes, kSharedAlignment);
#endif
  std::memset(place, 0xFF, bytes);
  return place;
}

}  // namespace

void* allocate(size_t bytes, size_t shift) {
#ifdef EMULATE_SHADOW
  device_top = round_up(device_top + kGap, kWide);
  unsigned char* place = arena_of_device() + device_top + shift;
  device_top += shift + bytes;
  if (device_top + kGap > kDeviceArena) out_of_memory("device");
  ++device_arrays;
  mark(place, bytes, Byte::kUnset);
  return place;
#else
  return from_heap(bytes + shift, kWide) + shift;
#endif
}

void release(void* place, size_t bytes, size_t shift) {
#ifdef EMULATE_SHADOW
  (void)shift;
  mark(place, bytes, Byte::kNone);
  if (--device_arrays == 0) device_top = 0;
#else
  (void)bytes;
  to_heap(static_cast<unsigned char*>(place) - shift, kWide);
#endif
}

void mark_initialised([[maybe_unused]] const void* place, [[maybe_unused]] size_t bytes) {
#ifdef EMULATE_SHADOW
  mark(place, bytes, Byte::kSet);
#endif
}

void mark_uninitialised([[maybe_unused]] const void* place, [[maybe_unused]] size_t bytes) {
#ifdef EMULATE_SHADOW
  mark(place, bytes, Byte::kUnset);
#endif
}

void open_shared(size_t dynamic) {
  dynamic_size = dynamic;
  dynamic_place = allocate_shared(dynamic);
}

size_t close_shared() {
  size_t declared = 0;
  for (const auto& [number, v] : variables) declared = round_up(declared, v.alignment) + v.bytes;
  if (dynamic_size) declared = round_up(declared, kSharedAlignment);
#ifdef EMULATE_SHADOW
  mark(arena_of_shared(), shared_top, Byte::kNone);
  shared_top = 0;
#else
  to_heap(dynamic_place, kSharedAlignment);
  for (const auto& [number, v] : variables) to_heap(v.place, kSharedAlignment);
#endif
  variables.clear();
  return declared;
}

void* shared_variable(int number, size_t bytes, size_t alignment) {
  const auto [at, is_new] = variables.try_emplace(number);
  if (is_new) at->second = {allocate_shared(bytes), bytes, alignment};
  return at->second.place;
}

unsigned char* dynamic_shared() { return dynamic_place; }

}  // namespace emulate
