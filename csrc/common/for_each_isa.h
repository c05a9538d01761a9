// Compiles the kernels of the file named by GRAD_KERNELS once for each instruction set, each time in
// a namespace of its own; `GRAD_DISPATCH_ISA(call)` runs the best one that this processor has.
//
// No -march is needed and the same binary runs everywhere. What the kernels use from other headers
// must be included before this file, so that it is compiled for the baseline only.
// Deliberately without an include guard: every kernel file includes it once for its own kernels.

#include "common/isa.h"

#define GRAD_STRINGIFY(x) #x
#if defined(__clang__)
#define GRAD_BEGIN_TARGET(isa) \
  _Pragma(GRAD_STRINGIFY(clang attribute push(__attribute__((target(isa))), apply_to = function)))
#define GRAD_END_TARGET _Pragma("clang attribute pop")
#else
#define GRAD_BEGIN_TARGET(isa) _Pragma("GCC push_options") _Pragma(GRAD_STRINGIFY(GCC target(isa)))
#define GRAD_END_TARGET _Pragma("GCC pop_options")
#endif

namespace grad::baseline {
constexpr int kVectorBytes = 16;
#include "common/vector_cpu.inl"
#include GRAD_KERNELS
}  // namespace grad::baseline

#if defined(__x86_64__)

GRAD_BEGIN_TARGET("avx2,fma")
namespace grad::avx2 {
constexpr int kVectorBytes = 32;
#include "common/vector_cpu.inl"
#include GRAD_KERNELS
}  // namespace grad::avx2
GRAD_END_TARGET

GRAD_BEGIN_TARGET("avx512f,avx512bw,avx512dq,avx512vl,fma,prefer-vector-width=512")
namespace grad::avx512 {
constexpr int kVectorBytes = 64;
#include "common/vector_cpu.inl"
#include GRAD_KERNELS
}  // namespace grad::avx512
GRAD_END_TARGET

#define GRAD_DISPATCH_ISA(...)            \
  switch (grad::instruction_set()) {      \
    case grad::InstructionSet::kAvx512:   \
      return grad::avx512::__VA_ARGS__;   \
    case grad::InstructionSet::kAvx2:     \
      return grad::avx2::__VA_ARGS__;     \
    default:                              \
      return grad::baseline::__VA_ARGS__; \
  }

#else

#define GRAD_DISPATCH_ISA(...) return grad::baseline::__VA_ARGS__

#endif
