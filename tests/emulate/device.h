// The emulated device: its memory, and running a launcher with threads in several orders.
#pragma once

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "buffer.h"
#include "checker.h"
#include "emulator/emulator.h"

struct DeviceMemory {
  static void* allocate(size_t bytes, size_t shift) { return emulate::allocate(bytes, shift); }
  static void release(void* place, size_t bytes, size_t shift) { emulate::release(place, bytes, shift); }
  static void set(const void* place, size_t bytes) { emulate::mark_initialised(place, bytes); }
  static void forget(const void* place, size_t bytes) { emulate::mark_uninitialised(place, bytes); }
};

// The most cells for which fits(cells) is true, and one more.
template <typename Fits>
std::vector<int> around_largest(Fits&& fits) {
  int low = 1, high = 1 << 20;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (fits(middle) ? low : high) = middle;
  }
  return {low, high};
}

// Ends the program where a fault was found.
inline void require_no_fault() {
  if (emulate::faults().empty()) return;
  emulate::print_faults();
  std::exit(1);
}

// Calls run(order number) with threads in ascending, in descending, and in two random orders.
template <typename Run>
void in_each_order(Random& random, const std::string& description, Run&& run) {
  emulate::set_case(description);
  for (int i = 0; i < 4; ++i) {
    const auto order = i == 0   ? emulate::Order::kAscending
                       : i == 1 ? emulate::Order::kDescending
                                : emulate::Order::kShuffled;
    emulate::set_order(order, random.word());
    run(i);
    require_no_fault();
  }
}

// The launcher of one case, in each order; its outputs must not differ by a bit.
class InOrders {
 public:
  InOrders(const Checker& checker, Random& random, const std::string& what)
      : checker_(checker), random_(random), what_(what) {}

  template <typename Device, typename T>
  InOrders& output(Buffer<Device, T>& buffer, const char* name) {
    outputs_.push_back({reinterpret_cast<unsigned char*>(buffer.get()), buffer.bytes(), name, {}});
    return *this;
  }

  template <typename Launch>
  void run(Launch&& launch) {
    in_each_order(random_, checker_.description() + ", " + what_, [&](int number) {
      for (Output& output : outputs_) {
        std::memset(output.place, 0xFF, output.bytes);
        emulate::mark_uninitialised(output.place, output.bytes);
      }
      launch();
      for (Output& output : outputs_) {
        if (number == 0) output.first.assign(output.place, output.place + output.bytes);
        const bool same = std::memcmp(output.place, output.first.data(), output.bytes) == 0;
        checker_.require(same, (what_ + ": " + output.name + " depends on the order of threads").c_str(),
                         number);
      }
    });
  }

 private:
  struct Output {
    unsigned char* place;
    size_t bytes;
    const char* name;
    std::vector<unsigned char> first;
  };
  const Checker& checker_;
  Random& random_;
  std::string what_;
  std::vector<Output> outputs_;
};
