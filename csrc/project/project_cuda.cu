// The fused local head on the GPU.
//
// Forward: a warp takes 8 rows of h, reads each once in 16-byte packets, and sums all their dot
// products with W together; then each lane does tanh, jitter and cell of one coordinate, and the warp
// interpolates row after row. One read of h, one write of the result.
// Backward: a block takes tiles of rows. It adds the jitter to forward's activations, sorts the tile by
// cell, and deals it out to groups of threads. Each thread of a group has its columns: of the grid's gradient
// (in shared memory, see interpolate/corners.cuh), of dh and of dW. One read of h and of the gradient, one
// write of dh; no atomics, sums in fixed order. As many groups as shared memory has room for are one block
// and not several, so that there are fewer sums to write and to add up.
#include <algorithm>
#include <cmath>

#include "common/device.cuh"
#include "common/types.h"
#include "interpolate/corners.cuh"
#include "project/project.h"

namespace grad {

namespace {

constexpr int kThreads = 256;
constexpr int kWarpRows = 8;

// Coordinate j of kWarpRows rows from `first` on, each in the lane that owns value r * kSlots + j:
// a = tanh(<h, W_j> + b_j), and u = a + noise. Rows from `end` on repeat the last.
template <int D, int kWidth, typename T, typename G>
__device__ __forceinline__ void warp_coordinates(const ProjectArgs<T, G>& args, int64_t first, int64_t end,
                                                 Accumulate<T>& a, Accumulate<T>& u) {
  using A = Accumulate<T>;
  constexpr int kValues = kWarpRows * kSlots<D>;
  const int lane = threadIdx.x % kWarpSize;
  A sums[kValues];
#pragma unroll
  for (int v = 0; v < kValues; ++v) sums[v] = 0;
  for (int64_t c = lane * kWidth; c < args.hidden_columns; c += kWarpSize * kWidth) {
    Packet<T, kWidth> h[kWarpRows];
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r) {
      h[r] = load_packet<Cache::kStream, T, kWidth>(args.hidden +
                                                    min(first + r, end - 1) * args.hidden_stride + c);
    }
#pragma unroll
    for (int j = 0; j < D; ++j) {
      const auto w = load_packet<Cache::kKeep, A, kWidth>(args.weight + j * args.hidden_columns + c);
#pragma unroll
      for (int r = 0; r < kWarpRows; ++r) {
#pragma unroll
        for (int i = 0; i < kWidth; ++i) sums[r * kSlots<D> + j] += load(h[r].value[i]) * w.value[i];
      }
    }
  }
  warp_sum<kValues>(sums);
  const int owned = owned_value<kValues>(lane), j = owned % kSlots<D>;
  a = std::tanh(sums[0] + (j < D ? args.bias[j] : A{0}));
  u = a;
  if (args.jitter.state && j < D) {
    float noise[D];
    jitter_noise<D>(args.jitter, first + owned / kSlots<D>, noise);
#pragma unroll
    for (int i = 0; i < D; ++i) u += i == j ? noise[i] : 0.0f;
  }
}

// Forward -----------------------------------------------------------------------------------------

template <int D, typename T, typename G, int kWidth>
__global__ void __launch_bounds__(kThreads, 1)
    project_forward_kernel(const ProjectArgs<T, G> args, T* __restrict__ out, int64_t out_stride,
                           Accumulate<T>* __restrict__ activations, int64_t rows) {
  using A = Accumulate<T>;
  constexpr int kValues = kWarpRows * kSlots<D>;
  const int lane = threadIdx.x % kWarpSize;
  const int64_t first = (int64_t{blockIdx.x} * (kThreads / kWarpSize) + threadIdx.x / kWarpSize) * kWarpRows;
  if (first >= rows) return;
  A a, u;
  warp_coordinates<D, kWidth>(args, first, rows, a, u);
  const int owned = owned_value<kValues>(lane), j = owned % kSlots<D>;
  const int64_t row = first + owned / kSlots<D>;
  if (j < D && row < rows && owner_of<kValues>(owned) == lane) activations[row * D + j] = a;
#pragma unroll 2
  for (int r = 0; r < kWarpRows && first + r < rows; ++r) {
    A coords[D];
#pragma unroll
    for (int j = 0; j < D; ++j) coords[j] = __shfl_sync(kAllLanes, u, owner_of<kValues>(r * kSlots<D> + j));
    const Cell<A, D> cell = locate<A, D>(coords, args.lattice);
    for (int64_t c = lane * kWidth; c < args.columns; c += kWarpSize * kWidth) {
      const Corners<kWidth, G, D> corners(cell, args.lattice, args.grid + c, args.columns);
      store_packet(out + (first + r) * out_stride + c, corners.template interpolated<T>(cell));
    }
  }
}

// Backward ----------------------------------------------------------------------------------------

template <int D, typename T, int kWidth>
constexpr int kBackwardThreads = D <= 2 && sizeof(T) <= 4 && kWidth == 1 ? 512 : 256;

// How many sums a block makes, of each kind: grid (cells, C), weight (D, Ch), bias (D,); 0 where not wanted.
struct SumSizes {
  int grid, weight, bias;
  GRAD_HOST_DEVICE int all() const { return grid + weight + bias; }
};

// A block's shared memory.
template <typename A, int D>
struct BackwardMemory {
  int pitch;  // from one group's sums to the next
  A* sums;
  TileMemory<A, D> tile;
  A (*activation)[D];  // a
  A (*coordinate)[D];  // u
  A (*gradient)[D];    // d; the rows as in the tile

  GRAD_HOST_DEVICE BackwardMemory(unsigned char* shared, size_t& used, int groups, const SumSizes& sizes,
                                  int tile_rows, int warps)
      : pitch((sizes.all() + 3) / 4 * 4),
        sums(take<A>(shared, used, size_t{1} * groups * pitch)),
        tile(shared, used, tile_rows, warps),
        activation(take<A[D]>(shared, used, tile_rows)),
        coordinate(take<A[D]>(shared, used, tile_rows)),
        gradient(take<A[D]>(shared, used, tile_rows)) {}
};

template <int D, typename T, typename G, int kWidth, bool kWithLookup>
__global__ void __launch_bounds__((kBackwardThreads<D, T, kWidth>), 1)
    project_backward_kernel(const ProjectArgs<T, G> args,
                            const Accumulate<T>* __restrict__ activations,  // (N, D)
                            const T* __restrict__ grad_out, int64_t grad_out_stride,
                            const Accumulate<T>* __restrict__ grad_coords,  // (N, D), unless kWithLookup
                            int64_t rows, int64_t rows_per_block, int tile_rows, int groups, int cells,
                            T* __restrict__ grad_hidden,  // (N, Ch), or null
                            const SumSizes sizes,
                            Accumulate<T>* __restrict__ parts) {  // (blocks, sizes.all())
  using A = Accumulate<T>;
  constexpr int kGroup = sizeof(T) <= 4 ? 8 : D <= 3 ? 4 : 2;  // rows of h in flight, as registers allow
  extern __shared__ __align__(16) unsigned char shared[];
  const int group_threads = blockDim.x / groups, warps = group_threads / kWarpSize;
  const int group = threadIdx.x / group_threads, thread = threadIdx.x % group_threads;
  size_t used = 0;
  const BackwardMemory<A, D> memory(shared, used, groups, sizes, tile_rows, warps);
  const SortedTile<A, D>& tile = memory.tile.tile;
  A* const sums = memory.sums + group * memory.pitch;
  const bool need_head = grad_hidden || sizes.weight || sizes.bias;
  const int columns = static_cast<int>(args.columns), hidden_columns = static_cast<int>(args.hidden_columns);
  const int column = thread * kWidth;

  // Each thread the columns that are its own: nobody waits for them.
  for (int cell = 0; kWithLookup && sizes.grid && column < columns && cell < cells; ++cell) {
    store_packet<Cache::kShared>(sums + cell * columns + column, Packet<A, kWidth>{});
  }
  Packet<A, kWidth> weight[D] = {}, grad_weight[D] = {};
  A grad_bias[D] = {};
  if (column < hidden_columns) {
#pragma unroll
    for (int j = 0; j < D; ++j) {
      weight[j] = load_packet<Cache::kKeep, A, kWidth>(args.weight + j * hidden_columns + column);
    }
  }

  const int64_t block_begin = blockIdx.x * rows_per_block,
                block_end = min(rows, block_begin + rows_per_block);
  for (int64_t first = block_begin; first < block_end; first += tile_rows) {
    const int size = static_cast<int>(min(int64_t{tile_rows}, block_end - first));
    const int share = (size + groups - 1) / groups;
    const int begin = min(group * share, size), end = min(begin + share, size);  // of this group, in the tile
    const auto row_at = [&](int position) { return first + (kWithLookup ? tile.row[position] : position); };
    if constexpr (kWithLookup) {
      // Without a barrier: nobody reads the last tile's activations and coordinates any more.
      for (int t = threadIdx.x; t < size; t += blockDim.x) {
        float noise[D] = {};
        if (args.jitter.state) jitter_noise<D>(args.jitter, first + t, noise);
#pragma unroll
        for (int j = 0; j < D; ++j) {
          memory.activation[t][j] = activations[(first + t) * D + j];
          memory.coordinate[t][j] = memory.activation[t][j] + noise[j];
        }
      }
      tile.fill(size, args.lattice, [&](int t) { return memory.coordinate[t]; });
      scatter_tile<kWidth, T>(
          tile, begin, end, args.lattice, thread, column < columns,
          [&](int t) { return grad_out + (first + t) * grad_out_stride + column; }, args.grid + column,
          args.columns, sizes.grid ? sums + column : nullptr, columns,
          need_head ? memory.tile.dots : nullptr);
    }
    if (!need_head) continue;
    Packet<T, kWidth> next[kGroup];
    const auto load_next = [&](int position) {
      load_rows(next, position, end, column < hidden_columns && sizes.weight,
                [&](int p) { return args.hidden + row_at(p) * args.hidden_stride + column; });
    };
    load_next(begin);  // on their way while the block meets
    __syncthreads();   // dots are there, the last tile's gradients are done with

    // d_j = dcoord_j (1 - a_j^2), as tanh' = 1 - tanh^2 and jitter adds a constant.
    for (int t = threadIdx.x; t < size; t += blockDim.x) {
      A of_coords[D];
      if constexpr (kWithLookup) coords_gradient(tile, t, memory.tile.dots, warps, of_coords);
#pragma unroll
      for (int j = 0; j < D; ++j) {
        if constexpr (!kWithLookup) of_coords[j] = grad_coords[(first + t) * D + j];
        const A a = kWithLookup ? memory.activation[tile.row[t]][j] : activations[(first + t) * D + j];
        memory.gradient[t][j] = of_coords[j] * (1 - a * a);
      }
    }
    __syncthreads();

    // dh = sum_j d_j W_j, dW_j += d_j h, each thread its columns; db_j += d_j.
    for (int position = begin; position < end; position += kGroup) {
      Packet<T, kWidth> h[kGroup];
#pragma unroll
      for (int r = 0; r < kGroup; ++r) h[r] = next[r];
      load_next(position + kGroup);
#pragma unroll
      for (int r = 0; r < kGroup; ++r) {
        if (position + r >= end) continue;
        Packet<A, kWidth> to_hidden = {};
#pragma unroll
        for (int j = 0; j < D; ++j) {
          const A d = memory.gradient[position + r][j];
          grad_bias[j] += d;
#pragma unroll
          for (int i = 0; i < kWidth; ++i) {
            to_hidden.value[i] += d * weight[j].value[i];
            grad_weight[j].value[i] += d * load(h[r].value[i]);
          }
        }
        if (!grad_hidden || column >= hidden_columns) continue;
        Packet<T, kWidth> out;
#pragma unroll
        for (int i = 0; i < kWidth; ++i) store(&out.value[i], to_hidden.value[i]);
        store_packet(grad_hidden + row_at(position + r) * hidden_columns + column, out);
      }
    }
  }

  if (sizes.weight && column < hidden_columns) {
#pragma unroll
    for (int j = 0; j < D; ++j) {
      store_packet<Cache::kShared>(sums + sizes.grid + j * hidden_columns + column, grad_weight[j]);
    }
  }
  if (sizes.bias && thread == 0) {
#pragma unroll
    for (int j = 0; j < D; ++j) sums[sizes.grid + sizes.weight + j] = grad_bias[j];
  }
  __syncthreads();  // the groups' sums are there
#pragma unroll 4
  for (int i = threadIdx.x; i < sizes.all(); i += blockDim.x) {
    A sum = 0;
    for (int g = 0; g < groups; ++g) sum += memory.sums[g * memory.pitch + i];
    parts[int64_t{blockIdx.x} * sizes.all() + i] = sum;
  }
}

// Where the totals of a block's sums belong.
template <typename A, typename G>
struct WriteGradients {
  SumSizes sizes;
  G* grid;
  A *weight, *bias;
  __device__ void operator()(int64_t i, A total) const {
    if (i < sizes.grid) {
      store(grid + i, total);
    } else if (i < sizes.grid + sizes.weight) {
      weight[i - sizes.grid] = total;
    } else {
      bias[i - sizes.grid - sizes.weight] = total;
    }
  }
};

// Whether a warp can read h and W in packets of kWidth columns.
template <typename T, typename G>
bool is_packed(const ProjectArgs<T, G>& args, int width) {
  return args.hidden_columns % width == 0 && grad::is_packed(args.hidden, args.hidden_stride, width) &&
         grad::is_packed(args.weight, args.hidden_columns, width);
}

}  // namespace

template <int D, typename T, typename G>
void project_forward_cuda(const ProjectArgs<T, G>& args, T* out, int64_t out_stride,
                          Accumulate<T>* activations, int64_t rows, Stream stream) {
  if (rows == 0) return;
  constexpr int kWidth = kFullWidth<T>;
  const auto blocks = static_cast<unsigned>(divide_up<int64_t>(rows, kWarpRows * kThreads / kWarpSize));
  const bool packed = is_packed(args, kWidth) && args.columns % kWidth == 0 &&
                      grad::is_packed(out, out_stride, kWidth) &&
                      grad::is_packed(args.grid, args.columns, kWidth);
  if (packed) {
    project_forward_kernel<D, T, G, kWidth>
        <<<blocks, kThreads, 0, stream>>>(args, out, out_stride, activations, rows);
  } else {
    project_forward_kernel<D, T, G, 1>
        <<<blocks, kThreads, 0, stream>>>(args, out, out_stride, activations, rows);
  }
}

template <int D, typename T, typename G>
ProjectPlan plan_project_cuda(const ProjectArgs<T, G>& args, const T* grad_out, int64_t grad_out_stride,
                              const T* grad_hidden, int64_t rows, bool with_grid) {
  using A = Accumulate<T>;
  constexpr int kWidth = kBackwardWidth<D, T>;
  const bool packed = is_packed(args, kWidth) && args.columns % kWidth == 0 &&
                      grad::is_packed(grad_out, grad_out_stride, kWidth) &&
                      grad::is_packed(grad_hidden, args.hidden_columns, kWidth) &&
                      grad::is_packed(args.grid, args.columns, kWidth);
  using Tile = SortedTile<A, D>;
  ProjectPlan plan{};
  plan.width = packed ? kWidth : 1;
  plan.parts = std::clamp<int64_t>(rows / 128, 1, multiprocessors());
  const int most_threads = packed ? kBackwardThreads<D, T, kWidth> : kBackwardThreads<D, T, 1>;
  const int64_t columns = std::max(args.columns, args.hidden_columns);
  const int64_t warps = std::max<int64_t>(divide_up<int64_t>(columns, plan.width * kWarpSize), 1);
  if (warps * kWarpSize > most_threads) return plan;
  const int64_t grid_size = with_grid ? args.lattice.cells(D) * args.columns : 0;
  const size_t most_bytes = shared_memory_limit();
  if (sizeof(A) * grid_size > most_bytes) return plan;
  const SumSizes sizes{static_cast<int>(grid_size), static_cast<int>(D * args.hidden_columns), D};
  const auto fits = [&](int groups, int tile_rows) {
    size_t used = 0;
    const BackwardMemory<A, D> memory(nullptr, used, groups, sizes, tile_rows, static_cast<int>(warps));
    plan.groups = groups;
    plan.threads = static_cast<int>(groups * warps * kWarpSize);
    plan.tile_rows = tile_rows;
    plan.shared_bytes = used;
    return used <= most_bytes;
  };
  // One group and small tiles for large grids; else the groups that fit with large ones.
  int groups = static_cast<int>(most_threads / (warps * kWarpSize));
  while (groups > 1 && !fits(groups, Tile::kMostRows)) --groups;
  plan.fits = fits(groups, Tile::kMostRows) || fits(1, Tile::kFewestRows);
  return plan;
}

template <int D, typename T, typename G>
void project_backward_cuda(const ProjectArgs<T, G>& args, const ProjectPlan& plan,
                           const Accumulate<T>* activations, const T* grad_out, int64_t grad_out_stride,
                           const Accumulate<T>* grad_coords, int64_t rows,
                           const ProjectGradients<T>& gradients, G* grad_grid, Accumulate<T>* workspace,
                           Stream stream) {
  using A = Accumulate<T>;
  constexpr int kWidth = kBackwardWidth<D, T>;
  const auto cells = static_cast<int>(args.lattice.cells(D));
  const SumSizes sizes{grad_grid ? static_cast<int>(cells * args.columns) : 0,
                       gradients.grad_weight ? static_cast<int>(D * args.hidden_columns) : 0,
                       gradients.grad_bias ? D : 0};
  const auto launch = [&](auto with_lookup, auto width) {
    auto* kernel = project_backward_kernel<D, T, G, decltype(width)::value, decltype(with_lookup)::value>;
    allow_shared_memory(kernel, plan.shared_bytes);
    kernel<<<static_cast<unsigned>(plan.parts), plan.threads, plan.shared_bytes, stream>>>(
        args, activations, grad_out, grad_out_stride, grad_coords, rows, divide_up(rows, plan.parts),
        plan.tile_rows, plan.groups, cells, gradients.grad_hidden, sizes, workspace);
  };
  const auto launch_width = [&](auto with_lookup) {
    if (plan.width == kWidth) {
      launch(with_lookup, std::integral_constant<int, kWidth>{});
    } else {
      launch(with_lookup, std::integral_constant<int, 1>{});
    }
  };
  if (grad_coords) {
    launch_width(std::false_type{});
  } else {
    launch_width(std::true_type{});
  }
  sum_parts_cuda(workspace, plan.parts, sizes.all(), sizes.all(),
                 WriteGradients<A, G>{sizes, grad_grid, gradients.grad_weight, gradients.grad_bias}, stream);
}

#define GRAD_INSTANTIATE(D, T, G)                                                                            \
  template void project_forward_cuda<D>(const ProjectArgs<T, G>&, T*, int64_t, Accumulate<T>*, int64_t,      \
                                        Stream);                                                             \
  template ProjectPlan plan_project_cuda<D>(const ProjectArgs<T, G>&, const T*, int64_t, const T*, int64_t,  \
                                            bool);                                                           \
  template void project_backward_cuda<D>(const ProjectArgs<T, G>&, const ProjectPlan&, const Accumulate<T>*, \
                                         const T*, int64_t, const Accumulate<T>*, int64_t,                   \
                                         const ProjectGradients<T>&, G*, Accumulate<T>*, Stream);
#define GRAD_INSTANTIATE_DIMS(T, G) GRAD_FOR_EACH_DIM(GRAD_INSTANTIATE, T, G)
GRAD_FOR_EACH_TYPE_PAIR(GRAD_INSTANTIATE_DIMS)

}  // namespace grad
