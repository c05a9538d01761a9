// What host code needs of the device: current stream, launch check, registration of an operator for
// every device that this build has.
#pragma once

#include <c10/core/DeviceGuard.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

#include "common/stream.h"

#ifdef GRAD_WITH_CUDA
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace grad {

#ifdef GRAD_WITH_CUDA

constexpr bool kWithCuda = true;
inline Stream current_stream() { return c10::cuda::getCurrentCUDAStream().stream(); }
inline void check_launch() {
  TORCH_CHECK(cudaPeekAtLastError() != cudaErrorNoKernelImageForDevice,
              "GRAD was compiled for the architectures ", GRAD_BUILT_ARCHITECTURES,
              ", which this GPU can't run: set TORCH_CUDA_ARCH_LIST to its compute ",
              "capability and install GRAD again");
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

#define GRAD_REGISTER(function)                                         \
  TORCH_LIBRARY_IMPL(grad_anomaly, CPU, library) { function(library); } \
  TORCH_LIBRARY_IMPL(grad_anomaly, CUDA, library) { function(library); }

#else

constexpr bool kWithCuda = false;
inline Stream current_stream() { return nullptr; }
inline void check_launch() {}

#define GRAD_REGISTER(function) \
  TORCH_LIBRARY_IMPL(grad_anomaly, CPU, library) { function(library); }

#endif

}  // namespace grad
