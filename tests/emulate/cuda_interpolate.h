// Lookups by the launchers of CUDA kernels: with the plan for their sizes, with plans for larger ones, and in
// both ways of grids that are too large.
#pragma once

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "device.h"
#include "interpolate/interpolate.h"

template <typename Device>
struct CudaInterpolate {
  template <int D, typename Case>
  static void interpolate_forward(const Case& c, const RowLayout& layout, const std::vector<Expected>& want) {
    Buffer<Device, typename Case::Value> out(extent(layout, c.rows(), c.columns()), c.shift());
    InOrders(c.checker(), c.random(), "forward").output(out, "out").run([&] {
      grad::interpolate_forward_cuda<D>(c.forward_args(layout, out.get()), c.rows(), nullptr);
    });
    c.checker().part_near("out", out, layout, {0, c.rows()}, {0, c.columns()}, c.columns(), want);
  }

  template <int D, typename Case>
  static void interpolate_backward(const Case& c, const typename Case::Backward& backward) {
    if (!backward.need_grid && !backward.need_coords) return;
    const auto want = c.gradients(backward, {0, c.rows()}, {0, c.columns()});
    const grad::ColumnPlan plan = grad::plan_columns_cuda<D>(backward.args, c.rows());
    if (plan.fits) by_columns<D>(c, backward, plan, want);
    if (plan.fits && c.rows() > 0 && c.cells() <= kManyCells)
      by_columns<D>(c, backward, forced<D>(c, plan), want);
    atomically<D>(c, backward, want);
    if (backward.need_grid && !backward.need_coords && c.cells() <= kManyCells) sorted<D>(c, backward, want);
  }

  // What fits in shared memory.
  template <typename T, typename G>
  static std::vector<int> interpolate_limits() {
    return around_largest([](int cells) {
      const grad::InterpolateBackward<T, G> args{nullptr,   nullptr, nullptr,
                                                 {1, 1, 0}, 1,       {{cells, 1, 1, 1}, false, false}};
      return grad::plan_columns_cuda<1>(args, 40).fits;
    });
  }

 private:
  // Beyond this, what takes a block or more a cell takes long.
  static constexpr int64_t kManyCells = 1 << 14;

  // More blocks over the rows, or narrow ones over the columns, than such sizes get.
  template <int D, typename Case>
  static grad::ColumnPlan forced(const Case& c, grad::ColumnPlan plan) {
    plan.splits = c.random().integer(1, 5);
    plan.tile_rows = static_cast<int>(c.random().integer(1, plan.tile_rows));
    if (c.columns() == 0 || c.random().chance(50)) return plan;
    const int64_t fewer_bytes = plan.shared_bytes / (plan.threads / 32);
    const int64_t columns = std::min<int64_t>(32 * plan.width, c.columns());
    plan.shared_bytes = std::max<int64_t>(
        fewer_bytes, plan.shared_bytes - sizeof(typename Case::A) * c.cells() * (plan.columns - columns));
    plan.threads = 32;
    plan.columns = static_cast<int>(columns);
    plan.slices = (c.columns() + columns - 1) / columns;
    return plan;
  }

  template <int D, typename Case>
  static void by_columns(const Case& c, const typename Case::Backward& backward, const grad::ColumnPlan& plan,
                         const typename Case::Gradients& want) {
    using A = typename Case::A;
    Buffer<Device, typename Case::Parameter> grad_grid(backward.need_grid ? c.cells() * c.columns() : 0,
                                                       c.shift());
    Buffer<Device, A> grad_coords(backward.need_coords ? c.rows() * D : 0);
    Buffer<Device, A> of_grid(plan.grid_workspace(grad_grid.size()));
    Buffer<Device, A> of_coords(plan.coords_workspace(grad_coords.size()));
    const std::string what = "backward by columns, " + std::to_string(plan.threads) + " threads, " +
                             std::to_string(plan.slices) + " slices, " + std::to_string(plan.splits) +
                             " splits";
    InOrders(c.checker(), c.random(), what)
        .output(grad_grid, "grad_grid")
        .output(grad_coords, "grad_coords")
        .run([&] {
          of_grid.forget();
          of_coords.forget();
          grad::interpolate_backward_columns_cuda<D>(
              backward.args, plan, c.rows(), backward.need_grid ? grad_grid.get() : nullptr,
              backward.need_coords ? grad_coords.get() : nullptr, of_grid.get(), of_coords.get(), nullptr);
        });
    if (backward.need_grid) c.checker().near("grad_grid by columns", grad_grid, want.grid, c.columns());
    if (backward.need_coords) c.checker().near("grad_coords by columns", grad_coords, want.coords, D);
  }

  // Sums depend on the order of threads, within rounding.
  template <int D, typename Case>
  static void atomically(const Case& c, const typename Case::Backward& backward,
                         const typename Case::Gradients& want) {
    using A = typename Case::A;
    Buffer<Device, A> sums(backward.need_grid ? c.cells() * c.columns() : 0);
    Buffer<Device, A> grad_coords(backward.need_coords ? c.rows() * D : 0);
    in_each_order(c.random(), c.checker().description() + ", atomic backward", [&](int) {
      sums.fill(0);
      grad_coords.forget();
      grad::interpolate_backward_atomic_cuda<D>(backward.args, c.rows(),
                                                backward.need_grid ? sums.get() : nullptr,
                                                backward.need_coords ? grad_coords.get() : nullptr, nullptr);
      if (backward.need_grid) c.checker().near("sums, atomic", sums, want.grid, c.columns());
      if (backward.need_coords) c.checker().near("grad_coords, atomic", grad_coords, want.coords, D);
    });
  }

  // The sort between the two launches is the host's.
  template <int D, typename Case>
  static void sorted(const Case& c, const typename Case::Backward& backward,
                     const typename Case::Gradients& want) {
    Buffer<Device, int> corner_cells(c.rows() << D);
    InOrders(c.checker(), c.random(), "corner cells").output(corner_cells, "corner_cells").run([&] {
      grad::corner_cells_cuda<D>(backward.args, c.rows(), corner_cells.get(), nullptr);
    });
    const int* cell_of = corner_cells.get();
    std::vector<int64_t> sequence(c.rows() << D);
    std::iota(sequence.begin(), sequence.end(), 0);
    std::stable_sort(sequence.begin(), sequence.end(),
                     [&](int64_t a, int64_t b) { return cell_of[a] < cell_of[b]; });
    Buffer<Device, int64_t> order(c.rows() << D), begin(c.cells() + 1);
    for (size_t i = 0; i < sequence.size(); ++i) order.put(i, sequence[i]);
    for (int64_t cell = 0; cell <= c.cells(); ++cell) {
      const auto at = std::lower_bound(sequence.begin(), sequence.end(), cell,
                                       [&](int64_t i, int64_t value) { return cell_of[i] < value; });
      begin.put(cell, at - sequence.begin());
    }
    Buffer<Device, typename Case::Parameter> grad_grid(c.cells() * c.columns(), c.shift());
    InOrders(c.checker(), c.random(), "sorted backward").output(grad_grid, "grad_grid").run([&] {
      grad::interpolate_backward_sorted_cuda<D>(backward.args, order.get(), begin.get(), grad_grid.get(),
                                                nullptr);
    });
    c.checker().near("grad_grid, sorted", grad_grid, want.grid, c.columns());
  }
};
