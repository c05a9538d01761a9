// The fused local head by the launchers of CUDA kernels, with the plan for its sizes and with more blocks.
#pragma once

#include <string>
#include <vector>

#include "device.h"
#include "jitter/jitter.h"
#include "project/project.h"

template <typename Device>
struct CudaProject {
  template <int D, typename Case>
  static void project_activations(const Case& c, Buffer<Device, typename Case::A>& activations) {
    Buffer<Device, typename Case::Value> out(c.rows() * c.columns(), c.shift());
    emulate::set_case(c.checker().description() + ", activations");
    grad::project_forward_cuda<D>(c.args(), out.get(), c.columns(), activations.get(), c.rows(), nullptr);
    require_no_fault();
  }

  template <int D, typename Case>
  static void jitter_noise(const Case& c, Buffer<Device, float>& noise) {
    InOrders(c.checker(), c.random(), "jitter").output(noise, "noise").run([&] {
      grad::jitter_noise_cuda<D>(c.args().jitter, noise.get(), c.rows(), nullptr);
    });
  }

  template <int D, typename Case>
  static void project_forward(const Case& c, const RowLayout& layout, const std::vector<Expected>& want) {
    Buffer<Device, typename Case::Value> out(extent(layout, c.rows(), c.columns()), c.shift());
    Buffer<Device, typename Case::A> activations(c.rows() * D);
    InOrders(c.checker(), c.random(), "forward")
        .output(out, "out")
        .output(activations, "activations")
        .run([&] {
          grad::project_forward_cuda<D>(c.args(), out.get(), layout.row_stride, activations.get(), c.rows(),
                                        nullptr);
        });
    c.checker().part_near("out", out, layout, {0, c.rows()}, {0, c.columns()}, c.columns(), want);
  }

  template <int D, typename Case>
  static void project_backward(const Case& c, const typename Case::Backward& backward) {
    if (!backward.need_hidden && !backward.need_weight && !backward.need_bias && !backward.need_grid) return;
    Buffer<Device, typename Case::Value> grad_hidden(backward.need_hidden ? c.rows() * c.hidden_columns() : 0,
                                                     c.shift());
    grad::ProjectPlan plan = grad::plan_project_cuda<D>(c.args(), backward.grad_out, backward.grad_out_stride,
                                                        backward.need_hidden ? grad_hidden.get() : nullptr,
                                                        c.rows(), backward.need_grid);
    if (!plan.fits) return;
    in_parts<D>(c, backward, plan, grad_hidden);
    if (c.rows() == 0 || c.cells() > 1 << 14) return;  // many cells take long
    plan.parts = c.random().integer(1, 5);
    const int groups = static_cast<int>(c.random().integer(1, plan.groups));
    plan.threads = plan.threads / plan.groups * groups;
    plan.groups = groups;
    plan.tile_rows = static_cast<int>(c.random().integer(1, plan.tile_rows));
    in_parts<D>(c, backward, plan, grad_hidden);
  }

  // What fits in shared memory.
  template <typename T, typename G>
  static std::vector<int> project_limits() {
    return around_largest([](int cells) {
      const grad::ProjectArgs<T, G> args{
          nullptr, 1, nullptr, nullptr, nullptr, 1, 1, {{cells, 1, 1, 1}, false, false}, {}};
      return grad::plan_project_cuda<1>(args, static_cast<const T*>(nullptr), 1,
                                        static_cast<const T*>(nullptr), 40, true)
          .fits;
    });
  }

 private:
  template <int D, typename Case>
  static void in_parts(const Case& c, const typename Case::Backward& backward, const grad::ProjectPlan& plan,
                       Buffer<Device, typename Case::Value>& grad_hidden) {
    using A = typename Case::A;
    const int64_t grid_size = backward.need_grid ? c.cells() * c.columns() : 0;
    const int64_t weight_size = backward.need_weight ? D * c.hidden_columns() : 0;
    const int64_t bias_size = backward.need_bias ? D : 0;
    Buffer<Device, A> grad_weight(weight_size), grad_bias(bias_size);
    Buffer<Device, A> workspace(plan.parts * (grid_size + weight_size + bias_size));
    Buffer<Device, typename Case::Parameter> grad_grid(grid_size, c.shift());
    const std::string what = std::string(backward.grad_coords ? "head backward, " : "backward, ") +
                             std::to_string(plan.threads) + " threads, " + std::to_string(plan.groups) +
                             " groups, " + std::to_string(plan.tile_rows) + " rows a tile, " +
                             std::to_string(plan.parts) + " parts";
    InOrders(c.checker(), c.random(), what)
        .output(grad_hidden, "grad_hidden")
        .output(grad_weight, "grad_weight")
        .output(grad_bias, "grad_bias")
        .output(grad_grid, "grad_grid")
        .run([&] {
          workspace.forget();
          grad::project_backward_cuda<D>(c.args(), plan, backward.activations, backward.grad_out,
                                         backward.grad_out_stride, backward.grad_coords, c.rows(),
                                         {backward.need_hidden ? grad_hidden.get() : nullptr,
                                          backward.need_weight ? grad_weight.get() : nullptr,
                                          backward.need_bias ? grad_bias.get() : nullptr, nullptr},
                                         backward.need_grid ? grad_grid.get() : nullptr, workspace.get(),
                                         nullptr);
        });
    const Checker& checker = c.checker();
    if (backward.need_hidden)
      checker.near("grad_hidden", grad_hidden, backward.want_hidden, c.hidden_columns());
    if (backward.need_weight)
      checker.near("grad_weight", grad_weight, backward.want_weight, c.hidden_columns());
    if (backward.need_bias) checker.near("grad_bias", grad_bias, backward.want_bias, D);
    if (backward.need_grid) checker.near("grad_grid", grad_grid, backward.want_grid, c.columns());
  }
};
