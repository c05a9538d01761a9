// Conversions between 16-bit types and floats, through kernels that load and store them.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "checker.h"
#include "cpu.h"
#include "interpolate/interpolate.h"

// Every 16-bit value as a float, and as what the floats at and next to it and half way up round to. One
// cell of weight 1 passes a value on as it is.
template <typename H>
void conversion_cases(int64_t run) {
  const Checker checker = Checker::of<float>(std::string("conversions of ") + Type<H>::name);
  const grad::Lattice lattice{{1, 1, 1, 1}, false, true};
  Buffer<Cpu, float> coords(1);
  coords.fill(0);

  Buffer<Cpu, H> all(1 << 16);
  Buffer<Cpu, float> loaded(all.size());
  for (int64_t i = 0; i < all.size(); ++i) all.put(i, H{static_cast<uint16_t>(i)});
  loaded.fill(0);
  grad::interpolate_backward_cpu<1>(
      grad::InterpolateBackward<H, float>{
          coords.get(), nullptr, all.get(), {0, run, run}, all.size(), lattice},
      {0, 1}, {0, all.size()}, loaded.get(), all.size(), nullptr);
  for (int64_t i = 0; i < all.size(); ++i) checker.near("loaded", 0, i, loaded[i], {all[i], 0}, 0);

  std::vector<float> floats;
  for (int64_t i = 0; i + 1 < all.size(); ++i) {
    const float value = static_cast<float>(all[i]), next = static_cast<float>(all[i + 1]);
    if (!std::isfinite(value)) continue;
    // The last step before infinity is as wide as the one before it.
    const float middle = std::isfinite(next) ? value + (next - value) / 2
                                             : value + (value - static_cast<float>(all[i - 1])) / 2;
    for (const float x : {value, middle}) {
      if (!std::isfinite(x)) continue;
      floats.insert(floats.end(),
                    {std::nextafter(x, -2 * std::abs(x) - 1), x, std::nextafter(x, 2 * std::abs(x) + 1)});
    }
  }
  floats.push_back(std::nanf(""));
  Buffer<Cpu, float> grid(static_cast<int64_t>(floats.size()));
  std::memcpy(grid.get(), floats.data(), floats.size() * sizeof(float));
  for (const bool past_caches : {false, true}) {
    Buffer<Cpu, H> stored(grid.size());
    grad::interpolate_forward_cpu<1>(
        grad::InterpolateForward<H, float>{
            coords.get(), grid.get(), stored.get(), {0, run, run}, grid.size(), lattice, past_caches},
        {0, 1}, {0, grid.size()});
    for (int64_t i = 0; i < grid.size(); ++i) {
      checker.near("stored", 0, i, stored[i], {rounded_to<H>(grid[i]), 0}, 0);
    }
  }
  ++cases_passed();
}
