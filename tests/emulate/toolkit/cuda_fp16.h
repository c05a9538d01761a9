// In the place of CUDA's header of this name: halves, with the compiler's own conversions.
#pragma once

#include "cuda_runtime.h"

struct __half {
  _Float16 value;
};

__forceinline__ __half __ushort_as_half(unsigned short bits) { return {__builtin_bit_cast(_Float16, bits)}; }
__forceinline__ unsigned short __half_as_ushort(__half half) {
  return __builtin_bit_cast(unsigned short, half.value);
}
__forceinline__ float __half2float(__half half) { return static_cast<float>(half.value); }
__forceinline__ __half __float2half_rn(float value) { return {static_cast<_Float16>(value)}; }
