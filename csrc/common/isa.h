// Which instruction set the CPU kernels run with.
#pragma once

#include <cstdlib>
#include <cstring>

namespace grad {

enum class InstructionSet { kBaseline, kAvx2, kAvx512 };

inline const char* name_of(InstructionSet isa) {
  return isa == InstructionSet::kAvx512 ? "avx512" : isa == InstructionSet::kAvx2 ? "avx2" : "baseline";
}

// The best that the processor has; the environment variable GRAD_CPU can lower it, for tests.
inline InstructionSet instruction_set() {
  static const InstructionSet chosen = [] {
#if defined(__x86_64__)
    const char* limit = std::getenv("GRAD_CPU");
    const auto allows = [&](const char* name) { return limit == nullptr || std::strcmp(limit, name) == 0; };
    if (allows("avx512") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      return InstructionSet::kAvx512;
    }
    if ((allows("avx512") || allows("avx2")) && __builtin_cpu_supports("avx2") &&
        __builtin_cpu_supports("fma")) {
      return InstructionSet::kAvx2;
    }
#endif
    return InstructionSet::kBaseline;
  }();
  return chosen;
}

}  // namespace grad
