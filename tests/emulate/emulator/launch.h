// What the translated kernels call.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emulate {

// Of compute capability 9.0, but what plans depend on can be another device's.
struct Limits {
  int multiprocessors = 132;
  size_t shared_bytes = 227 * 1024;  // the most that a block may have
};
inline Limits limits;
constexpr size_t kSharedBytesUnasked = 48 * 1024;  // without cudaFuncSetAttribute
constexpr int kWarp = 32;

// Between <<< and >>>.
struct Settings {
  dim3 grid, block;
  size_t shared;
  Settings(dim3 grid, dim3 block, size_t shared = 0, void* = nullptr)
      : grid(grid), block(block), shared(shared) {}
};

using Body = void (*)(void*);
void run_grid(const char* kernel, const void* function, const Settings& settings, Body body, void* context);

// Arguments are copied, as at a launch.
template <typename Call, typename... Args>
void launch(const char* kernel, const void* function, const Call& call, const Settings& settings,
            Args... args) {
  auto body = [&] { call(args...); };
  run_grid(
      kernel, function, settings, [](void* context) { (*static_cast<decltype(body)*>(context))(); }, &body);
}

template <typename F>
const void* address_of(F* function) {
  return reinterpret_cast<const void*>(function);
}
void allow_dynamic_shared(const void* function, int bytes);

// `number` tells the variables of a kernel apart.
void* shared_variable(int number, size_t bytes, size_t alignment);
unsigned char* dynamic_shared();

template <typename T>
__forceinline__ T& shared(int number) {
  return *static_cast<T*>(shared_variable(number, sizeof(T), alignof(T)));
}

void sync_threads(const char* file, int line);
void sync_warp(unsigned mask);

enum class Exchange { kIndex, kXor, kUp, kDown, kSync };
void exchange(Exchange kind, unsigned mask, const void* in, void* out, size_t bytes, int argument, int width);

template <typename T>
__forceinline__ T exchange(Exchange kind, unsigned mask, T value, int argument, int width) {
  T out;
  exchange(kind, mask, &value, &out, sizeof(T), argument, width);
  return out;
}

// One access of this size, and of the alignment that the hardware asks for.
void load_bytes(const void* place, void* value, size_t bytes);
void store_bytes(void* place, const void* value, size_t bytes);

template <typename T>
__forceinline__ T load_whole(const T* place) {
  T value;
  load_bytes(place, &value, sizeof(T));
  return value;
}
template <typename T>
__forceinline__ void store_whole(T* place, const T& value) {
  store_bytes(place, &value, sizeof(T));
}

float add_atomically(float* place, float value);
double add_atomically(double* place, double value);

}  // namespace emulate
