// The parts of interpolate that other operators' host code uses.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

#include "common/rows.h"

namespace grad {

// Writes interpolate(coords, grid) into `out`, whose rows and columns lie as in `layout`.
void interpolate_into(const at::Tensor& coords, const at::Tensor& grid, bool align_corners, bool border,
                      const at::Tensor& out, const RowLayout& layout);

// Raises a ValueError or TypeError unless coords is a floating-point (N, D) for this grid, on its device.
void check_coords(const at::Tensor& coords, const char* name, const at::Tensor& grid, const char* grid_name);

// The operator interpolate_backward: (grad_coords, grad_grid), empty where not needed. grad_out may be
// (N, C), or (N, P, C / P) runs with adjacent columns.
std::tuple<at::Tensor, at::Tensor> interpolate_backward(const at::Tensor& grad_out, const at::Tensor& coords,
                                                        const at::Tensor& grid, bool align_corners,
                                                        bool border, bool need_coords, bool need_grid,
                                                        bool deterministic);

}  // namespace grad
