// jitter_noise: the noise that project draws inside its kernels, written out.
#pragma once

#include <cstdint>

#include "common/philox.h"
#include "common/stream.h"

namespace grad {

template <int D>
void jitter_noise_cuda(const JitterArgs& jitter, float* noise, int64_t rows, Stream stream);

}  // namespace grad
