// What launchers ask of the device.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "common/scalar.h"

namespace grad {

inline int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&value, attribute, device);
  return value;
}

inline int multiprocessors() { return device_attribute(cudaDevAttrMultiProcessorCount); }

// The most dynamic shared memory that a block may ask for, of a kernel that declares none itself.
inline size_t shared_memory_limit() {
  return static_cast<size_t>(device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
}

// Beyond 48 KiB a kernel has to be told.
template <typename Kernel>
void allow_shared_memory(Kernel* kernel, size_t bytes) {
  if (bytes > 48 * 1024) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  }
}

// The next `count` values of a block's dynamic shared memory, of which `used` bytes are taken; every array
// begins at a multiple of 16 bytes. Launchers call it with a null pointer, to learn how many bytes there are.
template <typename X>
GRAD_HOST_DEVICE X* take(unsigned char* shared, size_t& used, size_t count) {
  X* const place = reinterpret_cast<X*>(shared + used);
  used += (count * sizeof(X) + 15) / 16 * 16;
  return place;
}

template <typename T>
constexpr T divide_up(T a, T b) {
  return (a + b - 1) / b;
}

}  // namespace grad
