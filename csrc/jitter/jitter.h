// jitter_noise: the noise that project draws inside its kernels, written out.
#pragma once

#include <cstdint>

#include "common/philox.h"
#include "common/rows.h"
#include "common/stream.h"

namespace grad {

// Writes rows `range` of noise, (N, D).
template <int D>
void jitter_noise_cpu(const JitterArgs& jitter, float* noise, Range range);

template <int D>
void jitter_noise_cuda(const JitterArgs& jitter, float* noise, int64_t rows, Stream stream);

}  // namespace grad
