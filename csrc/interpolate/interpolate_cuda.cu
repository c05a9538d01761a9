// N-D grid lookup on the GPU.
//
// Forward: a block takes some rows and some columns; a thread keeps its columns and goes from row to
// row, so that global memory sees one coalesced write, and the grid stays in the caches.
// Backward: a block owns some columns of the grid's gradient in shared memory, each column with one
// thread as its owner; rows come in tiles sorted by cell, so that the sums stay in registers until
// the cell changes. One read of grad_out yields the gradients of grid and coordinates, without
// atomics, in fixed order. Grids too large for shared memory: atomics, or a sort where determinism
// is asked for.
#include <algorithm>
#include <cmath>

#include "common/device.cuh"
#include "common/types.h"
#include "interpolate/corners.cuh"
#include "interpolate/interpolate.h"

namespace grad {

namespace {

constexpr int kThreads = 256;

// Columns a thread owns: 8 bytes and more in one access where registers allow (2^D corners each).
template <int D, typename T>
constexpr int kBackwardWidth = D <= 2 && sizeof(T) <= 4 ? 2 : 1;

// Forward -----------------------------------------------------------------------------------------

constexpr int kForwardRows = 32;

template <int D, typename T, typename G, int kWidth>
__global__ void __launch_bounds__(kThreads, 1)
    interpolate_forward_kernel(const InterpolateForward<T, G> args, int64_t rows,
                               int lanes) {  // threads side by side over columns; the rest over rows
  using A = Accumulate<T>;
  __shared__ Cell<A, D> cells[kForwardRows];
  const int64_t first = int64_t{blockIdx.x} * kForwardRows;
  const int tile = static_cast<int>(min(int64_t{kForwardRows}, rows - first));
  if (threadIdx.x < tile)
    cells[threadIdx.x] = locate<A, D>(args.coords + (first + threadIdx.x) * D, args.lattice);
  __syncthreads();
  const int lane = threadIdx.x % lanes, row_step = kThreads / lanes;
  const int64_t column = (int64_t{blockIdx.y} * lanes + lane) * kWidth;
  if (column >= args.columns || threadIdx.x >= lanes * row_step) return;
  const int64_t offset = args.layout.offset(0, column);
#pragma unroll 2
  for (int r = threadIdx.x / lanes; r < tile; r += row_step) {
    store_packet(args.out + (first + r) * args.layout.row_stride + offset,
                 gather<T, kWidth>(cells[r], args.lattice, args.grid + column, args.columns));
  }
}

template <int D, int kWidth, typename T, typename G>
void launch_forward(const InterpolateForward<T, G>& args, int64_t rows, Stream stream) {
  const int64_t packets = divide_up<int64_t>(args.columns, kWidth);
  const int lanes = static_cast<int>(std::min<int64_t>(packets, kThreads));
  const dim3 blocks(static_cast<unsigned>(divide_up<int64_t>(rows, kForwardRows)),
                    static_cast<unsigned>(divide_up<int64_t>(packets, lanes)));
  interpolate_forward_kernel<D, T, G, kWidth><<<blocks, kThreads, 0, stream>>>(args, rows, lanes);
}

// Backward by columns -----------------------------------------------------------------------------

template <int D, typename T, typename G, int kWidth>
__global__ void __launch_bounds__(kThreads, 1)
    interpolate_backward_kernel(const InterpolateBackward<T, G> args, int64_t rows, int64_t rows_per_split,
                                int block_columns,
                                Accumulate<T>* __restrict__ grid_parts,  // (splits, cells, columns), or null
                                G* __restrict__ grad_grid,  // (cells, columns), where there is 1 split
                                Accumulate<T>* __restrict__ coords_parts,  // (slices, N, D), or null
                                bool need_grid, int cells) {
  using A = Accumulate<T>;
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ SortedTile<A, D> tile;
  const int warps = blockDim.x / kWarpSize;
  A* dots = coords_parts ? reinterpret_cast<A*>(shared) : nullptr;
  A* sums = reinterpret_cast<A*>(shared + dots_bytes<A, D>(warps));
  const int64_t column = int64_t{blockIdx.x} * block_columns + threadIdx.x * kWidth;
  const bool active = static_cast<int>(threadIdx.x) * kWidth < block_columns && column < args.columns;
  for (int i = threadIdx.x; need_grid && i < cells * block_columns; i += blockDim.x) sums[i] = 0;
  __syncthreads();  // a block without rows writes them out at once

  const int64_t begin = blockIdx.y * rows_per_split, end = min(rows, begin + rows_per_split);
  const int64_t offset = active ? args.layout.offset(0, column) : 0;
  for (int64_t first = begin; first < end; first += SortedTile<A, D>::kRows) {
    tile.fill(first, end, args.lattice, [&](int64_t row) { return args.coords + row * D; });
    scatter_tile<kWidth>(
        tile, args.lattice, active, args.grad_out,
        [&](int64_t row) { return row * args.layout.row_stride + offset; }, args.grid + column, args.columns,
        need_grid ? sums + threadIdx.x * kWidth : nullptr, block_columns, dots);
    if (!coords_parts) continue;
    __syncthreads();
    for (int t = threadIdx.x; t < tile.size; t += blockDim.x) {
      coords_gradient(tile, t, args.lattice, dots, warps,
                      coords_parts + (blockIdx.x * rows + tile.row[t]) * D);
    }
  }

  if (!need_grid || !active) return;
  for (int cell = 0; cell < cells; ++cell) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const A sum = sums[cell * block_columns + threadIdx.x * kWidth + i];
      const int64_t place = cell * args.columns + column + i;
      if (grid_parts) {
        grid_parts[int64_t{blockIdx.y} * cells * args.columns + place] = sum;
      } else {
        store(grad_grid + place, sum);
      }
    }
  }
}

template <int D, int kWidth, typename T, typename G>
void launch_backward(const InterpolateBackward<T, G>& args, const ColumnPlan& plan, int64_t rows,
                     G* grad_grid, Accumulate<T>* grid_parts, Accumulate<T>* coords_parts, Stream stream) {
  auto* kernel = interpolate_backward_kernel<D, T, G, kWidth>;
  allow_shared_memory(kernel, plan.shared_bytes);
  const dim3 blocks(static_cast<unsigned>(plan.slices), static_cast<unsigned>(plan.splits));
  kernel<<<blocks, plan.threads, plan.shared_bytes, stream>>>(
      args, rows, divide_up(rows, plan.splits), plan.columns, grid_parts, grad_grid, coords_parts,
      grad_grid != nullptr, static_cast<int>(args.lattice.cells(D)));
}

// Backward for large grids ------------------------------------------------------------------------

template <int D, typename T, typename G>
__global__ void __launch_bounds__(kThreads, 1)
    interpolate_backward_atomic_kernel(const InterpolateBackward<T, G> args, int64_t rows,
                                       Accumulate<T>* __restrict__ sums,  // (cells, columns), or null
                                       Accumulate<T>* __restrict__ grad_coords) {  // (N, D), or null
  using A = Accumulate<T>;
  constexpr int kCorners = 1 << D;
  const int lane = threadIdx.x % kWarpSize;
  const int64_t warps = int64_t{gridDim.x} * (kThreads / kWarpSize);
  for (int64_t n = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarpSize; n < rows; n += warps) {
    const Cell<A, D> cell = locate<A, D>(args.coords + n * D, args.lattice);
    A dots[kCorners] = {};
    for (int64_t c = lane; c < args.columns; c += kWarpSize) {
      const A g = load(args.grad_out[args.layout.offset(n, c)]);
#pragma unroll
      for (int k = 0; k < kCorners; ++k) {
        const int index = corner_index(cell, args.lattice, k);
        if (index < 0) continue;
        if (grad_coords) dots[k] += g * load(args.grid[index * args.columns + c]);
        if (sums) atomicAdd(sums + index * args.columns + c, corner_weight(cell, k) * g);
      }
    }
    if (!grad_coords) continue;
    warp_sum<kCorners>(dots);
    // Lanes that own a corner's dot product weigh it; the sum over lanes is the gradient.
    const int owned = owned_value<kCorners>(lane);
    const bool counts = owner_of<kCorners>(owned) == lane && corner_index(cell, args.lattice, owned) >= 0;
#pragma unroll
    for (int j = 0; j < D; ++j) {
      A share[1] = {counts ? corner_weight_slope(cell, owned, j) * dots[0] : A{0}};
      warp_sum<1>(share);
      if (lane == 0) grad_coords[n * D + j] = cell.is_nan ? static_cast<A>(NAN) : share[0];
    }
  }
}

template <int D, typename T, typename G>
__global__ void __launch_bounds__(kThreads, 1)
    corner_cells_kernel(const InterpolateBackward<T, G> args, int64_t rows, int cells,
                        int* __restrict__ corner_cells) {  // (N, 2^D)
  using A = Accumulate<T>;
  const int64_t n = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (n >= rows) return;
  const Cell<A, D> cell = locate<A, D>(args.coords + n * D, args.lattice);
#pragma unroll
  for (int k = 0; k < (1 << D); ++k) {
    const int index = corner_index(cell, args.lattice, k);
    corner_cells[(n << D) + k] = index < 0 ? cells : index;
  }
}

template <int D, typename T, typename G>
__global__ void __launch_bounds__(kThreads, 1)
    interpolate_backward_sorted_kernel(const InterpolateBackward<T, G> args,
                                       const int64_t* __restrict__ order, const int64_t* __restrict__ begin,
                                       G* __restrict__ grad_grid) {
  using A = Accumulate<T>;
  const int64_t cell_index = blockIdx.x;
  const int64_t column = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  if (column >= args.columns) return;
  const int64_t offset = args.layout.offset(0, column);
  A sum = 0;
  for (int64_t e = begin[cell_index]; e < begin[cell_index + 1]; ++e) {
    const int64_t n = order[e] >> D;
    const Cell<A, D> cell = locate<A, D>(args.coords + n * D, args.lattice);
    const A weight = corner_weight(cell, static_cast<int>(order[e] & ((1 << D) - 1)));
    sum += weight * load(args.grad_out[n * args.layout.row_stride + offset]);
  }
  store(grad_grid + cell_index * args.columns + column, sum);
}

}  // namespace

template <int D, typename T, typename G>
void interpolate_forward_cuda(const InterpolateForward<T, G>& args, int64_t rows, Stream stream) {
  if (rows == 0 || args.columns == 0) return;
  constexpr int kWidth = kFullWidth<T>;
  if (is_packed(args.out, args.layout, kWidth) && is_packed(args.grid, args.columns, kWidth)) {
    launch_forward<D, kWidth>(args, rows, stream);
  } else {
    launch_forward<D, 1>(args, rows, stream);
  }
}

template <int D, typename T, typename G>
ColumnPlan plan_columns_cuda(const InterpolateBackward<T, G>& args, int64_t rows) {
  using A = Accumulate<T>;
  constexpr int kWidth = kBackwardWidth<D, T>;
  constexpr size_t kComfortable = 64 * 1024;  // leaves room for three blocks on a multiprocessor
  const bool packed =
      is_packed(args.grad_out, args.layout, kWidth) && is_packed(args.grid, args.columns, kWidth);
  ColumnPlan plan{};
  plan.width = packed ? kWidth : 1;
  const int64_t cells = args.lattice.cells(D);
  // One warp at least, and one slice: without columns they still write the coordinates' gradient.
  const int64_t wanted = std::max<int64_t>(divide_up<int64_t>(args.columns, plan.width * kWarpSize), 1);
  const size_t limit = shared_memory_limit(sizeof(SortedTile<A, D>));
  for (int warps = static_cast<int>(std::min<int64_t>(wanted, kThreads / kWarpSize)); warps > 0; --warps) {
    plan.threads = warps * kWarpSize;
    plan.columns = static_cast<int>(std::min<int64_t>(plan.threads * plan.width, args.columns));
    plan.shared_bytes = dots_bytes<A, D>(warps) + sizeof(A) * cells * plan.columns;
    plan.fits = plan.shared_bytes <= (warps > 1 && wanted > warps ? kComfortable : limit);
    if (plan.fits) break;
  }
  plan.slices = std::max<int64_t>(divide_up<int64_t>(args.columns, std::max(plan.columns, 1)), 1);
  const int64_t blocks = 4 * multiprocessors();
  plan.splits = std::clamp<int64_t>(rows / 512, 1, divide_up(blocks, plan.slices));
  return plan;
}

template <int D, typename T, typename G>
void interpolate_backward_columns_cuda(const InterpolateBackward<T, G>& args, const ColumnPlan& plan,
                                       int64_t rows, G* grad_grid, Accumulate<T>* grad_coords,
                                       Accumulate<T>* grid_workspace, Accumulate<T>* coords_workspace,
                                       Stream stream) {
  constexpr int kWidth = kBackwardWidth<D, T>;
  auto* grid_parts = plan.splits > 1 && grad_grid ? grid_workspace : nullptr;
  auto* coords_parts = plan.slices > 1 && grad_coords ? coords_workspace : grad_coords;
  if (plan.width == kWidth) {
    launch_backward<D, kWidth>(args, plan, rows, grad_grid, grid_parts, coords_parts, stream);
  } else {
    launch_backward<D, 1>(args, plan, rows, grad_grid, grid_parts, coords_parts, stream);
  }
  const int64_t values = args.lattice.cells(D) * args.columns;
  if (grid_parts) sum_parts_cuda(grid_parts, plan.splits, values, values, grad_grid, stream);
  if (coords_parts != grad_coords) {
    sum_parts_cuda(coords_parts, plan.slices, rows * D, rows * D, grad_coords, stream);
  }
}

template <int D, typename T, typename G>
void interpolate_backward_atomic_cuda(const InterpolateBackward<T, G>& args, int64_t rows,
                                      Accumulate<T>* sums, Accumulate<T>* grad_coords, Stream stream) {
  if (rows == 0 || (!sums && !grad_coords)) return;
  const int64_t blocks = divide_up<int64_t>(rows, kThreads / kWarpSize);
  interpolate_backward_atomic_kernel<D, T, G>
      <<<static_cast<unsigned>(std::min<int64_t>(blocks, 1 << 20)), kThreads, 0, stream>>>(args, rows, sums,
                                                                                           grad_coords);
}

template <int D, typename T, typename G>
void corner_cells_cuda(const InterpolateBackward<T, G>& args, int64_t rows, int* corner_cells,
                       Stream stream) {
  if (rows == 0) return;
  corner_cells_kernel<D, T, G>
      <<<static_cast<unsigned>(divide_up<int64_t>(rows, kThreads)), kThreads, 0, stream>>>(
          args, rows, static_cast<int>(args.lattice.cells(D)), corner_cells);
}

template <int D, typename T, typename G>
void interpolate_backward_sorted_cuda(const InterpolateBackward<T, G>& args, const int64_t* order,
                                      const int64_t* begin, G* grad_grid, Stream stream) {
  if (args.columns == 0) return;
  const dim3 blocks(static_cast<unsigned>(args.lattice.cells(D)),
                    static_cast<unsigned>(divide_up<int64_t>(args.columns, kThreads)));
  interpolate_backward_sorted_kernel<D, T, G><<<blocks, kThreads, 0, stream>>>(args, order, begin, grad_grid);
}

#define GRAD_INSTANTIATE(D, T, G)                                                                         \
  template void interpolate_forward_cuda<D>(const InterpolateForward<T, G>&, int64_t, Stream);            \
  template ColumnPlan plan_columns_cuda<D>(const InterpolateBackward<T, G>&, int64_t);                    \
  template void interpolate_backward_columns_cuda<D>(const InterpolateBackward<T, G>&, const ColumnPlan&, \
                                                     int64_t, G*, Accumulate<T>*, Accumulate<T>*,         \
                                                     Accumulate<T>*, Stream);                             \
  template void interpolate_backward_atomic_cuda<D>(const InterpolateBackward<T, G>&, int64_t,            \
                                                    Accumulate<T>*, Accumulate<T>*, Stream);              \
  template void corner_cells_cuda<D>(const InterpolateBackward<T, G>&, int64_t, int*, Stream);            \
  template void interpolate_backward_sorted_cuda<D>(const InterpolateBackward<T, G>&, const int64_t*,     \
                                                    const int64_t*, G*, Stream);
#define GRAD_INSTANTIATE_DIMS(T, G) GRAD_FOR_EACH_DIM(GRAD_INSTANTIATE, T, G)
GRAD_FOR_EACH_TYPE_PAIR(GRAD_INSTANTIATE_DIMS)

}  // namespace grad
