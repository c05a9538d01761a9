// Runs the CUDA kernels of one pair of types over the cases of tests/kernels, on the emulated device.
//
//   main [ROUNDS [EVERY FIRST]]   rounds with other random cases each (1), every so many of them from a first
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "all_cases.h"
#include "cuda_interpolate.h"
#include "cuda_project.h"
#include "cuda_refine.h"

namespace {

struct Cuda : DeviceMemory, CudaInterpolate<Cuda>, CudaProject<Cuda>, CudaRefine<Cuda> {};

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

int main(int count, char** arguments) {
#ifndef EMULATE_ADDRESS
  emulate::report_crashes();
#endif
  const int rounds = count > 1 ? std::atoi(arguments[1]) : 1;
  const Choice choice = count > 3 ? Choice(std::atoi(arguments[2]), std::atoi(arguments[3])) : Choice::all();
  const double start = seconds();
  for (int round = 1; round <= rounds; ++round) {
    Random random(round);
    all_cases<Cuda, EMULATE_VALUES, EMULATE_PARAMETERS>(random, choice);
  }
  const emulate::Totals& totals = emulate::totals();
  std::printf("emulator: %s values, %s parameters: %lld cases, %lld launches, %lld accesses, %.0f s\n",
              Type<EMULATE_VALUES>::name, Type<EMULATE_PARAMETERS>::name,
              static_cast<long long>(cases_passed()), static_cast<long long>(totals.launches),
              static_cast<long long>(totals.accesses), seconds() - start);
  return 0;
}
