// N-D grid lookup on the CPU. Work is given as a part of rows and columns; who computes what, and in
// which order sums are taken, is decided in interpolate.cpp.
#include "interpolate/interpolate.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "common/prefetch.h"
#include "common/types.h"
#include "common/write_past_caches.h"

#define GRAD_KERNELS "interpolate/interpolate_cpu.inl"
#include "common/for_each_isa.h"

namespace grad {

template <int D, typename T, typename G>
void interpolate_forward_cpu(const InterpolateForward<T, G>& args, Range rows, Range columns) {
  GRAD_DISPATCH_ISA(interpolate_forward<D>(args, rows, columns));
}

template <int D, typename T, typename G>
void interpolate_backward_cpu(const InterpolateBackward<T, G>& args, Range rows, Range columns,
                              Accumulate<T>* grad_grid, int64_t grad_pitch, Accumulate<T>* grad_coords) {
  GRAD_DISPATCH_ISA(interpolate_backward<D>(args, rows, columns, grad_grid, grad_pitch, grad_coords));
}

#define GRAD_INSTANTIATE(D, T, G)                                                                           \
  template void interpolate_forward_cpu<D>(const InterpolateForward<T, G>&, Range, Range);                  \
  template void interpolate_backward_cpu<D>(const InterpolateBackward<T, G>&, Range, Range, Accumulate<T>*, \
                                            int64_t, Accumulate<T>*);
#define GRAD_INSTANTIATE_DIMS(T, G) GRAD_FOR_EACH_DIM(GRAD_INSTANTIATE, T, G)
GRAD_FOR_EACH_TYPE_PAIR(GRAD_INSTANTIATE_DIMS)

}  // namespace grad
