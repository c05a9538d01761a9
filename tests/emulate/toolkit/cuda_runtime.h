// In the place of CUDA's header of this name: the part of the language and of its functions that the kernels
// use, for a host compiler. What is not here does not compile, and is then to be added.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#define __global__ __attribute__((noinline))  // a frame of its own, which faults can name
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

#include "emulator/launch.h"

// Machine words of several values: a copy is one access, as with CUDA.
template <typename Values>
struct alignas(sizeof(Values)) EmulatedWord : Values {
  EmulatedWord() = default;
  __forceinline__ EmulatedWord(const EmulatedWord& other) {
    emulate::load_bytes(&other, this, sizeof(other));
  }
  __forceinline__ EmulatedWord& operator=(const EmulatedWord& other) {
    const EmulatedWord word(other);
    emulate::store_bytes(this, &word, sizeof(word));
    return *this;
  }
};
struct EmulatedPair {
  unsigned x, y;
};
struct EmulatedQuad {
  unsigned x, y, z, w;
};
using uint2 = EmulatedWord<EmulatedPair>;
using uint4 = EmulatedWord<EmulatedQuad>;

// Barriers and exchanges ----------------------------------------------------------------------------------

#define __syncthreads() emulate::sync_threads(__FILE__, __LINE__)
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu) { emulate::sync_warp(mask); }

template <typename T>
__forceinline__ T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  return emulate::exchange(emulate::Exchange::kIndex, mask, value, source, width);
}
template <typename T>
__forceinline__ T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
  return emulate::exchange(emulate::Exchange::kXor, mask, value, lanes, width);
}
template <typename T>
__forceinline__ T __shfl_down_sync(unsigned mask, T value, unsigned lanes, int width = 32) {
  return emulate::exchange(emulate::Exchange::kDown, mask, value, static_cast<int>(lanes), width);
}
template <typename T>
__forceinline__ T __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = 32) {
  return emulate::exchange(emulate::Exchange::kUp, mask, value, static_cast<int>(lanes), width);
}

// Accesses that a compiler must not split or merge --------------------------------------------------------

template <typename T>
__forceinline__ T __ldg(const T* place) {
  return emulate::load_whole(place);
}
template <typename T>
__forceinline__ T __ldcs(const T* place) {
  return emulate::load_whole(place);
}
template <typename T>
__forceinline__ void __stcs(T* place, T value) {
  emulate::store_whole(place, value);
}
template <typename T>
__forceinline__ T atomicAdd(T* place, T value) {
  return emulate::add_atomically(place, value);
}

// Arithmetic ----------------------------------------------------------------------------------------------

inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }

__forceinline__ unsigned __float_as_uint(float value) { return __builtin_bit_cast(unsigned, value); }
__forceinline__ float __uint_as_float(unsigned bits) { return __builtin_bit_cast(float, bits); }
__forceinline__ float __fmul_rn(float a, float b) { return a * b; }
__forceinline__ double __dmul_rn(double a, double b) { return a * b; }
__forceinline__ float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
__forceinline__ double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }

inline void sincospif(float x, float* sine, float* cosine) {
  const double angle = 3.14159265358979323846 * static_cast<double>(x);
  *sine = static_cast<float>(std::sin(angle));
  *cosine = static_cast<float>(std::cos(angle));
}

// The device ----------------------------------------------------------------------------------------------

struct CUstream_st;
using cudaStream_t = CUstream_st*;
enum cudaError_t { cudaSuccess = 0 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? emulate::limits.multiprocessors
                                                       : static_cast<int>(emulate::limits.shared_bytes);
  return cudaSuccess;
}
template <typename F>
cudaError_t cudaFuncSetAttribute(F* function, cudaFuncAttribute, int bytes) {
  emulate::allow_dynamic_shared(emulate::address_of(function), bytes);
  return cudaSuccess;
}
