// The fused local head on the GPU.
//
// Forward: a warp takes 8 rows of h, reads each once in 16-byte packets, and sums all their dot
// products with W together; then each lane does tanh, jitter and cell of one coordinate, and the warp
// interpolates row after row. One read of h, one write of the result.
// Backward: a block takes tiles of rows. It adds the jitter to forward's activations, sorts the tile by
// cell, and gives each thread its columns: of the grid's gradient (in shared memory, see
// interpolate/corners.cuh), of dh and of dW. One read of h and of the gradient, one write of dh; no
// atomics, sums in fixed order.
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

// Coordinates of a row take this many of the values that a warp sums: a power of two.
template <int D>
constexpr int kSlots = D == 3 ? 4 : D;

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
      store_packet(out + (first + r) * out_stride + c,
                   gather<T, kWidth>(cell, args.lattice, args.grid + c, args.columns));
    }
  }
}

// Backward ----------------------------------------------------------------------------------------

// Columns a thread owns, and threads of a block, as far as registers allow (2^D corners a column).
template <int D, typename T>
constexpr int kBackwardWidth = D <= 2 && sizeof(T) <= 4 ? 2 : 1;
template <int D, typename T>
constexpr int kBackwardThreads = D <= 2 && sizeof(T) <= 4 ? 512 : 256;

// The sums that one block makes, in this order.
template <typename A>
struct BlockSums {
  A* grid;    // (cells, C), or null
  A* weight;  // (D, Ch), or null
  A* bias;    // (D,), or null
};

template <int D, typename T, typename G, int kWidth, bool kWithLookup>
__global__ void __launch_bounds__((kBackwardThreads<D, T>), 1)
    project_backward_kernel(const ProjectArgs<T, G> args,
                            const Accumulate<T>* __restrict__ activations,  // (N, D)
                            const T* __restrict__ grad_out, int64_t grad_out_stride,
                            const Accumulate<T>* __restrict__ grad_coords,  // (N, D), unless kWithLookup
                            int64_t rows, int64_t rows_per_block, int cells,
                            T* __restrict__ grad_hidden,     // (N, Ch), or null
                            BlockSums<Accumulate<T>> parts,  // of the first block
                            int64_t part_size) {             // from one block's sums to the next
  using A = Accumulate<T>;
  using Tile = SortedTile<A, D>;
  constexpr int kRows = Tile::kRows;
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ Tile tile;
  __shared__ A activation[kRows][D], coordinate[kRows][D], gradient[kRows][D];  // a, u, d
  const int warps = blockDim.x / kWarpSize;
  A* dots = reinterpret_cast<A*>(shared);
  A* sums = reinterpret_cast<A*>(shared + (kWithLookup ? dots_bytes<A, D>(warps) : 0));
  const bool need_head = grad_hidden || parts.weight || parts.bias;
  const int columns = static_cast<int>(args.columns), hidden_columns = static_cast<int>(args.hidden_columns);
  const int column = threadIdx.x * kWidth;

  if (kWithLookup && parts.grid) {
    for (int i = threadIdx.x; i < cells * columns; i += blockDim.x) sums[i] = 0;
  }
  __syncthreads();  // a block without rows writes them out at once
  A weight[D][kWidth], grad_weight[D][kWidth], grad_bias = 0;
#pragma unroll
  for (int j = 0; j < D; ++j) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      weight[j][i] = column < hidden_columns ? args.weight[j * hidden_columns + column + i] : A{0};
      grad_weight[j][i] = 0;
    }
  }

  const int64_t begin = blockIdx.x * rows_per_block, end = min(rows, begin + rows_per_block);
  for (int64_t first = begin; first < end; first += kRows) {
    const int size = static_cast<int>(min(int64_t{kRows}, end - first));
    // Without a barrier: nobody reads the last tile's activations and coordinates any more.
    for (int t = threadIdx.x; t < size; t += blockDim.x) {
      float noise[D] = {};
      if (kWithLookup && args.jitter.state) jitter_noise<D>(args.jitter, first + t, noise);
#pragma unroll
      for (int j = 0; j < D; ++j) {
        activation[t][j] = activations[(first + t) * D + j];
        coordinate[t][j] = activation[t][j] + noise[j];
      }
    }
    if constexpr (kWithLookup) {  // fill() begins with a barrier: coordinates are there
      tile.fill(first, end, args.lattice, [&](int64_t row) { return coordinate[row - first]; });
      scatter_tile<kWidth>(
          tile, args.lattice, column < columns, grad_out,
          [&](int64_t row) { return row * grad_out_stride + column; }, args.grid + column, args.columns,
          parts.grid ? sums + column : nullptr, columns, need_head ? dots : nullptr);
      __syncthreads();
    } else {
      __syncthreads();  // the last tile's gradients are done with
    }
    if (!need_head) continue;

    // d_j = dcoord_j (1 - a_j^2), as tanh' = 1 - tanh^2 and jitter adds a constant.
    for (int t = threadIdx.x; t < size; t += blockDim.x) {
      A of_coords[D];
      int row = t;
      if constexpr (kWithLookup) {
        row = static_cast<int>(tile.row[t] - first);
        coords_gradient(tile, t, args.lattice, dots, warps, of_coords);
      } else {
#pragma unroll
        for (int j = 0; j < D; ++j) of_coords[j] = grad_coords[(first + t) * D + j];
      }
#pragma unroll
      for (int j = 0; j < D; ++j) {
        gradient[row][j] = of_coords[j] * (1 - activation[row][j] * activation[row][j]);
      }
    }
    __syncthreads();

    // dh = sum_j d_j W_j, dW_j += d_j h, each thread its columns; db_j += d_j, thread j.
    if (column < hidden_columns) {
#pragma unroll 4
      for (int r = 0; r < size; ++r) {
        const auto h =
            load_packet<Cache::kStream, T, kWidth>(args.hidden + (first + r) * args.hidden_stride + column);
        Packet<T, kWidth> to_hidden;
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
          A sum = 0;
#pragma unroll
          for (int j = 0; j < D; ++j) {
            sum += gradient[r][j] * weight[j][i];
            grad_weight[j][i] += gradient[r][j] * load(h.value[i]);
          }
          store(&to_hidden.value[i], sum);
        }
        if (grad_hidden) store_packet(grad_hidden + (first + r) * args.hidden_columns + column, to_hidden);
      }
    }
    if (threadIdx.x < D) {
      for (int r = 0; r < size; ++r) grad_bias += gradient[r][threadIdx.x];
    }
  }

  const int64_t part = blockIdx.x * part_size;
  if (kWithLookup && parts.grid && column < columns) {
    for (int cell = 0; cell < cells; ++cell) {
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        parts.grid[part + cell * columns + column + i] = sums[cell * columns + column + i];
      }
    }
  }
  if (parts.weight && column < hidden_columns) {
#pragma unroll
    for (int j = 0; j < D; ++j) {
#pragma unroll
      for (int i = 0; i < kWidth; ++i)
        parts.weight[part + j * hidden_columns + column + i] = grad_weight[j][i];
    }
  }
  if (parts.bias && threadIdx.x < D) parts.bias[part + threadIdx.x] = grad_bias;
}

template <int D, int kWidth, bool kWithLookup, typename T, typename G>
void launch_backward(const ProjectArgs<T, G>& args, const ProjectPlan& plan, const Accumulate<T>* activations,
                     const T* grad_out, int64_t grad_out_stride, const Accumulate<T>* grad_coords,
                     int64_t rows, T* grad_hidden, const BlockSums<Accumulate<T>>& parts, int64_t part_size,
                     Stream stream) {
  auto* kernel = project_backward_kernel<D, T, G, kWidth, kWithLookup>;
  allow_shared_memory(kernel, plan.shared_bytes);
  kernel<<<static_cast<unsigned>(plan.parts), plan.threads, plan.shared_bytes, stream>>>(
      args, activations, grad_out, grad_out_stride, grad_coords, rows, divide_up(rows, plan.parts),
      static_cast<int>(args.lattice.cells(D)), grad_hidden, parts, part_size);
}

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
  ProjectPlan plan{};
  plan.width = packed ? kWidth : 1;
  const int64_t columns = std::max(args.columns, args.hidden_columns);
  const int64_t warps = std::max<int64_t>(divide_up<int64_t>(columns, plan.width * kWarpSize), 1);
  constexpr int kMaxThreads = kBackwardThreads<D, T>;
  plan.threads = static_cast<int>(std::min<int64_t>(warps * kWarpSize, kMaxThreads));
  plan.shared_bytes = dots_bytes<A, D>(plan.threads / kWarpSize) +
                      (with_grid ? sizeof(A) * args.lattice.cells(D) * args.columns : 0);
  const size_t declared = sizeof(SortedTile<A, D>) + 3 * SortedTile<A, D>::kRows * D * sizeof(A);
  plan.fits = columns <= kMaxThreads * plan.width && plan.shared_bytes <= shared_memory_limit(declared);
  plan.parts = std::clamp<int64_t>(rows / 512, 1, 3 * multiprocessors());
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
  const int64_t grid_size = grad_grid ? args.lattice.cells(D) * args.columns : 0;
  const int64_t weight_size = gradients.grad_weight ? D * args.hidden_columns : 0;
  const int64_t bias_size = gradients.grad_bias ? D : 0;
  const int64_t size = grid_size + weight_size + bias_size;
  const BlockSums<A> parts{grad_grid ? workspace : nullptr, weight_size ? workspace + grid_size : nullptr,
                           bias_size ? workspace + grid_size + weight_size : nullptr};
  const auto launch = [&](auto with_lookup, auto width) {
    launch_backward<D, decltype(width)::value, decltype(with_lookup)::value>(
        args, plan, activations, grad_out, grad_out_stride, grad_coords, rows, gradients.grad_hidden, parts,
        size, stream);
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
  sum_parts_cuda(workspace, plan.parts, size, grid_size, grad_grid, stream);
  sum_parts_cuda(workspace + grid_size, plan.parts, size, weight_size, gradients.grad_weight, stream);
  sum_parts_cuda(workspace + grid_size + weight_size, plan.parts, size, bias_size, gradients.grad_bias,
                 stream);
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
