// Sums across the lanes of a warp and across parts of the work, always in the same order.
#pragma once

#include <cstdint>

#include "common/scalar.h"
#include "common/stream.h"

namespace grad {

constexpr int kWarpSize = 32;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;

constexpr int log2_of(int power) { return power <= 1 ? 0 : 1 + log2_of(power / 2); }

// Sums kCount values (a power of two, at most 32) over all lanes at once. Afterwards values[0] of a
// lane is the total of value number `owned_value<kCount>(lane)`. Each exchange halves the number of
// values that a lane still carries: kCount - 1 + log2(32 / kCount) shuffles instead of 5 kCount.
template <int kCount, int kOffset = kWarpSize / 2, typename A>
__device__ __forceinline__ void warp_sum(A* values) {
  if constexpr (kCount > 1) {
    constexpr int kHalf = kCount / 2;
    const bool upper = threadIdx.x & kOffset;
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
      const A give = upper ? values[i] : values[i + kHalf];
      const A keep = upper ? values[i + kHalf] : values[i];
      values[i] = keep + __shfl_xor_sync(kAllLanes, give, kOffset);
    }
    warp_sum<kHalf, kOffset / 2>(values);
  } else if constexpr (kOffset > 0) {
    values[0] += __shfl_xor_sync(kAllLanes, values[0], kOffset);
    warp_sum<1, kOffset / 2>(values);
  }
}

template <int kCount>
__device__ __forceinline__ int owned_value(int lane) {
  return lane >> (log2_of(kWarpSize) - log2_of(kCount));
}

// The first lane that owns a value.
template <int kCount>
__device__ __forceinline__ int owner_of(int value) {
  return value << (log2_of(kWarpSize) - log2_of(kCount));
}

// Coordinates, and what is kept for each of their axes, take this many of the values that a warp sums: a
// power of two.
template <int D>
constexpr int kSlots = D == 3 ? 4 : D;

// Writes a total where it belongs, in the type of its place.
template <typename G>
struct WriteTo {
  G* out;
  template <typename A>
  __device__ void operator()(int64_t i, A total) const {
    store(out + i, total);
  }
};

// write(i, sum over parts of parts[p * stride + i]): 32 results a block, kSumThreads threads each.
constexpr int kSumThreads = 32;

template <typename A, typename Write>
__global__ void __launch_bounds__(kWarpSize* kSumThreads)
    sum_parts_kernel(const A* __restrict__ parts,  // (count, stride)
                     int64_t count, int64_t stride,
                     int64_t size,  // results, at most stride
                     const Write write) {
  __shared__ A shares[kSumThreads][kWarpSize];
  const int64_t i = int64_t{blockIdx.x} * kWarpSize + threadIdx.x;
  A sum = 0;
  if (i < size) {
#pragma unroll 8
    for (int64_t p = threadIdx.y; p < count; p += kSumThreads) sum += parts[p * stride + i];
  }
  shares[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && i < size) {
#pragma unroll 8
    for (int y = 1; y < kSumThreads; ++y) sum += shares[y][threadIdx.x];
    write(i, sum);
  }
}

template <typename A, typename Write>
void sum_parts_cuda(const A* parts, int64_t count, int64_t stride, int64_t size, const Write& write,
                    Stream stream) {
  if (size == 0) return;
  const dim3 threads(kWarpSize, kSumThreads);
  sum_parts_kernel<<<static_cast<unsigned>((size + kWarpSize - 1) / kWarpSize), threads, 0, stream>>>(
      parts, count, stride, size, write);
}

}  // namespace grad
