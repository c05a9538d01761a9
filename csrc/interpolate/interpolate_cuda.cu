// N-D grid lookup on the GPU.
//
// Forward: a block takes some rows, sorted by cell, and some columns; a thread keeps its columns and goes
// from row to row, so that global memory sees one coalesced write, and the corners' values stay in registers
// until the cell changes. Backward: a block owns some columns of the grid's gradient in shared memory, each
// column with one thread as its owner; rows come in tiles sorted by cell, so that the sums stay in registers
// until the cell changes. One read of grad_out yields the gradients of grid and coordinates, without atomics,
// in fixed order. Grids too large for shared memory: atomics, or a sort where determinism is asked for.
#include <algorithm>
#include <cmath>

#include "common/device.cuh"
#include "common/types.h"
#include "interpolate/corners.cuh"
#include "interpolate/interpolate.h"

namespace grad {

namespace {

constexpr int kThreads = 256;

// Forward -----------------------------------------------------------------------------------------

constexpr int kForwardRows = 64;

template <int D, typename T, typename G, int kWidth>
__global__ void __launch_bounds__(kThreads, 1)
    interpolate_forward_kernel(const InterpolateForward<T, G> args, int64_t rows, int tile_rows,
                               int lanes) {  // threads side by side over columns; the rest over rows
  using A = Accumulate<T>;
  extern __shared__ __align__(16) unsigned char shared[];
  size_t used = 0;
  const SortedTile<A, D> tile(shared, used, tile_rows);
  const int64_t first = int64_t{blockIdx.x} * tile_rows;
  const int size = static_cast<int>(min(int64_t{tile_rows}, rows - first));
  tile.fill(size, args.lattice, [&](int t) { return args.coords + (first + t) * D; });
  const int lane = threadIdx.x % lanes, group = threadIdx.x / lanes, groups = kThreads / lanes;
  const int64_t column = (int64_t{blockIdx.y} * lanes + lane) * kWidth;
  if (column >= args.columns || group >= groups) return;
  T* out = args.out + first * args.layout.row_stride + args.layout.offset(0, column);
  const int share = (size + groups - 1) / groups, end = min((group + 1) * share, size);
  for (int position = group * share; position < end;) {
    const int key = tile.key[position];
    Cell<A, D> cell = tile.cell[position];
    const Corners<kWidth, G, D> corners(cell, args.lattice, args.grid + column, args.columns);
    do {  // all rows of a cell find the same corners
      store_packet(out + tile.row[position] * args.layout.row_stride, corners.template interpolated<T>(cell));
      if (++position == end) return;
      cell = tile.cell[position];
    } while (tile.key[position] == key);
  }
}

template <int D, int kWidth, typename T, typename G>
void launch_forward(const InterpolateForward<T, G>& args, int64_t rows, Stream stream) {
  const int64_t packets = divide_up<int64_t>(args.columns, kWidth);
  const int tile_rows = static_cast<int>(std::min<int64_t>(rows, kForwardRows));
  const int64_t tiles = divide_up<int64_t>(rows, tile_rows);
  int lanes = static_cast<int>(std::min<int64_t>(packets, kThreads));
  // Threads one above the other where side by side they would be too few blocks.
  while (lanes > kWarpSize && tiles * divide_up<int64_t>(packets, lanes) < multiprocessors()) lanes /= 2;
  const dim3 blocks(static_cast<unsigned>(tiles), static_cast<unsigned>(divide_up<int64_t>(packets, lanes)));
  size_t shared_bytes = 0;
  const SortedTile<Accumulate<T>, D> tile(nullptr, shared_bytes, tile_rows);
  interpolate_forward_kernel<D, T, G, kWidth>
      <<<blocks, kThreads, shared_bytes, stream>>>(args, rows, tile_rows, lanes);
}

// Backward by columns -----------------------------------------------------------------------------

// Three blocks on a multiprocessor have as many registers as a thread can use, and bytes enough in flight.
constexpr int kBackwardThreads = 128;

template <int D, typename T, typename G, int kWidth>
__global__ void __launch_bounds__(kBackwardThreads, sizeof(T) <= 4 ? 3 : 2)
    interpolate_backward_kernel(const InterpolateBackward<T, G> args, int64_t rows, int64_t rows_per_split,
                                int tile_rows, int block_columns,
                                Accumulate<T>* __restrict__ grid_parts,  // (splits, cells, columns), or null
                                G* __restrict__ grad_grid,  // (cells, columns), where there is 1 split
                                Accumulate<T>* __restrict__ coords_parts,  // (slices, N, D), or null
                                bool need_grid, int cells) {
  using A = Accumulate<T>;
  extern __shared__ __align__(16) unsigned char shared[];
  const int warps = blockDim.x / kWarpSize;
  size_t used = 0;
  const TileMemory<A, D> memory(shared, used, tile_rows, warps);
  A* sums = take<A>(shared, used, 0) + threadIdx.x * kWidth;
  const SortedTile<A, D>& tile = memory.tile;
  const int64_t column = int64_t{blockIdx.x} * block_columns + threadIdx.x * kWidth;
  const bool active = static_cast<int>(threadIdx.x) * kWidth < block_columns && column < args.columns;
  // Each thread the columns that are its own: nobody waits for them.
  for (int cell = 0; need_grid && active && cell < cells; ++cell) {
    store_packet<Cache::kShared>(sums + cell * block_columns, Packet<A, kWidth>{});
  }

  const int64_t begin = blockIdx.y * rows_per_split, end = min(rows, begin + rows_per_split);
  const int64_t offset = active ? args.layout.offset(0, column) : 0;
  for (int64_t first = begin; first < end; first += tile_rows) {
    const int size = static_cast<int>(min(int64_t{tile_rows}, end - first));
    tile.fill(size, args.lattice, [&](int t) { return args.coords + (first + t) * D; });
    scatter_tile<kWidth, T>(
        tile, 0, size, args.lattice, threadIdx.x, active,
        [&](int t) { return args.grad_out + (first + t) * args.layout.row_stride + offset; },
        args.grid + column, args.columns, need_grid ? sums : nullptr, block_columns,
        coords_parts ? memory.dots : nullptr);
    if (!coords_parts) continue;
    __syncthreads();
    for (int t = threadIdx.x; t < size; t += blockDim.x) {
      coords_gradient(tile, t, memory.dots, warps,
                      coords_parts + (blockIdx.x * rows + first + tile.row[t]) * D);
    }
  }

  if (!need_grid || !active) return;
  for (int cell = 0; cell < cells; ++cell) {
    const auto sum = load_packet<Cache::kShared, A, kWidth>(sums + cell * block_columns);
    const int64_t place = cell * args.columns + column;
    if (grid_parts) {
      store_values(grid_parts + int64_t{blockIdx.y} * cells * args.columns + place, sum);
    } else {
      Packet<G, kWidth> out;
#pragma unroll
      for (int i = 0; i < kWidth; ++i) store(&out.value[i], sum.value[i]);
      store_values(grad_grid + place, out);
    }
  }
}

// Shared memory of a block that owns so many columns.
template <typename A, int D>
size_t backward_bytes(int tile_rows, int warps, int64_t cells, int64_t columns) {
  size_t used = 0;
  const TileMemory<A, D> memory(nullptr, used, tile_rows, warps);
  take<A>(nullptr, used, cells * columns);
  return used;
}

template <int D, int kWidth, typename T, typename G>
void launch_backward(const InterpolateBackward<T, G>& args, const ColumnPlan& plan, int64_t rows,
                     G* grad_grid, Accumulate<T>* grid_parts, Accumulate<T>* coords_parts, Stream stream) {
  auto* kernel = interpolate_backward_kernel<D, T, G, kWidth>;
  allow_shared_memory(kernel, plan.shared_bytes);
  const dim3 blocks(static_cast<unsigned>(plan.slices), static_cast<unsigned>(plan.splits));
  kernel<<<blocks, plan.threads, plan.shared_bytes, stream>>>(
      args, rows, divide_up(rows, plan.splits), plan.tile_rows, plan.columns, grid_parts, grad_grid,
      coords_parts, grad_grid != nullptr, static_cast<int>(args.lattice.cells(D)));
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
  const bool one_run = args.layout.run >= args.columns;  // else a division for each column
  for (int64_t n = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / kWarpSize; n < rows; n += warps) {
    const Cell<A, D> cell = locate<A, D>(args.coords + n * D, args.lattice);
    A dots[kCorners] = {};
    for (int64_t c = lane; c < args.columns; c += kWarpSize) {
      const int64_t offset = one_run ? c : args.layout.offset(0, c);
      const A g = load(args.grad_out[n * args.layout.row_stride + offset]);
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
  constexpr size_t kComfortable = 72 * 1024;  // leaves room for three blocks on a multiprocessor
  using Tile = SortedTile<A, D>;
  const bool packed =
      is_packed(args.grad_out, args.layout, kWidth) && is_packed(args.grid, args.columns, kWidth);
  const int64_t cells = args.lattice.cells(D);
  const size_t most = shared_memory_limit();
  ColumnPlan plan{};
  const auto fits = [&](int width, int warps) {
    plan.width = width;
    plan.threads = warps * kWarpSize;
    plan.columns = static_cast<int>(std::min<int64_t>(plan.threads * width, args.columns));
    const bool is_last = warps == 1 || plan.columns == args.columns;  // narrower blocks would not be faster
    const int rows_at_most = static_cast<int>(std::clamp<int64_t>(rows, 1, Tile::kMostRows));
    for (plan.tile_rows = rows_at_most;; plan.tile_rows = Tile::kFewestRows) {
      plan.shared_bytes = backward_bytes<A, D>(plan.tile_rows, warps, cells, plan.columns);
      if (plan.shared_bytes <= (is_last ? most : kComfortable)) return true;
      if (plan.tile_rows <= Tile::kFewestRows) return false;
    }
  };
  // One warp at least, and one slice: without columns they still write the coordinates' gradient.
  for (int width = packed ? kWidth : 1; width > 0 && !plan.fits; width = width > 1 ? 1 : 0) {
    const int64_t wanted = std::max<int64_t>(divide_up<int64_t>(args.columns, width * kWarpSize), 1);
    int warps = static_cast<int>(std::min<int64_t>(wanted, kBackwardThreads / kWarpSize));
    while (warps > 0 && !(plan.fits = fits(width, warps))) --warps;
  }
  plan.slices = std::max<int64_t>(divide_up<int64_t>(args.columns, std::max(plan.columns, 1)), 1);
  // A block for each multiprocessor, as far as there are rows; more of them where their sums are small beside
  // it.
  const int64_t device = multiprocessors();
  plan.splits = std::max({std::min(rows / 128, divide_up(device, plan.slices)),
                          std::min(rows / 512, divide_up(3 * device, plan.slices)), int64_t{1}});
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
  if (grid_parts) sum_parts_cuda(grid_parts, plan.splits, values, values, WriteTo<G>{grad_grid}, stream);
  if (coords_parts != grad_coords) {
    sum_parts_cuda(coords_parts, plan.slices, rows * D, rows * D, WriteTo<Accumulate<T>>{grad_coords},
                   stream);
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
