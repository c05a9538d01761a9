// Runs the CPU kernels over random shapes and compares them with plain loops in float64. Built with
// sanitizers by run.sh, it needs neither Python nor torch. GRAD_CPU selects the instruction set.
#include <cstdio>
#include <cstring>

#include "all_cases.h"
#include "common/isa.h"
#include "common/types.h"
#include "conversions.h"
#include "cpu.h"

namespace {

template <typename H>
void all_conversions() {
  for (const int64_t run : {1 << 20, 3}) conversion_cases<H>(run);  // whole vectors, and single values
}

}  // namespace

int main(int count, char** arguments) {
  const char* isa = grad::name_of(grad::instruction_set());
  if (count > 1 && std::strcmp(arguments[1], "--instruction-set") == 0) {
    std::puts(isa);
    return 0;
  }
  uint32_t seed = 0;
#define GRAD_ALL_CASES(T, G)                     \
  {                                              \
    Random random(++seed);                       \
    all_cases<Cpu, T, G>(random, Choice::all()); \
  }
  GRAD_FOR_EACH_TYPE_PAIR(GRAD_ALL_CASES)
  all_conversions<grad::Half>();
  all_conversions<grad::BFloat16>();
  std::printf("sanitizer: %s: %lld cases\n", isa, static_cast<long long>(cases_passed()));
  return 0;
}
