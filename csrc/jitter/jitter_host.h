// The noise's state as the operators take it, checked and made ready for the kernels.
#pragma once

#include <ATen/core/Tensor.h>

#include "common/checks.h"
#include "common/philox.h"

namespace grad {

inline void check_jitter_state(const at::Tensor& state, const char* name) {
  const bool fits = state.dim() == 1 && (state.size(0) == 2 || state.size(0) == 3);
  check_shape(fits && state.scalar_type() == at::kLong, state, name,
              "(2,) or (3,) int64: seed, offset, and what row 0 is counted as");
}

// `state` is contiguous, or undefined where there is no jitter, and outlives the result.
inline JitterArgs jitter_args(const at::Tensor& state, double probability, double std, bool per_batch) {
  const int64_t* numbers = state.defined() ? state.const_data_ptr<int64_t>() : nullptr;
  return {numbers, static_cast<float>(probability), static_cast<float>(std), per_batch,
          numbers && state.size(0) == 3 ? numbers + 2 : nullptr};
}

// The operator jitter_noise: (rows, dims) float32.
at::Tensor drawn_noise(const at::Tensor& state, int64_t rows, int64_t dims, double probability, double std,
                       bool per_batch);

}  // namespace grad
