// Lookups on the CPU: whole, cut as csrc/interpolate/interpolate.cpp cuts them, and any other part.
#pragma once

#include <numeric>
#include <utility>
#include <vector>

#include "checker.h"
#include "common/lines.h"
#include "common/partition.h"
#include "common/write_past_caches.h"
#include "heap.h"
#include "interpolate/interpolate.h"

template <typename Device>
struct CpuInterpolate {
  template <int D, typename Case>
  static void interpolate_forward(const Case& c, const RowLayout& layout, const std::vector<Expected>& want) {
    Buffer<Device, typename Case::Value> out(extent(layout, c.rows(), c.columns()), c.shift());
    auto args = c.forward_args(layout, out.get());
    args.past_caches = c.random().chance(50);
    const grad::Partition column_parts = grad::forward_columns(c.columns());
    const grad::Partition row_parts = grad::forward_rows(c.rows(), column_parts.width);
    for (int64_t i = 0; i < column_parts.count(); ++i) {
      for (int64_t j = 0; j < row_parts.count(); ++j) {
        grad::interpolate_forward_cpu<D>(args, row_parts[j], column_parts[i]);
      }
    }
    c.checker().part_near("out", out, layout, {0, c.rows()}, {0, c.columns()}, c.columns(), want);

    out.forget();
    const Range rows = c.random().part(c.rows()), columns = c.random().part(c.columns());
    grad::interpolate_forward_cpu<D>(args, rows, columns);
    c.checker().part_near("part of out", out, layout, rows, columns, c.columns(), want);
  }

  template <int D, typename Case>
  static void interpolate_backward(const Case& c, const typename Case::Backward& backward) {
    using A = typename Case::A;
    const auto want = c.gradients(backward, {0, c.rows()}, {0, c.columns()});
    const grad::Partition row_parts = grad::backward_rows(c.rows(), c.cells());
    if (row_parts.count() > 1 || c.columns() == 0) by_rows<D>(c, backward, row_parts, want);
    by_columns<D>(c, backward, want);

    const Range rows = c.random().part(c.rows()), columns = c.random().part(c.columns());
    Buffer<Device, A> grad_grid(c.cells() * columns.size()), grad_coords(c.rows() * D);
    grad_grid.fill(0);
    grad::interpolate_backward_cpu<D>(backward.args, rows, columns,
                                      backward.need_grid ? grad_grid.get() : nullptr, columns.size(),
                                      backward.need_coords ? grad_coords.get() : nullptr);
    const auto part = c.gradients(backward, rows, columns);
    if (backward.need_grid) c.checker().near("part of grad_grid", grad_grid, part.grid, columns.size());
    c.checker().part_near("part of grad_coords", grad_coords, {D, D, 0},
                          backward.need_coords ? rows : Range{0, 0}, {0, D}, D, part.coords);
  }

  // Grids of any size go the same way.
  template <typename T, typename G>
  static std::vector<int> interpolate_limits() {
    return {};
  }

 private:
  // Each part of the rows sums into a gradient of the grid of its own.
  template <int D, typename Case>
  static void by_rows(const Case& c, const typename Case::Backward& backward, const grad::Partition& parts,
                      const typename Case::Gradients& want) {
    using A = typename Case::A;
    const int64_t size = c.cells() * c.columns();
    Buffer<Device, A> sums(parts.count() * size), grad_coords(c.rows() * D);
    Buffer<Device, typename Case::Parameter> grad_grid(size);
    sums.fill(0);
    for (int64_t part = 0; part < parts.count(); ++part) {
      grad::interpolate_backward_cpu<D>(backward.args, parts[part], {0, c.columns()},
                                        backward.need_grid ? sums.get() + part * size : nullptr, c.columns(),
                                        backward.need_coords ? grad_coords.get() : nullptr);
    }
    grad::sum_parts(sums.get(), parts.count(), size, {0, size}, grad_grid.get());
    if (backward.need_grid) c.checker().near("grad_grid by rows", grad_grid, want.grid, c.columns());
    if (backward.need_coords) c.checker().near("grad_coords by rows", grad_coords, want.coords, D);
  }

  // Each part owns some columns of the grid's gradient, and has a share in each coordinate's gradient.
  template <int D, typename Case>
  static void by_columns(const Case& c, const typename Case::Backward& backward,
                         const typename Case::Gradients& want) {
    using A = typename Case::A;
    std::vector<int> order(c.rows());
    std::iota(order.begin(), order.end(), 0);
    for (int64_t i = c.rows() - 1; i > 0; --i) std::swap(order[i], order[c.random().integer(0, i)]);
    auto args = backward.args;
    if (c.random().chance(50)) args.order = order.data();
    const grad::Partition parts = grad::backward_columns(c.columns(), c.cells());
    const int64_t pitch = grad::apart<A>(parts.width), share = c.rows() * D;
    Buffer<Device, typename Case::Parameter> grad_grid(c.cells() * c.columns());
    Buffer<Device, A> shares(parts.count() * share), grad_coords(share);
    for (int64_t part = 0; part < parts.count(); ++part) {
      const Range columns = parts[part];
      Buffer<Device, A> sums(c.cells() * pitch);
      sums.fill(0);
      grad::interpolate_backward_cpu<D>(args, {0, c.rows()}, columns,
                                        backward.need_grid ? sums.get() : nullptr, pitch,
                                        backward.need_coords ? shares.get() + part * share : nullptr);
      for (int64_t cell = 0; cell < c.cells(); ++cell) {
        grad::write_past_caches(grad_grid.get() + cell * c.columns() + columns.begin,
                                sums.get() + cell * pitch, columns.size());
      }
    }
    grad::finish_writes();
    grad::sum_parts(shares.get(), parts.count(), share, {0, share}, grad_coords.get());
    if (backward.need_grid) c.checker().near("grad_grid by columns", grad_grid, want.grid, c.columns());
    if (backward.need_coords && c.columns()) {
      c.checker().near("grad_coords by columns", grad_coords, want.coords, D);
    }
  }
};
