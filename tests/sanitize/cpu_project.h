// The fused local head on the CPU: in parts of the rows, as csrc/project/project.cpp cuts them and any
// others.
#pragma once

#include <vector>

#include "checker.h"
#include "common/partition.h"
#include "heap.h"
#include "jitter/jitter.h"
#include "project/project.h"

template <typename Device>
struct CpuProject {
  template <int D, typename Case>
  static void project_activations(const Case& c, Buffer<Device, typename Case::A>& activations) {
    Buffer<Device, typename Case::Value> out(c.rows() * c.columns());
    in_random_parts(c.random(), c.rows(), [&](Range rows) {
      grad::project_forward_cpu<D>(c.args(), out.get(), c.columns(), activations.get(), rows,
                                   c.random().chance(50));
    });
  }

  template <int D, typename Case>
  static void jitter_noise(const Case& c, Buffer<Device, float>& noise) {
    grad::jitter_noise_cpu<D>(c.args().jitter, noise.get(), {0, c.rows()});
  }

  template <int D, typename Case>
  static void project_forward(const Case& c, const RowLayout& layout, const std::vector<Expected>& want) {
    Buffer<Device, typename Case::Value> out(extent(layout, c.rows(), c.columns()), c.shift());
    Buffer<Device, typename Case::A> activations(c.rows() * D);
    const auto forward = [&](Range rows) {
      grad::project_forward_cpu<D>(c.args(), out.get(), layout.row_stride, activations.get(), rows,
                                   c.random().chance(50));
    };
    in_random_parts(c.random(), c.rows(), forward);
    c.checker().part_near("out", out, layout, {0, c.rows()}, {0, c.columns()}, c.columns(), want);

    out.forget();
    const Range rows = c.random().part(c.rows());
    forward(rows);
    c.checker().part_near("part of out", out, layout, rows, {0, c.columns()}, c.columns(), want);
  }

  // Each part of the rows with sums of its own, added up at the end.
  template <int D, typename Case>
  static void project_backward(const Case& c, const typename Case::Backward& backward) {
    using A = typename Case::A;
    const grad::Partition parts = grad::backward_rows(c.rows(), c.cells());
    const int64_t sizes[] = {D * c.hidden_columns(), D, c.cells() * c.columns()};
    Buffer<Device, typename Case::Value> grad_hidden(c.rows() * c.hidden_columns(), c.shift());
    Buffer<Device, A> grad_weight(parts.count() * sizes[0]), grad_bias(parts.count() * sizes[1]),
        grad_grid(parts.count() * sizes[2]);
    for (Buffer<Device, A>* sums : {&grad_weight, &grad_bias, &grad_grid}) sums->fill(0);
    for (int64_t part = 0; part < parts.count(); ++part) {
      const grad::ProjectGradients<typename Case::Value> gradients{
          backward.need_hidden ? grad_hidden.get() : nullptr,
          backward.need_weight ? grad_weight.get() + part * sizes[0] : nullptr,
          backward.need_bias ? grad_bias.get() + part * sizes[1] : nullptr, grad_grid.get() + part * sizes[2],
          c.random().chance(50)};
      if (backward.grad_coords) {
        grad::project_head_backward_cpu<D>(c.args(), backward.activations, backward.grad_coords, parts[part],
                                           gradients);
      } else {
        grad::project_backward_cpu<D>(c.args(), backward.activations, backward.grad_out,
                                      backward.grad_out_stride, parts[part], gradients);
      }
    }
    Buffer<Device, A> weight(sizes[0]), bias(sizes[1]);
    Buffer<Device, typename Case::Parameter> grid(sizes[2]);
    grad::sum_parts(grad_weight.get(), parts.count(), sizes[0], {0, sizes[0]}, weight.get());
    grad::sum_parts(grad_bias.get(), parts.count(), sizes[1], {0, sizes[1]}, bias.get());
    grad::sum_parts(grad_grid.get(), parts.count(), sizes[2], {0, sizes[2]}, grid.get());
    const Checker& checker = c.checker();
    if (backward.need_hidden)
      checker.near("grad_hidden", grad_hidden, backward.want_hidden, c.hidden_columns());
    if (backward.need_weight) checker.near("grad_weight", weight, backward.want_weight, c.hidden_columns());
    if (backward.need_bias) checker.near("grad_bias", bias, backward.want_bias, D);
    if (backward.need_grid) checker.near("grad_grid", grid, backward.want_grid, c.columns());
  }

  // Grids of any size go the same way.
  template <typename T, typename G>
  static std::vector<int> project_limits() {
    return {};
  }
};
