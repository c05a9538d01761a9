// interpolate: argument checks, allocation, and who computes which part.
#include "interpolate/interpolate.h"

#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <numeric>
#include <tuple>
#include <vector>

#include "common/checks.h"
#include "common/device.h"
#include "common/lines.h"
#include "common/partition.h"
#include "common/write_past_caches.h"
#include "interpolate/interpolate_host.h"

namespace grad {

void check_coords(const at::Tensor& coords, const char* name, const at::Tensor& grid, const char* grid_name) {
  check_shape(coords.dim() == 2 && coords.size(1) == grid.dim() - 1, coords, name,
              "(N, D) with D = " + std::to_string(grid.dim() - 1) + ", the spatial axes of " + grid_name);
  check_floating(coords, name);
  check_same_device(coords, name, grid, grid_name);
}

namespace {

// grad_out may be the (N, C) values' gradient, or (N, P, C / P) runs of it with adjacent columns.
RowLayout layout_of(const at::Tensor& values) {
  if (values.dim() == 2) return {values.stride(0), std::max<int64_t>(values.size(1), 1), 0};
  return {values.stride(0), std::max<int64_t>(values.size(2), 1), values.stride(1)};
}

template <int D, typename T, typename G>
void forward_cpu(const InterpolateForward<T, G>& args, int64_t rows) {
  const Partition column_parts = forward_columns(args.columns);
  const Partition row_parts = forward_rows(rows, column_parts.width);
  const int64_t parts = column_parts.count() * row_parts.count();
  at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      interpolate_forward_cpu<D>(args, row_parts[part % row_parts.count()],
                                 column_parts[part / row_parts.count()]);
    }
  });
}

// Each part of the rows sums into a gradient of the grid of its own.
template <int D, typename T, typename G>
void backward_cpu_by_rows(const InterpolateBackward<T, G>& args, const Partition& parts, int64_t cells,
                          G* grad_grid, Accumulate<T>* grad_coords) {
  using A = Accumulate<T>;
  const int64_t size = cells * args.columns;
  std::unique_ptr<A[]> sums(grad_grid ? new A[parts.count() * size] : nullptr);
  at::parallel_for(0, parts.count(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      A* own = sums ? &sums[part * size] : nullptr;
      if (own) std::fill_n(own, size, A{0});  // here, so that they are in this thread's cache
      interpolate_backward_cpu<D>(args, parts[part], {0, args.columns}, own, args.columns, grad_coords);
    }
  });
  if (grad_grid) {
    at::parallel_for(0, size, 4096, [&](int64_t begin, int64_t end) {
      sum_parts(sums.get(), parts.count(), size, {begin, end}, grad_grid);
    });
  }
}

// Rows in the order of their cells, so that those that follow each other find their corners in the
// cache; empty where there are more cells than rows, and neighbours would be rare.
template <int D, typename A>
std::vector<int> order_by_cell(const A* coords, int64_t rows, const Lattice& lattice) {
  const int64_t cells = key_count<D>(lattice);
  if (cells > rows || rows > std::numeric_limits<int>::max()) return {};
  std::vector<int64_t> keys(rows), begin(cells + 1);
  for (int64_t n = 0; n < rows; ++n) {
    keys[n] = cell_key(locate<A, D>(coords + n * D, lattice), lattice);
    ++begin[keys[n] + 1];
  }
  std::partial_sum(begin.begin(), begin.end(), begin.begin());
  std::vector<int> order(rows);
  for (int64_t n = 0; n < rows; ++n) order[begin[keys[n]]++] = static_cast<int>(n);
  return order;
}

// Each part owns some columns of the grid's gradient, and has a share in each coordinate's gradient.
template <int D, typename T, typename G>
void backward_cpu_by_columns(InterpolateBackward<T, G> args, int64_t rows, int64_t cells, G* grad_grid,
                             Accumulate<T>* grad_coords) {
  using A = Accumulate<T>;
  const std::vector<int> order = order_by_cell<D>(args.coords, rows, args.lattice);
  if (!order.empty()) args.order = order.data();
  const Partition parts = backward_columns(args.columns, cells);
  const int64_t pitch = apart<A>(parts.width);
  std::unique_ptr<A[]> shares(grad_coords ? new A[parts.count() * rows * D]() : nullptr);
  at::parallel_for(0, parts.count(), 1, [&](int64_t begin, int64_t end) {
    const Lines<A> sums = make_lines<A>(grad_grid ? cells * pitch : 0);
    for (int64_t part = begin; part < end; ++part) {
      const Range columns = parts[part];
      if (grad_grid) std::fill_n(sums.get(), cells * pitch, A{0});
      interpolate_backward_cpu<D>(args, {0, rows}, columns, grad_grid ? sums.get() : nullptr, pitch,
                                  shares ? &shares[part * rows * D] : nullptr);
      for (int64_t cell = 0; grad_grid && cell < cells; ++cell) {
        write_past_caches(grad_grid + cell * args.columns + columns.begin, &sums[cell * pitch],
                          columns.size());
      }
    }
    finish_writes();
  });
  if (grad_coords) sum_parts(shares.get(), parts.count(), rows * D, {0, rows * D}, grad_coords);
}

template <int D, typename T, typename G>
void backward_cpu(const InterpolateBackward<T, G>& args, int64_t rows, G* grad_grid,
                  Accumulate<T>* grad_coords) {
  const int64_t cells = args.lattice.cells(D);
  const Partition parts = backward_rows(rows, cells);
  const bool by_rows = parts.count() > 1 && args.columns <= 2048;
  if (by_rows || args.columns == 0) {  // no column, no part of the columns: coordinates have a gradient still
    backward_cpu_by_rows<D>(args, parts, cells, grad_grid, grad_coords);
  } else {
    backward_cpu_by_columns<D>(args, rows, cells, grad_grid, grad_coords);
  }
}

// Grids too large for a block's shared memory: atomics, or the corners sorted by cell.
template <int D, typename T, typename G>
void backward_cuda_large(const InterpolateBackward<T, G>& args, int64_t rows, const at::Tensor& grad_grid,
                         Accumulate<T>* grad_coords, bool deterministic,
                         const at::TensorOptions& accumulate) {
  using A = Accumulate<T>;
  if (!grad_grid.defined() || deterministic) {
    interpolate_backward_atomic_cuda<D>(args, rows, static_cast<A*>(nullptr), grad_coords, current_stream());
    check_launch();
  }
  if (!grad_grid.defined()) return;
  if (!deterministic) {
    const at::Tensor sums = at::zeros(grad_grid.sizes(), accumulate);
    interpolate_backward_atomic_cuda<D>(args, rows, data<A>(sums), grad_coords, current_stream());
    check_launch();
    grad_grid.copy_(sums);
    return;
  }
  const int64_t cells = args.lattice.cells(D);
  const at::Tensor corner_cells = at::empty({rows << D}, accumulate.dtype(at::kInt));
  corner_cells_cuda<D>(args, rows, data<int>(corner_cells), current_stream());
  check_launch();
  const auto [sorted, order] = at::sort(corner_cells, /*stable=*/true, /*dim=*/0, /*descending=*/false);
  const at::Tensor begin = at::searchsorted(sorted, at::arange(cells + 1, sorted.options()));
  interpolate_backward_sorted_cuda<D>(args, data<int64_t>(order), data<int64_t>(begin), data<G>(grad_grid),
                                      current_stream());
  check_launch();
}

template <int D, typename T, typename G>
void backward_cuda(const InterpolateBackward<T, G>& args, int64_t rows, const at::Tensor& grad_grid,
                   Accumulate<T>* grad_coords, bool deterministic, const at::TensorOptions& accumulate) {
  using A = Accumulate<T>;
  const ColumnPlan plan = plan_columns_cuda<D>(args, rows);
  if (!plan.fits) {
    backward_cuda_large<D>(args, rows, grad_grid, grad_coords, deterministic, accumulate);
    return;
  }
  const int64_t values = grad_grid.defined() ? grad_grid.numel() : 0;
  const at::Tensor grid_workspace = at::empty({plan.grid_workspace(values)}, accumulate);
  const at::Tensor coords_workspace =
      at::empty({plan.coords_workspace(grad_coords ? rows * D : 0)}, accumulate);
  interpolate_backward_columns_cuda<D>(args, plan, rows, data<G>(grad_grid), grad_coords,
                                       data<A>(grid_workspace), data<A>(coords_workspace), current_stream());
  check_launch();
}

at::Tensor interpolate(const at::Tensor& coords, const at::Tensor& grid, bool align_corners, bool border) {
  make_lattice(grid, align_corners, border);
  check_floating(grid, "grid");
  check_coords(coords, "coords", grid, "grid");
  const c10::DeviceGuard guard(grid.device());
  const at::Tensor out = at::empty({coords.size(0), grid.size(-1)}, grid.options());
  interpolate_into(coords, grid, align_corners, border, out, layout_of(out));
  return out;
}

}  // namespace

void interpolate_into(const at::Tensor& coords, const at::Tensor& grid, bool align_corners, bool border,
                      const at::Tensor& out, const RowLayout& layout) {
  const Lattice lattice = make_lattice(grid, align_corners, border);
  const at::Tensor positions = coords.to(accumulate_type(out.scalar_type())).contiguous();
  const at::Tensor cells = grid.contiguous();
  const int64_t rows = coords.size(0);
  const bool past_caches = goes_past_caches(rows * grid.size(-1) * out.element_size());
  dispatch_types(out.scalar_type(), grid.scalar_type(), [&](auto* value, auto* cell) {
    using T = std::remove_pointer_t<decltype(value)>;
    using G = std::remove_pointer_t<decltype(cell)>;
    dispatch_dims(coords.size(1), [&](auto constant) {
      constexpr int D = decltype(constant)::value;
      const InterpolateForward<T, G> args{data<Accumulate<T>>(positions),
                                          data<G>(cells),
                                          data<T>(out),
                                          layout,
                                          grid.size(-1),
                                          lattice,
                                          past_caches};
      if constexpr (kWithCuda) {
        if (out.is_cuda()) {
          interpolate_forward_cuda<D>(args, rows, current_stream());
          return check_launch();
        }
      }
      forward_cpu<D>(args, rows);
    });
  });
}

std::tuple<at::Tensor, at::Tensor> interpolate_backward(const at::Tensor& grad_out, const at::Tensor& coords,
                                                        const at::Tensor& grid, bool align_corners,
                                                        bool border, bool need_coords, bool need_grid,
                                                        bool deterministic) {
  const Lattice lattice = make_lattice(grid, align_corners, border);
  check_coords(coords, "coords", grid, "grid");
  const int64_t rows = coords.size(0), columns = grid.size(-1), dims = coords.size(1);
  check_shape((grad_out.dim() == 2 || grad_out.dim() == 3) && grad_out.size(0) == rows &&
                  grad_out.numel() == rows * columns,
              grad_out, "grad_out", "(N, C) or (N, P, C / P) like the values that were looked up");
  check_same_device(grad_out, "grad_out", grid, "grid");
  check_type_pair(grad_out, "grad_out", grid, "grid");
  const c10::DeviceGuard guard(grid.device());
  const auto accumulate = grad_out.options().dtype(accumulate_type(grad_out.scalar_type()));
  const at::Tensor values = with_adjacent_columns(grad_out);
  const at::Tensor positions = coords.to(accumulate.dtype()).contiguous();
  const at::Tensor cells = grid.contiguous();
  const at::Tensor grad_coords = at::empty({need_coords ? rows : 0, dims}, accumulate);
  const at::Tensor grad_grid = need_grid ? at::empty(grid.sizes(), grid.options()) : at::Tensor();
  dispatch_types(values.scalar_type(), grid.scalar_type(), [&](auto* value, auto* cell) {
    using T = std::remove_pointer_t<decltype(value)>;
    using G = std::remove_pointer_t<decltype(cell)>;
    using A = Accumulate<T>;
    dispatch_dims(dims, [&](auto constant) {
      constexpr int D = decltype(constant)::value;
      const InterpolateBackward<T, G> args{data<A>(positions), data<G>(cells), data<T>(values),
                                           layout_of(values),  columns,        lattice};
      A* to_coords = need_coords ? data<A>(grad_coords) : nullptr;
      if constexpr (kWithCuda) {
        if (grid.is_cuda())
          return backward_cuda<D>(args, rows, grad_grid, to_coords, deterministic, accumulate);
      }
      backward_cpu<D>(args, rows, data<G>(grad_grid), to_coords);
    });
  });
  return {grad_coords.to(coords.scalar_type()), need_grid ? grad_grid : at::empty({0}, grid.options())};
}

namespace {

void register_interpolate(torch::Library& library) {
  library.impl("interpolate", &interpolate);
  library.impl("interpolate_backward", &interpolate_backward);
}

}  // namespace

GRAD_REGISTER(register_interpolate)

}  // namespace grad
