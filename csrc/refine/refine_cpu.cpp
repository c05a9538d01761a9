// Refinement on the CPU, a row at a time: one read of F and F^ for the sums, one more in backward.
#include "refine/refine.h"

#include <cstring>
#include <type_traits>
#include <utility>

#include "common/types.h"

#define GRAD_KERNELS "refine/refine_cpu.inl"
#include "common/for_each_isa.h"

namespace grad {

template <typename T, typename P>
double refine_forward_cpu(const RefineArgs<T, P>& args, Accumulate<P>* score, Accumulate<P>* sums,
                          Range rows) {
  GRAD_DISPATCH_ISA(refine_forward(args, score, sums, rows));
}

template <typename T, typename P>
void refine_backward_cpu(const RefineArgs<T, P>& args, const Accumulate<P>* sums, Accumulate<P> grad_loss,
                         const Accumulate<P>* grad_score, T* grad_features, P* grad_prediction, Range rows) {
  GRAD_DISPATCH_ISA(refine_backward(args, sums, grad_loss, grad_score, grad_features, grad_prediction, rows));
}

template <typename T, typename P>
void refined_map_cpu(const RefineArgs<T, P>& args, P* refined, Range rows) {
  GRAD_DISPATCH_ISA(refined_map(args, refined, rows));
}

// The prediction may be 16 bit under autocast while the features stay float32: types swapped.
#define GRAD_INSTANTIATE(P, T)                                                                        \
  template double refine_forward_cpu(const RefineArgs<T, P>&, Accumulate<P>*, Accumulate<P>*, Range); \
  template void refine_backward_cpu(const RefineArgs<T, P>&, const Accumulate<P>*, Accumulate<P>,     \
                                    const Accumulate<P>*, T*, P*, Range);                             \
  template void refined_map_cpu(const RefineArgs<T, P>&, P*, Range);
GRAD_FOR_EACH_TYPE_PAIR(GRAD_INSTANTIATE)

}  // namespace grad
