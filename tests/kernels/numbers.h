// Types by their names and formats, and conversions by the definition of the format.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "common/scalar.h"

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
