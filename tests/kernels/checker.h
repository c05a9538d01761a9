// What a result should be, and the comparison with it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "buffer.h"
#include "layouts.h"
#include "numbers.h"
#include "random.h"

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
  // A is the type of sums. A position along the longest axis of a grid has an error relative to the axis.
  template <typename A>
  static Checker of(std::string description, int64_t longest_axis = 1) {
    const double of_sums = std::is_same_v<A, double> ? 1e-11 : 3e-5;
    return Checker(std::move(description),
                   std::max(of_sums, 4 * Type<A>::epsilon * static_cast<double>(longest_axis)));
  }

  const std::string& description() const { return description_; }

  void near(const char* what, int64_t row, int64_t column, double got, const Expected& want,
            double output_epsilon) const {
    const double smallest = output_epsilon == Type<grad::Half>::epsilon ? 0x1p-24 : 0;  // subnormal step
    const double tolerance =
        accumulate_tolerance_ * want.magnitude + output_epsilon * std::abs(want.value) + smallest;
    const bool same = got == want.value || (std::isnan(got) && std::isnan(want.value));
    if (same || std::abs(got - want.value) <= tolerance) return;
    std::printf("wrong result: %s: %s(%lld, %lld) is %.9g, expected %.9g within %.3g\n", description_.c_str(),
                what, static_cast<long long>(row), static_cast<long long>(column), got, want.value,
                tolerance);
    std::exit(1);
  }

  // A plain (rows, columns) matrix.
  template <typename Memory, typename T>
  void near(const char* what, const Buffer<Memory, T>& got, const std::vector<Expected>& want,
            int64_t columns) const {
    require(got.size() == static_cast<int64_t>(want.size()), what, got.size());
    for (int64_t i = 0; i < got.size(); ++i) {
      near(what, i / columns, i % columns, got[i], want[i], Type<T>::epsilon);
    }
  }

  // The part of a matrix is as expected (n * columns + c), and nothing else was written.
  template <typename Memory, typename T>
  void part_near(const char* what, const Buffer<Memory, T>& buffer, const RowLayout& layout, Range rows,
                 Range columns, int64_t all_columns, const std::vector<Expected>& want) const {
    std::vector<bool> inside(buffer.size());
    for (int64_t n = rows.begin; n < rows.end; ++n) {
      for (int64_t c = columns.begin; c < columns.end; ++c) {
        const int64_t place = layout.offset(n, c);
        inside[place] = true;
        near(what, n, c, buffer[place], want[n * all_columns + c], Type<T>::epsilon);
      }
    }
    for (int64_t i = 0; i < buffer.size(); ++i) {
      require(inside[i] || buffer.untouched(i), "written outside of its part", i);
    }
  }

  void require(bool condition, const char* what, int64_t place) const {
    if (condition) return;
    std::printf("wrong result: %s: %s, element %lld\n", description_.c_str(), what,
                static_cast<long long>(place));
    std::exit(1);
  }

 private:
  Checker(std::string description, double accumulate_tolerance)
      : description_(std::move(description)), accumulate_tolerance_(accumulate_tolerance) {}

  std::string description_;
  double accumulate_tolerance_;
};
