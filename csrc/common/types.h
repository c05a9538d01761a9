// The combinations of value and parameter types that the kernels exist for, in one place: parameters
// have the features' type, or stay float32 under 16-bit features (autocast).
#pragma once

#include "common/scalar.h"

#define GRAD_FOR_EACH_TYPE_PAIR(X)  \
  X(float, float)                   \
  X(double, double)                 \
  X(grad::Half, grad::Half)         \
  X(grad::BFloat16, grad::BFloat16) \
  X(grad::Half, float)              \
  X(grad::BFloat16, float)

#define GRAD_FOR_EACH_DIM(X, ...) \
  X(1, __VA_ARGS__)               \
  X(2, __VA_ARGS__)               \
  X(3, __VA_ARGS__)               \
  X(4, __VA_ARGS__)
