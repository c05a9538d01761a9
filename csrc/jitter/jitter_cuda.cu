// The jitter of each row, one thread a row.
#include "common/device.cuh"
#include "common/types.h"
#include "jitter/jitter.h"

namespace grad {

namespace {

constexpr int kThreads = 256;

template <int D>
__global__ void __launch_bounds__(kThreads)
    jitter_noise_kernel(const JitterArgs jitter, float* __restrict__ noise, int64_t rows) {  // (N, D)
  const int64_t n = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (n < rows) jitter_noise<D>(jitter, n, noise + n * D);
}

}  // namespace

template <int D>
void jitter_noise_cuda(const JitterArgs& jitter, float* noise, int64_t rows, Stream stream) {
  if (rows == 0) return;
  jitter_noise_kernel<D><<<static_cast<unsigned>(divide_up<int64_t>(rows, kThreads)), kThreads, 0, stream>>>(
      jitter, noise, rows);
}

#define GRAD_INSTANTIATE(D, _) template void jitter_noise_cuda<D>(const JitterArgs&, float*, int64_t, Stream);
GRAD_FOR_EACH_DIM(GRAD_INSTANTIATE, )

}  // namespace grad
