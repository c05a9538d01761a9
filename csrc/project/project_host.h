// The parts of project that other operators' host code uses.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace grad {

// The operator's arguments, as in the schema.
struct ProjectInputs {
  const at::Tensor& hidden;                       // (N, Ch)
  const at::Tensor& weight;                       // (D, Ch)
  const at::Tensor& bias;                         // (D,)
  const at::Tensor& grid;                         // (R_D, ..., R_1, C)
  const std::optional<at::Tensor>& jitter_state;  // (2,) or (3,) int64: seed, offset, first row
  double jitter_probability;
  double jitter_std;
  bool jitter_per_batch;
  bool align_corners;
  bool border;
  const char* grid_name = "grid";  // in messages
};

// Raises a ValueError or TypeError that names the argument that does not fit.
void check_project(const ProjectInputs& inputs);

// Writes project(...) into `out`, (N, C) with adjacent columns; rows may lie further apart. Returns the
// activations, (N, D) in the accumulation type.
at::Tensor project_into(const ProjectInputs& inputs, const at::Tensor& out);

}  // namespace grad
