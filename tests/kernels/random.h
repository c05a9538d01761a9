// Random numbers that are the same everywhere.
#pragma once

#include <cstdint>
#include <random>

#include "common/rows.h"

using grad::Range;

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  // Uniform in [low, high].
  int64_t integer(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(engine_() % static_cast<uint64_t>(high - low + 1));
  }
  bool chance(int percent) { return integer(1, 100) <= percent; }
  double uniform(double low, double high) { return low + (high - low) * (engine_() * 0x1p-32); }
  uint32_t word() { return static_cast<uint32_t>(engine_()); }
  // Some part of [0, size), possibly empty.
  Range part(int64_t size) {
    const int64_t begin = integer(0, size);
    return {begin, integer(begin, size)};
  }

 private:
  std::mt19937 engine_;
};
