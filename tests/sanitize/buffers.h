// Buffers of exactly the size that a kernel may touch, conversions, and comparison.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "common/rows.h"
#include "common/scalar.h"

using grad::Range;
using grad::RowLayout;

template <typename T>
struct Type;
template <>
struct Type<double> {
  static constexpr const char* name = "float64";
  static constexpr double epsilon = 0x1p-52;
};
template <>
struct Type<float> {
  static constexpr const char* name = "float32";
  static constexpr double epsilon = 0x1p-23;
};
template <>
struct Type<grad::Half> {
  static constexpr const char* name = "float16";
  static constexpr double epsilon = 0x1p-10;
  static constexpr int mantissa_bits = 10, bias = 15;
};
template <>
struct Type<grad::BFloat16> {
  static constexpr const char* name = "bfloat16";
  static constexpr double epsilon = 0x1p-7;
  static constexpr int mantissa_bits = 7, bias = 127;
};

inline double to_double(float value) { return value; }
inline double to_double(double value) { return value; }

// By the definition of the format: sign, exponent, mantissa.
template <typename T>
double to_double(T value) {
  constexpr int bits = Type<T>::mantissa_bits, top = (1 << (15 - bits)) - 1;
  const int exponent = (value.bits >> bits) & top, mantissa = value.bits & ((1 << bits) - 1);
  const double sign = value.bits & 0x8000 ? -1 : 1;
  if (exponent == top) return mantissa ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  const int hidden_bit = exponent ? 1 << bits : 0;
  return sign * std::ldexp(hidden_bit + mantissa, (exponent ? exponent : 1) - Type<T>::bias - bits);
}

// The nearest value of a 16-bit format, ties to even.
template <typename T>
double rounded_to(double value) {
  constexpr int bits = Type<T>::mantissa_bits;
  if (!std::isfinite(value) || value == 0) return value;
  const int exponent = std::max(std::ilogb(value), 1 - Type<T>::bias);
  const double rounded = std::ldexp(std::nearbyint(std::ldexp(value, bits - exponent)), exponent - bits);
  const bool overflows = std::abs(rounded) >= std::ldexp(1, Type<T>::bias + 1);
  return overflows ? std::copysign(std::numeric_limits<double>::infinity(), value) : rounded;
}

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

// An allocation of its own, so that one element too far is a report. Filled with 0xFF, a NaN in every
// type: what is read without having been set spoils the result, and what must not be written shows.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t size) : size_(size), values_(new T[size]) {
    std::memset(static_cast<void*>(values_.get()), 0xFF, size * sizeof(T));
  }
  T* get() { return values_.get(); }
  const T* get() const { return values_.get(); }
  int64_t size() const { return size_; }
  double operator[](int64_t i) const { return to_double(values_[i]); }
  void set(int64_t i, double value) {
    if constexpr (std::is_same_v<T, double>) {
      values_[i] = value;
    } else {
      grad::store(&values_[i], static_cast<float>(value));
    }
  }
  void fill(double value) {
    for (int64_t i = 0; i < size_; ++i) set(i, value);
  }
  void fill_random(Random& random, double scale) {
    for (int64_t i = 0; i < size_; ++i) set(i, random.uniform(-scale, scale));
  }
  bool untouched(int64_t i) const {
    unsigned char bytes[sizeof(T)];
    std::memcpy(bytes, &values_[i], sizeof(T));
    for (const unsigned char byte : bytes) {
      if (byte != 0xFF) return false;
    }
    return true;
  }

 private:
  int64_t size_;
  std::unique_ptr<T[]> values_;
};

// A value as it should be, and the sum of the absolute terms that rounding errors are relative to.
struct Expected {
  double value = 0, magnitude = 0;
  void add(double term) { add(term, std::abs(term)); }
  void add(double term, double bound) {
    value += term;
    magnitude += bound;
  }
};

inline int64_t& cases_passed() {
  static int64_t count = 0;
  return count;
}

// Compares results of one case; the first that is off ends the program.
class Checker {
 public:
  // `accumulate` is the type of sums.
  template <typename A>
  static Checker of(std::string description) {
    return Checker(std::move(description), std::is_same_v<A, double> ? 1e-11 : 3e-5);
  }

  void near(const char* what, int64_t row, int64_t column, double got, const Expected& want,
            double output_epsilon) const {
    const double smallest = output_epsilon == Type<grad::Half>::epsilon ? 0x1p-24 : 0;  // subnormal step
    const double tolerance =
        accumulate_tolerance_ * want.magnitude + output_epsilon * std::abs(want.value) + smallest;
    const bool same = got == want.value || (std::isnan(got) && std::isnan(want.value));
    if (same || std::abs(got - want.value) <= tolerance) return;
    std::printf("%s: %s(%lld, %lld) is %.9g, expected %.9g within %.3g\n", description_.c_str(), what,
                static_cast<long long>(row), static_cast<long long>(column), got, want.value, tolerance);
    std::exit(1);
  }

  // A plain (rows, columns) matrix.
  template <typename T>
  void near(const char* what, const Buffer<T>& got, const std::vector<Expected>& want,
            int64_t columns) const {
    require(got.size() == static_cast<int64_t>(want.size()), what, got.size());
    for (int64_t i = 0; i < got.size(); ++i) {
      near(what, i / columns, i % columns, got[i], want[i], Type<T>::epsilon);
    }
  }

  void require(bool condition, const char* what, int64_t place) const {
    if (condition) return;
    std::printf("%s: %s, element %lld\n", description_.c_str(), what, static_cast<long long>(place));
    std::exit(1);
  }

 private:
  Checker(std::string description, double accumulate_tolerance)
      : description_(std::move(description)), accumulate_tolerance_(accumulate_tolerance) {}

  std::string description_;
  double accumulate_tolerance_;
};

// Elements from the first to the last one that `rows` of `columns` have in this layout.
inline int64_t extent(const RowLayout& layout, int64_t rows, int64_t columns) {
  return rows && columns ? layout.offset(rows - 1, columns - 1) + 1 : 0;
}

// A plain matrix, rows further apart than they are long, or runs with gaps between them.
inline RowLayout random_layout(Random& random, int64_t columns) {
  if (columns > 1 && random.chance(40)) {
    const int64_t run = random.integer(1, columns - 1), run_stride = run + random.integer(1, 9);
    return {(columns + run - 1) / run * run_stride + random.integer(0, 5), run, run_stride};
  }
  return {columns + (random.chance(50) ? random.integer(1, 9) : 0), std::max<int64_t>(columns, 1), 0};
}

// Sets the elements that belong to the matrix; what lies between stays NaN.
template <typename T>
void fill_random(Buffer<T>& buffer, const RowLayout& layout, int64_t rows, int64_t columns, Random& random) {
  for (int64_t n = 0; n < rows; ++n) {
    for (int64_t c = 0; c < columns; ++c) buffer.set(layout.offset(n, c), random.uniform(-2, 2));
  }
}

// The part of the matrix is as expected (n * columns + c), and nothing else was written.
template <typename T>
void check_part(const Checker& checker, const char* what, const Buffer<T>& buffer, const RowLayout& layout,
                Range rows, Range columns, int64_t all_columns, const std::vector<Expected>& want) {
  std::vector<bool> inside(buffer.size());
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    for (int64_t c = columns.begin; c < columns.end; ++c) {
      const int64_t place = layout.offset(n, c);
      inside[place] = true;
      checker.near(what, n, c, buffer[place], want[n * all_columns + c], Type<T>::epsilon);
    }
  }
  for (int64_t i = 0; i < buffer.size(); ++i) {
    checker.require(inside[i] || buffer.untouched(i), "written outside of its part", i);
  }
}
