// Kernels that are wrong on purpose, and right ones that look alike: what each must be reported as.
#include "wrong_kernels.h"

#include <cuda_runtime.h>

namespace {

constexpr int kThreads = 64;

__global__ void through_shared(const float* in, float* out) {
  __shared__ float values[kThreads];
  values[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = __shfl_xor_sync(~0u, values[kThreads - 1 - threadIdx.x], 1);
}

__global__ void through_a_warp(const float* in, float* out) {
  __shared__ float values[kThreads];
  values[threadIdx.x] = in[threadIdx.x];
  __syncwarp();
  out[threadIdx.x] = values[threadIdx.x ^ 1];
}

__global__ void without_barrier(const float* in, float* out) {
  __shared__ float values[kThreads];
  values[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = values[threadIdx.x ^ 32];
}

__global__ void without_warp_barrier(const float* in, float* out) {
  __shared__ float values[kThreads];
  values[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = values[threadIdx.x ^ 1];
}

__global__ void warp_barrier_between_warps(const float* in, float* out) {
  __shared__ float values[kThreads];
  values[threadIdx.x] = in[threadIdx.x];
  __syncwarp();
  out[threadIdx.x] = values[threadIdx.x ^ 32];
}

__global__ void overwritten_early(const float* in, float* out) {
  __shared__ float value;
  for (int i = 0; i < 2; ++i) {
    if (threadIdx.x == 0) value = in[i];
    __syncthreads();
    out[threadIdx.x] = value;
  }
}

__global__ void barrier_in_branch(const float*, float* out) {
  if (threadIdx.x < 32) __syncthreads();
  out[threadIdx.x] = 1;
}

__global__ void barriers_in_both_branches(const float*, float* out) {
  if (threadIdx.x < 32) {
    __syncthreads();
    out[threadIdx.x] = 1;
  } else {
    __syncthreads();
    out[threadIdx.x] = 2;
  }
}

__global__ void return_before_barrier(const float*, float* out) {
  if (threadIdx.x == 40) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}

__global__ void lane_that_has_left(const float*, float* out) {
  if (threadIdx.x == 5) return;
  out[threadIdx.x] = __shfl_sync(~0u, 1.0f, 5);
}

__global__ void mask_too_small(const float* in, float* out) {
  out[threadIdx.x] = __shfl_xor_sync(0xFFFFu, in[threadIdx.x], 1);
}

__global__ void exchange_in_branch(const float* in, float* out) {
  float value = in[threadIdx.x];
  if (threadIdx.x % 32 < 16) value += __shfl_xor_sync(~0u, value, 1);
  __syncthreads();
  out[threadIdx.x] = value;
}

__global__ void one_too_far(const float*, float* out) { out[threadIdx.x + 1] = 0; }

__global__ void one_too_far_in_shared(const float*, float* out) {
  __shared__ float values[kThreads];
  values[threadIdx.x + 1] = 0;
  out[threadIdx.x] = 0;
}

__global__ void shared_not_set(const float*, float* out) {
  __shared__ float values[kThreads];
  out[threadIdx.x] = values[threadIdx.x];
}

__global__ void output_read(const float*, float* out) { out[threadIdx.x] += 1; }

__global__ void packet_off_by_one(const float* in, float* out) {
  if (threadIdx.x >= kThreads / 4 - 1) return;
  const uint4 packet = __ldcs(reinterpret_cast<const uint4*>(in + 1) + threadIdx.x);
  out[threadIdx.x] = __uint_as_float(packet.x);
}

__global__ void blocks_write_the_same(const float*, float* out) { out[threadIdx.x] = blockIdx.x; }

__global__ void block_reads_another(const float*, float* out) {
  if (blockIdx.x == 0) out[threadIdx.x] = 1;
  if (blockIdx.x == 1 && threadIdx.x > 0) out[0] = out[threadIdx.x];
}

__global__ void counts_without_atomic(const float*, float* out) {
  if (threadIdx.x == 0) out[0] = 0;
  __syncthreads();
  out[0] += 1;
}

__global__ void counts_with_atomic(const float*, float* out) {
  if (threadIdx.x == 0) out[0] = 0;
  __syncthreads();
  atomicAdd(out, 1.0f);
}

__global__ void null_pointer(const float*, float* out) {
  float* nowhere = out + threadIdx.x - reinterpret_cast<uintptr_t>(out + threadIdx.x) / sizeof(float);
  *nowhere = 1;
}

__global__ void does_nothing(const float*, float*) {}

__global__ void much_shared(const float*, float* out) {
  extern __shared__ unsigned char bytes[];
  __shared__ float declared[3];
  bytes[threadIdx.x] = 0;
  declared[threadIdx.x % 3 == 0 ? 0 : 1] = 0;
  out[0] = 0;
}

}  // namespace

void run_wrong_kernels(const RunKernel& run) {
#define RUN(kernel, blocks, threads, expected) \
  run(#kernel, expected, [](const float* in, float* out) { kernel<<<blocks, threads>>>(in, out); });
  RUN(through_shared, 1, kThreads, "")
  RUN(through_a_warp, 1, kThreads, "")
  RUN(counts_with_atomic, 1, kThreads, "")
  RUN(without_barrier, 1, kThreads, "race")
  RUN(without_warp_barrier, 1, kThreads, "race")
  RUN(warp_barrier_between_warps, 1, kThreads, "race")
  RUN(overwritten_early, 1, kThreads, "race")
  RUN(barrier_in_branch, 1, kThreads, "barrier not met by all")
  RUN(barriers_in_both_branches, 1, kThreads, "different barriers")
  RUN(return_before_barrier, 1, kThreads, "barrier not met by all")
  RUN(lane_that_has_left, 1, kThreads, "warp exchange")
  RUN(mask_too_small, 1, kThreads, "warp exchange")
  RUN(exchange_in_branch, 1, kThreads, "barrier not met by all")
  RUN(one_too_far, 1, kThreads, "out of bounds")
  RUN(one_too_far_in_shared, 1, kThreads, "out of bounds")
  RUN(shared_not_set, 1, kThreads, "uninitialised")
  RUN(output_read, 1, kThreads, "uninitialised")
  RUN(packet_off_by_one, 1, kThreads, "misaligned")
  RUN(blocks_write_the_same, 2, kThreads, "race")
  RUN(block_reads_another, 2, kThreads, "race")
  RUN(counts_without_atomic, 1, kThreads, "race")
  RUN(does_nothing, 1, 0, "launch")
  RUN(does_nothing, 1, 1025, "launch")
  RUN(does_nothing, dim3(1, 65536), kThreads, "launch")
  RUN(does_nothing, 0, kThreads, "launch")
#undef RUN
  const auto with_shared = [](int bytes, bool asked) {
    return [=](const float* in, float* out) {
      if (asked) cudaFuncSetAttribute(much_shared, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
      much_shared<<<1, 1, bytes>>>(in, out);
    };
  };
  run("much_shared, not asked for", "launch", with_shared(50 * 1024, false));
  run("much_shared, all there is", "", with_shared(227 * 1024 - 16, true));
  run("much_shared, beyond what it declares, rounded up", "launch", with_shared(227 * 1024 - 12, true));
}

void run_null_pointer(const float* in, float* out) { null_pointer<<<1, kThreads>>>(in, out); }
