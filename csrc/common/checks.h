// What host code needs of torch: argument checks whose text says what was expected and what came,
// and the step from run-time types to template arguments.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <sstream>
#include <string>

#include "common/lattice.h"
#include "common/scalar.h"

namespace grad {

// "float32", as Python names it.
inline std::string name_of(at::ScalarType type) {
  switch (type) {
    case at::kHalf:
      return "float16";
    case at::kBFloat16:
      return "bfloat16";
    case at::kFloat:
      return "float32";
    case at::kDouble:
      return "float64";
    case at::kLong:
      return "int64";
    case at::kInt:
      return "int32";
    case at::kBool:
      return "bool";
    case at::kComplexFloat:
      return "complex64";
    case at::kComplexDouble:
      return "complex128";
    default:
      return c10::toString(type);
  }
}

// "(12544, 216) float32 on cpu"
inline std::string describe(const at::Tensor& tensor) {
  std::ostringstream text;
  text << "(";
  for (int64_t i = 0; i < tensor.dim(); ++i) text << (i ? ", " : "") << tensor.size(i);
  text << (tensor.dim() == 1 ? ",) " : ") ") << name_of(tensor.scalar_type()) << " on " << tensor.device();
  return text.str();
}

// Each check names the argument as its caller knows it, what was expected, and what came.
inline void check_shape(bool fits, const at::Tensor& tensor, const char* name, const std::string& expected) {
  TORCH_CHECK_VALUE(fits, name, " must be ", expected, ", got ", describe(tensor));
}

inline void check_same_device(const at::Tensor& tensor, const char* name, const at::Tensor& other,
                              const char* other_name) {
  TORCH_CHECK_VALUE(tensor.device() == other.device(), name, " must be on the device of ", other_name, ", ",
                    other.device(), ", got ", describe(tensor));
}

inline bool is_supported(at::ScalarType type) {
  return type == at::kHalf || type == at::kBFloat16 || type == at::kFloat || type == at::kDouble;
}

inline void check_floating(const at::Tensor& tensor, const char* name) {
  TORCH_CHECK_TYPE(is_supported(tensor.scalar_type()), name,
                   " must be float16, bfloat16, float32 or float64, got ", describe(tensor));
}

// Parameters have the type of the values, or stay float32 under 16-bit values (autocast).
inline void check_type_pair(const at::Tensor& values, const char* values_name, const at::Tensor& parameters,
                            const char* parameters_name) {
  const at::ScalarType value = values.scalar_type(), parameter = parameters.scalar_type();
  const bool mixed = (value == at::kHalf || value == at::kBFloat16) && parameter == at::kFloat;
  TORCH_CHECK_TYPE(
      is_supported(value) && (parameter == value || mixed), values_name, " and ", parameters_name,
      " must have the same type, float16, bfloat16, float32 or float64, or be 16 bit and float32; got ",
      name_of(value), " and ", name_of(parameter));
}

inline at::ScalarType accumulate_type(at::ScalarType type) {
  return type == at::kDouble ? at::kDouble : at::kFloat;
}

inline Lattice make_lattice(const at::Tensor& grid, bool align_corners, bool border,
                            const char* name = "grid") {
  Lattice lattice{{1, 1, 1, 1}, align_corners, border};
  const int64_t dims = grid.dim() - 1;
  TORCH_CHECK_VALUE(dims >= 1 && dims <= kMaxDims, name, " must be (R_D, ..., R_1, C) with 1 to ", kMaxDims,
                    " spatial axes, got ", describe(grid));
  int64_t cells = 1;
  for (int64_t j = 0; j < dims; ++j) {
    const int64_t size = grid.size(dims - 1 - j);
    TORCH_CHECK_VALUE(size >= 1, name, " must have at least one cell along each axis, got ", describe(grid));
    cells *= size;
    TORCH_CHECK_VALUE(cells <= kMaxCells, name, " must have at most ", kMaxCells, " cells, got ",
                      describe(grid));
    lattice.size[j] = static_cast<int>(size);
  }
  constexpr int64_t kMaxColumns = 65535 * 256;  // blocks of a launch's second axis
  TORCH_CHECK_VALUE(grid.size(-1) <= kMaxColumns, name, " must have at most ", kMaxColumns, " columns, got ",
                    describe(grid));
  return lattice;
}

// Calls body(values, parameters), null pointers whose types are the scalars of a pair that
// check_type_pair has let through.
template <typename Body>
void dispatch_types(at::ScalarType values, at::ScalarType parameters, Body&& body) {
  constexpr float* kFloat = nullptr;
  constexpr double* kDouble = nullptr;
  constexpr Half* kHalf = nullptr;
  constexpr BFloat16* kBFloat16 = nullptr;
  const bool mixed = values != parameters;
  switch (values) {
    case at::kFloat:
      return body(kFloat, kFloat);
    case at::kDouble:
      return body(kDouble, kDouble);
    case at::kHalf:
      return mixed ? body(kHalf, kFloat) : body(kHalf, kHalf);
    case at::kBFloat16:
      return mixed ? body(kBFloat16, kFloat) : body(kBFloat16, kBFloat16);
    default:
      TORCH_INTERNAL_ASSERT(false, "unchecked type ", values);
  }
}

template <typename T>
T* data(const at::Tensor& tensor) {
  return tensor.defined() ? static_cast<T*>(tensor.data_ptr()) : nullptr;
}

// The same rows with adjacent columns, which is what the kernels read; a copy only where needed.
inline at::Tensor with_adjacent_columns(const at::Tensor& matrix) {
  return matrix.stride(-1) == 1 || matrix.size(-1) <= 1 ? matrix : matrix.contiguous();
}

}  // namespace grad
