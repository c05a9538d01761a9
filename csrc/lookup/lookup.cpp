// lookup: the global and the local lookup written side by side into one buffer, which is the fusion
// network's input [global, local] in channels_last memory; nothing is concatenated.
#include <ATen/ops/empty.h>

#include "common/checks.h"
#include "common/device.h"
#include "interpolate/interpolate_host.h"
#include "project/project_host.h"

namespace grad {

namespace {

std::tuple<at::Tensor, at::Tensor> lookup(const at::Tensor& global_coords, const at::Tensor& global_grid,
                                          const at::Tensor& hidden, const at::Tensor& weight,
                                          const at::Tensor& bias, const at::Tensor& grid,
                                          const std::optional<at::Tensor>& jitter_state,
                                          double jitter_probability, double jitter_std, bool jitter_per_batch,
                                          bool align_corners, bool border) {
  const ProjectInputs inputs{
      hidden,     weight,           bias,          grid,   jitter_state, jitter_probability,
      jitter_std, jitter_per_batch, align_corners, border, "local_grid"};
  make_lattice(global_grid, align_corners, border, "global_grid");
  check_coords(global_coords, "global_coords", global_grid, "global_grid");
  check_project(inputs);
  check_type_pair(hidden, "hidden", global_grid, "global_grid");
  check_same_device(global_grid, "global_grid", hidden, "hidden");
  const int64_t rows = hidden.size(0), channels = grid.size(-1), images = global_coords.size(0);
  const bool whole_images = images == 0 ? rows == 0 : rows % images == 0;
  check_shape(whole_images && images * global_grid.size(-1) == rows * channels, global_grid, "global_grid",
              "(..., P * C) with P = N / B pixels of C channels: " + std::to_string(images) +
                  " images, hidden " + describe(hidden) + ", local_grid " + describe(grid));
  const c10::DeviceGuard guard(hidden.device());
  const at::Tensor out = at::empty({rows, 2 * channels}, hidden.options());
  if (rows > 0 && channels > 0) {
    const int64_t pixels = rows / images;
    interpolate_into(global_coords, global_grid, align_corners, border, out,
                     RowLayout{pixels * 2 * channels, channels, 2 * channels});
  }
  return {out, project_into(inputs, out.narrow(1, channels, channels))};
}

void register_lookup(torch::Library& library) { library.impl("lookup", &lookup); }

}  // namespace

GRAD_REGISTER(register_lookup)

}  // namespace grad
