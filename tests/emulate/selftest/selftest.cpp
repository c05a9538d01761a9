// Shows that the emulator reports what is wrong, as what it is, and where.
#include <cstdio>
#include <cstring>
#include <string>

#include "buffer.h"
#include "device.h"
#include "wrong_kernels.h"

namespace {

constexpr int kValues = 64;

// In each order of threads; returns what is not as it should be, or "".
std::string verdict(const char* expected, const std::function<void(const float*, float*)>& launch) {
  emulate::forget_faults();
  for (const auto order :
       {emulate::Order::kAscending, emulate::Order::kDescending, emulate::Order::kShuffled}) {
    Buffer<DeviceMemory, float> in(kValues), out(kValues);
    in.fill(1);
    emulate::set_order(order, 1);
    launch(in.get(), out.get());
  }
  if (!*expected) return emulate::faults().empty() ? "" : "reported as " + emulate::faults()[0].kind;
  for (const emulate::Fault& fault : emulate::faults()) {
    if (fault.kind != expected) continue;
    const bool has_line = fault.where.find("wrong_kernels.cu:") != std::string::npos;
    const bool has_place = has_line || fault.kind == "launch";
    return has_place ? "" : "reported at " + fault.where;
  }
  return emulate::faults().empty() ? "not reported" : "reported as " + emulate::faults()[0].kind;
}

}  // namespace

int main(int count, char** arguments) {
  emulate::report_crashes();
  if (count > 1 && std::strcmp(arguments[1], "--crash") == 0) {
    emulate::set_case("a null pointer");
    Buffer<DeviceMemory, float> in(kValues), out(kValues);
    run_null_pointer(in.get(), out.get());
    return 0;
  }
  int kernels = 0, wrong = 0;
  run_wrong_kernels([&](const char* name, const char* expected, const auto& launch) {
    emulate::set_case(name);
    const std::string found = verdict(expected, launch);
    ++kernels;
    if (found.empty()) return;
    ++wrong;
    std::printf("selftest: %s, expected \"%s\": %s\n", name, expected, found.c_str());
    emulate::print_faults();
  });
  std::printf("emulator: %d kernels that are wrong on purpose or right, %d judged wrongly\n", kernels, wrong);
  return wrong != 0;
}
