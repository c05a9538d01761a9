// The jitter of rows on the CPU, with the code that project draws it with.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>

#include "common/types.h"
#include "jitter/jitter.h"

#define GRAD_KERNELS "jitter/jitter_cpu.inl"
#include "common/for_each_isa.h"

namespace grad {

template <int D>
void jitter_noise_cpu(const JitterArgs& jitter, float* noise, Range range) {
  GRAD_DISPATCH_ISA(fill_noise<D>(jitter, range.begin, range.size(), noise + range.begin * D));
}

#define GRAD_INSTANTIATE(D, _) template void jitter_noise_cpu<D>(const JitterArgs&, float*, Range);
GRAD_FOR_EACH_DIM(GRAD_INSTANTIATE, )

}  // namespace grad
