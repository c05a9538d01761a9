// Scalar types that the CPU and the CUDA kernels share, without a torch header.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define GRAD_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define GRAD_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace grad {

// The bits of an IEEE half and of a bfloat16, laid out as in a torch tensor.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// Coordinates, weights and sums are float32, and float64 for float64 features.
template <typename T>
using Accumulate = std::conditional_t<std::is_same_v<T, double>, double, float>;

GRAD_HOST_DEVICE uint32_t float_to_bits(float value) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(value);
#else
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
#endif
}

GRAD_HOST_DEVICE float bits_to_float(uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
#endif
}

// a * b, rounded before anything is added to it, so that kernels that compute the same get the same.
GRAD_HOST_DEVICE float separate_product(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
GRAD_HOST_DEVICE double separate_product(double a, double b) {
#ifdef __CUDA_ARCH__
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

// a * b + c, rounded once on a GPU; a CPU may round the product too.
GRAD_HOST_DEVICE float multiply_add(float a, float b, float c) {
#ifdef __CUDA_ARCH__
  return __fmaf_rn(a, b, c);
#else
  return a * b + c;
#endif
}
GRAD_HOST_DEVICE double multiply_add(double a, double b, double c) {
#ifdef __CUDA_ARCH__
  return __fma_rn(a, b, c);
#else
  return a * b + c;
#endif
}

GRAD_HOST_DEVICE float load(float value) { return value; }
GRAD_HOST_DEVICE double load(double value) { return value; }

GRAD_HOST_DEVICE float load(BFloat16 value) { return bits_to_float(uint32_t{value.bits} << 16); }

GRAD_HOST_DEVICE float load(Half value) {
#ifdef __CUDA_ARCH__
  return __half2float(__ushort_as_half(value.bits));
#else
  // Shifted into a float's place, exponent and mantissa are off by 2^112 in scale, subnormals
  // included; infinities and NaN need the float's own largest exponent. No branch: loops over it
  // become vector code.
  const uint32_t magnitude = uint32_t{value.bits & 0x7FFFu} << 13;
  const uint32_t scaled = float_to_bits(bits_to_float(magnitude) * 0x1p112f);
  const uint32_t special = magnitude | 0x7F800000u;
  const uint32_t sign = uint32_t{value.bits & 0x8000u} << 16;
  return bits_to_float(sign | (magnitude >= 0x0F800000u ? special : scaled));
#endif
}

// Stores round to nearest even.
GRAD_HOST_DEVICE void store(float* place, float value) { *place = value; }
GRAD_HOST_DEVICE void store(double* place, double value) { *place = value; }

GRAD_HOST_DEVICE void store(BFloat16* place, float value) {
  const uint32_t bits = float_to_bits(value);
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t nan = (bits >> 16) | 0x40u;
  place->bits = static_cast<uint16_t>((bits & 0x7FFFFFFFu) > 0x7F800000u ? nan : rounded);
}

GRAD_HOST_DEVICE void store(Half* place, float value) {
#ifdef __CUDA_ARCH__
  place->bits = __half_as_ushort(__float2half_rn(value));
#else
  const uint32_t bits = float_to_bits(value);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  // Normal: re-bias the exponent by -112 and round the 13 bits that go. Subnormal: adding 0.5
  // aligns the mantissa with 2^-24, the float unit rounds. From 65520 on: infinity.
  const uint32_t normal = (magnitude - 0x38000000u + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13;
  const uint32_t subnormal = float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3F000000u;
  uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
  half = magnitude >= 0x477FF000u ? 0x7C00u : half;
  half = magnitude > 0x7F800000u ? 0x7E00u : half;
  place->bits = static_cast<uint16_t>(half | ((bits >> 16) & 0x8000u));
#endif
}

}  // namespace grad
