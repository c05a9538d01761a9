// The lookup of one row and tiles of sorted rows, on the GPU; shared by interpolate and project.
#pragma once

#include <cstdint>

#include "common/lattice.h"
#include "common/reduce.cuh"
#include "common/rows.h"
#include "common/vec.cuh"

namespace grad {

// Values of kWidth columns starting at `grid`, interpolated between the cell's corners.
template <typename T, int kWidth, typename G, typename A, int D>
__device__ __forceinline__ Packet<T, kWidth> gather(const Cell<A, D>& cell, const Lattice& lattice,
                                                    const G* __restrict__ grid, int64_t pitch) {
  A sum[kWidth];
#pragma unroll
  for (int i = 0; i < kWidth; ++i) sum[i] = cell.is_nan ? static_cast<A>(NAN) : A{0};
#pragma unroll
  for (int k = 0; k < (1 << D); ++k) {
    const int index = corner_index(cell, lattice, k);
    if (index < 0) continue;
    const A weight = corner_weight(cell, k);
    const auto values = load_packet<Cache::kKeep, G, kWidth>(grid + index * pitch);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) sum[i] += weight * load(values.value[i]);
  }
  Packet<T, kWidth> out;
#pragma unroll
  for (int i = 0; i < kWidth; ++i) store(&out.value[i], sum[i]);
  return out;
}

// Rows of one tile in shared memory, sorted by the cell they lie in: neighbours then share their
// corners, and a thread keeps the corners' values and gradients in registers while the cell stays.
template <typename A, int D>
struct SortedTile {
  static constexpr int kRows = D <= 2 ? 64 : 32;
  Cell<A, D> cell[kRows];  // sorted
  int64_t row[kRows];      // the row each belongs to, sorted
  int64_t key[kRows];      // sorted
  int64_t unsorted_key[kRows];
  int size;

  // All threads of the block; `coords_of(row)` returns a pointer to the D coordinates of a row.
  template <typename CoordsOf>
  __device__ void fill(int64_t first, int64_t end, const Lattice& lattice, CoordsOf&& coords_of) {
    const int rows = static_cast<int>(end - first < kRows ? end - first : kRows);
    __syncthreads();  // the last tile is done with
    if (threadIdx.x == 0) size = rows;
    for (int t = threadIdx.x; t < rows; t += blockDim.x) {
      unsorted_key[t] = cell_key(locate<A, D>(coords_of(first + t), lattice), lattice);
    }
    __syncthreads();
    for (int t = threadIdx.x; t < rows; t += blockDim.x) {
      int rank = 0;
      for (int i = 0; i < rows; ++i) {
        rank += unsorted_key[i] < unsorted_key[t] || (unsorted_key[i] == unsorted_key[t] && i < t);
      }
      cell[rank] = locate<A, D>(coords_of(first + t), lattice);
      row[rank] = first + t;
      key[rank] = unsorted_key[t];
    }
    __syncthreads();
  }
};

// How many rows a thread has in flight: their 2^D dot products are summed over a warp together.
template <int D>
constexpr int kRowGroup = (32 >> D) < 8 ? (32 >> D) : 8;

// Shared memory of the columns' backward pass: dots[warp][row][corner].
template <typename A, int D>
constexpr size_t dots_bytes(int warps) {
  return sizeof(A) * warps * SortedTile<A, D>::kRows << D;
}

// One thread's kWidth columns over the rows of a sorted tile:
//   grad_grid[i_k, c] += w_k g[c]   (shared memory, `pitch` columns a cell; each column has one owner)
//   dots[row, k] = sum over the warp's columns of grid[i_k, c] g[c].
// Threads beyond the columns take part with g = 0. grad_grid or dots may be null.
template <int kWidth, int D, typename T, typename G, typename A, typename OffsetOf>
__device__ __forceinline__ void scatter_tile(const SortedTile<A, D>& tile, const Lattice& lattice,
                                             bool active, const T* __restrict__ grad_out,
                                             OffsetOf&& offset_of, const G* __restrict__ grid,
                                             int64_t grid_pitch, A* grad_grid, int pitch, A* dots) {
  constexpr int kCorners = 1 << D;
  constexpr int kGroup = kRowGroup<D>;
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  A corner_value[kCorners][kWidth], corner_sum[kCorners][kWidth];
  int corner[kCorners];
#pragma unroll
  for (int k = 0; k < kCorners; ++k) {
    corner[k] = -1;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) corner_value[k][i] = corner_sum[k][i] = 0;
  }
  const auto flush = [&] {
    if (!active || !grad_grid) return;
#pragma unroll
    for (int k = 0; k < kCorners; ++k) {
      if (corner[k] < 0) continue;
#pragma unroll
      for (int i = 0; i < kWidth; ++i) grad_grid[corner[k] * pitch + i] += corner_sum[k][i];
    }
  };
  int64_t key = -1;  // of the cell whose corners are in registers
  for (int first = 0; first < tile.size; first += kGroup) {
    Packet<T, kWidth> g[kGroup];
#pragma unroll
    for (int r = 0; r < kGroup; ++r) {
      g[r] = {};
      if (active && first + r < tile.size) {
        g[r] = load_packet<Cache::kStream, T, kWidth>(grad_out + offset_of(tile.row[first + r]));
      }
    }
    A sums[kGroup * kCorners];
#pragma unroll
    for (int r = 0; r < kGroup; ++r) {
#pragma unroll
      for (int k = 0; k < kCorners; ++k) sums[r * kCorners + k] = 0;
      if (first + r >= tile.size) continue;
      const Cell<A, D>& cell = tile.cell[first + r];
      if (tile.key[first + r] != key) {  // the same for all threads of the block
        flush();
        key = tile.key[first + r];
#pragma unroll
        for (int k = 0; k < kCorners; ++k) {
          corner[k] = corner_index(cell, lattice, k);
          Packet<G, kWidth> values = {};
          if (active && dots && corner[k] >= 0) {
            values = load_packet<Cache::kKeep, G, kWidth>(grid + corner[k] * grid_pitch);
          }
#pragma unroll
          for (int i = 0; i < kWidth; ++i) {
            corner_value[k][i] = load(values.value[i]);
            corner_sum[k][i] = 0;
          }
        }
      }
#pragma unroll
      for (int k = 0; k < kCorners; ++k) {
        const A weight = corner_weight(cell, k);
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
          const A value = load(g[r].value[i]);
          corner_sum[k][i] += weight * value;
          sums[r * kCorners + k] += corner_value[k][i] * value;
        }
      }
    }
    if (dots) {
      warp_sum<kGroup * kCorners>(sums);
      const int owned = owned_value<kGroup * kCorners>(lane);
      const int row = first + owned / kCorners;
      if (owner_of<kGroup * kCorners>(owned) == lane && row < tile.size) {
        dots[(warp * SortedTile<A, D>::kRows + row) * kCorners + owned % kCorners] = sums[0];
      }
    }
  }
  flush();
}

// dcoord_j = sum_k (dw_k / dcoord_j) <grid[i_k], g> of one sorted row, from the dots of all warps.
template <int D, typename A>
__device__ __forceinline__ void coords_gradient(const SortedTile<A, D>& tile, int position,
                                                const Lattice& lattice, const A* dots, int warps,
                                                A* grad_coords) {
  constexpr int kCorners = 1 << D;
  const Cell<A, D> cell = tile.cell[position];
#pragma unroll
  for (int j = 0; j < D; ++j) grad_coords[j] = cell.is_nan ? static_cast<A>(NAN) : A{0};
#pragma unroll
  for (int k = 0; k < kCorners; ++k) {
    if (corner_index(cell, lattice, k) < 0) continue;
    A dot = 0;
    for (int w = 0; w < warps; ++w) dot += dots[(w * SortedTile<A, D>::kRows + position) * kCorners + k];
#pragma unroll
    for (int j = 0; j < D; ++j) grad_coords[j] += corner_weight_slope(cell, k, j) * dot;
  }
}

}  // namespace grad
