// What launchers ask of the device.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace grad {

inline int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&value, attribute, device);
  return value;
}

inline int multiprocessors() { return device_attribute(cudaDevAttrMultiProcessorCount); }

// The most dynamic shared memory that a block may ask for, less what a kernel declares itself: dynamic memory
// begins behind that at a multiple of 16 bytes.
inline size_t shared_memory_limit(size_t declared) {
  const size_t all = static_cast<size_t>(device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
  return all - (declared + 15) / 16 * 16;
}

// Beyond 48 KiB, with what the kernel itself declares (a few KiB), a kernel has to be told.
template <typename Kernel>
void allow_shared_memory(Kernel* kernel, size_t bytes) {
  if (bytes > 32 * 1024) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  }
}

template <typename T>
constexpr T divide_up(T a, T b) {
  return (a + b - 1) / b;
}

}  // namespace grad
