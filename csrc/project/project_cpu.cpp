// The fused local head on the CPU, a tile of rows at a time. Lookups go in the order of cells; in the
// backward pass each row is done with before the next, whose memory is asked for meanwhile.
#include "project/project.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "common/partition.h"
#include "common/prefetch.h"
#include "common/types.h"
#include "common/write_past_caches.h"

#define GRAD_KERNELS "project/project_cpu.inl"
#include "common/for_each_isa.h"

namespace grad {

template <int D, typename T, typename G>
void project_forward_cpu(const ProjectArgs<T, G>& args, T* out, int64_t out_stride,
                         Accumulate<T>* activations, Range rows, bool past_caches) {
  GRAD_DISPATCH_ISA(project_forward<D>(args, out, out_stride, activations, rows, past_caches));
}

template <int D, typename T, typename G>
void project_backward_cpu(const ProjectArgs<T, G>& args, const Accumulate<T>* activations, const T* grad_out,
                          int64_t grad_out_stride, Range rows, const ProjectGradients<T>& gradients) {
  GRAD_DISPATCH_ISA(project_backward<D>(args, activations, grad_out, grad_out_stride, rows, gradients));
}

template <int D, typename T, typename G>
void project_head_backward_cpu(const ProjectArgs<T, G>& args, const Accumulate<T>* activations,
                               const Accumulate<T>* grad_coords, Range rows,
                               const ProjectGradients<T>& gradients) {
  GRAD_DISPATCH_ISA(project_head_backward<D>(args, activations, grad_coords, rows, gradients));
}

#define GRAD_INSTANTIATE(D, T, G)                                                                           \
  template void project_forward_cpu<D>(const ProjectArgs<T, G>&, T*, int64_t, Accumulate<T>*, Range, bool); \
  template void project_backward_cpu<D>(const ProjectArgs<T, G>&, const Accumulate<T>*, const T*, int64_t,  \
                                        Range, const ProjectGradients<T>&);                                 \
  template void project_head_backward_cpu<D>(const ProjectArgs<T, G>&, const Accumulate<T>*,                \
                                             const Accumulate<T>*, Range, const ProjectGradients<T>&);
#define GRAD_INSTANTIATE_DIMS(T, G) GRAD_FOR_EACH_DIM(GRAD_INSTANTIATE, T, G)
GRAD_FOR_EACH_TYPE_PAIR(GRAD_INSTANTIATE_DIMS)

}  // namespace grad
