// Accesses that the kernels ask for by name: whole words, and atomics.
#include <cstring>

#include "observer.h"

namespace emulate {

namespace {

template <typename T>
T add(T* place, T value, const void* pc) {
  on_access(place, sizeof(T), Access::kAtomic, pc);
  const T before = *place;
  *place = before + value;
  return before;
}

}  // namespace

void load_bytes(const void* place, void* value, size_t bytes) {
  on_access(place, bytes, Access::kRead, __builtin_return_address(0));
  std::memcpy(value, place, bytes);
}

void store_bytes(void* place, const void* value, size_t bytes) {
  on_access(place, bytes, Access::kWrite, __builtin_return_address(0));
  std::memcpy(place, value, bytes);
}

float add_atomically(float* place, float value) { return add(place, value, __builtin_return_address(0)); }
double add_atomically(double* place, double value) { return add(place, value, __builtin_return_address(0)); }

}  // namespace emulate
