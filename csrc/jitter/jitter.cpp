// jitter_noise: writes out the noise that project draws inside its kernels, for tests and for looking.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include "common/checks.h"
#include "common/device.h"
#include "jitter/jitter.h"
#include "jitter/jitter_host.h"

namespace grad {

at::Tensor drawn_noise(const at::Tensor& state, int64_t rows, int64_t dims, double probability, double std,
                       bool per_batch) {
  check_jitter_state(state, "state");
  TORCH_CHECK_VALUE(rows >= 0 && dims >= 1 && dims <= kMaxDims, "rows must be at least 0 and dims 1 to ",
                    kMaxDims, ", got ", rows, " and ", dims);
  const c10::DeviceGuard guard(state.device());
  const at::Tensor numbers = state.contiguous();
  const at::Tensor noise = at::empty({rows, dims}, state.options().dtype(at::kFloat));
  const JitterArgs jitter = jitter_args(numbers, probability, std, per_batch);
  dispatch_dims(dims, [&](auto constant) {
    constexpr int D = decltype(constant)::value;
    if constexpr (kWithCuda) {
      if (noise.is_cuda()) {
        jitter_noise_cuda<D>(jitter, data<float>(noise), rows, current_stream());
        return check_launch();
      }
    }
    at::parallel_for(0, rows, 1024, [&](int64_t begin, int64_t end) {
      jitter_noise_cpu<D>(jitter, data<float>(noise), {begin, end});
    });
  });
  return noise;
}

namespace {

void register_jitter(torch::Library& library) { library.impl("jitter_noise", &drawn_noise); }

}  // namespace

GRAD_REGISTER(register_jitter)

}  // namespace grad
