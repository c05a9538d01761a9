// The lookup of one row and tiles of sorted rows, on the GPU; shared by interpolate and project.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "common/device.cuh"
#include "common/lattice.h"
#include "common/reduce.cuh"
#include "common/rows.h"
#include "common/vec.cuh"

namespace grad {

// The cells' values at a row's corners, kWidth columns starting at `grid`, and where they are; 0 and -1
// outside of the grid.
template <int kWidth, typename G, int D>
struct Corners {
  static constexpr int kCount = 1 << D;
  int index[kCount];
  Packet<G, kWidth> value[kCount];

  // `wanted`: else all values are 0.
  template <typename A>
  __device__ __forceinline__ Corners(const Cell<A, D>& cell, const Lattice& lattice,
                                     const G* __restrict__ grid, int64_t pitch, bool wanted = true) {
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      index[k] = corner_index(cell, lattice, k);
      value[k] = {};
      if (wanted && index[k] >= 0) {
        value[k] = load_packet<Cache::kKeep, G, kWidth>(grid + index[k] * pitch);
      }
    }
  }

  // What a row finds between them.
  template <typename T, typename A>
  __device__ __forceinline__ Packet<T, kWidth> interpolated(const Cell<A, D>& cell) const {
    A sum[kWidth];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) sum[i] = cell.is_nan ? static_cast<A>(NAN) : A{0};
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      const A weight = corner_weight(cell, k);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) sum[i] += weight * load(value[k].value[i]);
    }
    Packet<T, kWidth> out;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) store(&out.value[i], sum[i]);
    return out;
  }
};

// Columns a thread owns in a backward pass: as many as registers allow, for 2^D corners a column.
template <int D, typename T>
constexpr int kBackwardWidth = D <= 2 && sizeof(T) <= 4 ? 4 : 1;

// Rows that a thread has in flight while it works on as many others. What is summed for their coordinates
// fits one sum of a warp.
template <int D>
constexpr int kRowGroup = D == 4 ? 2 : 8;

// A thread's columns of the rows [first, first + kGroup), 0 from `end` on and where a thread is not active.
template <int kGroup, int kWidth, typename T, typename PlaceOf>
__device__ __forceinline__ void load_rows(Packet<T, kWidth> (&rows)[kGroup], int first, int end, bool active,
                                          PlaceOf&& place_of) {
#pragma unroll
  for (int r = 0; r < kGroup; ++r) {
    rows[r] = {};
    if (active && first + r < end) rows[r] = load_packet<Cache::kStream, T, kWidth>(place_of(first + r));
  }
}

// Rows of one tile in shared memory, sorted by the cell they lie in: neighbours then share their
// corners, and a thread keeps the corners' values and gradients in registers while the cell stays.
template <typename A, int D>
struct SortedTile {
  static constexpr int kMostRows = D <= 2 ? 256 : 64, kFewestRows = D <= 2 ? 64 : 32;
  int capacity;
  Cell<A, D>* cell;    // sorted
  int* row;            // which row of the tile each is, sorted
  int* key;            // sorted
  unsigned* unsorted;  // key and row in one number, of which all differ

  GRAD_HOST_DEVICE SortedTile(unsigned char* shared, size_t& used, int rows)
      : capacity(rows),
        cell(take<Cell<A, D>>(shared, used, rows)),
        row(take<int>(shared, used, rows)),
        key(take<int>(shared, used, rows)),
        unsorted(take<unsigned>(shared, used, rows)) {}

  // All threads of the block; `coords_of(t)` returns a pointer to the D coordinates of row t, which none but
  // thread t % blockDim.x reads. What was in the tile may be read until all have come here.
  template <typename CoordsOf>
  __device__ void fill(int rows, const Lattice& lattice, CoordsOf&& coords_of) const {
    for (int t = threadIdx.x; t < rows; t += blockDim.x) {
      // Of more than 2^24 keys some share a number: their rows are less well sorted, but no less right.
      const int64_t its_key = cell_key(locate<A, D>(coords_of(t), lattice), lattice);
      unsorted[t] = static_cast<unsigned>(its_key) * kMostRows + t;
    }
    __syncthreads();
    for (int t = threadIdx.x; t < rows; t += blockDim.x) {
      const unsigned own = unsorted[t];
      int rank = 0;
#pragma unroll 8
      for (int i = 0; i < rows; ++i) rank += unsorted[i] < own;
      const Cell<A, D> its_cell = locate<A, D>(coords_of(t), lattice);
      cell[rank] = its_cell;
      row[rank] = t;
      key[rank] = static_cast<int>(cell_key(its_cell, lattice));
    }
    __syncthreads();
  }
};

// What the backward pass by columns needs of a block's shared memory beside the gradient of the grid.
template <typename A, int D>
struct TileMemory {
  SortedTile<A, D> tile;
  A* dots;  // (warps that share a row, rows, kSlots)

  GRAD_HOST_DEVICE TileMemory(unsigned char* shared, size_t& used, int rows, int warps)
      : tile(shared, used, rows), dots(take<A>(shared, used, size_t{1} * warps * rows * kSlots<D>)) {}
};

// One thread's kWidth columns over the rows [begin, end) of a sorted tile:
//   grad_grid[i_k, c] += w_k g[c]   (shared memory, `pitch` columns a cell; each column has one owner)
//   dots[row, j] = sum over the warp's columns and the corners of (dw_k / dt_j) grid[i_k, c] g[c].
// `thread` counts the threads that share a row; those beyond the columns take part with g = 0. grad_grid or
// dots may be null.
template <int kWidth, typename T, int D, typename G, typename A, typename PlaceOf>
__device__ __forceinline__ void scatter_tile(const SortedTile<A, D>& tile, int begin, int end,
                                             const Lattice& lattice, int thread, bool active,
                                             PlaceOf&& place_of,  // of the gradient of row t of the tile
                                             const G* __restrict__ grid, int64_t grid_pitch, A* grad_grid,
                                             int pitch, A* dots) {
  constexpr int kCorners = 1 << D;
  constexpr int kGroup = kRowGroup<D>;
  constexpr int kValues = kGroup * kSlots<D>;
  const int lane = thread % kWarpSize, warp = thread / kWarpSize;
  Packet<A, kWidth> corner_value[kCorners] = {}, corner_sum[kCorners] = {};
  int corner[kCorners];
#pragma unroll
  for (int k = 0; k < kCorners; ++k) corner[k] = -1;
  const auto flush = [&] {
    if (!active || !grad_grid) return;
    constexpr int kTogether = kCorners < 4 ? kCorners : 4;  // that wait for each other
#pragma unroll
    for (int first = 0; first < kCorners; first += kTogether) {
      Packet<A, kWidth> sum[kTogether];
#pragma unroll
      for (int k = 0; k < kTogether; ++k) {
        if (corner[first + k] < 0) continue;
        sum[k] = load_packet<Cache::kShared, A, kWidth>(grad_grid + corner[first + k] * pitch);
      }
#pragma unroll
      for (int k = 0; k < kTogether; ++k) {
        if (corner[first + k] < 0) continue;
#pragma unroll
        for (int i = 0; i < kWidth; ++i) sum[k].value[i] += corner_sum[first + k].value[i];
        store_packet<Cache::kShared>(grad_grid + corner[first + k] * pitch, sum[k]);
      }
    }
  };
  int key = -1;  // of the cell whose corners are in registers
  Packet<T, kWidth> next[kGroup];
  const auto load_next = [&](int first) {
    load_rows(next, first, end, active, [&](int position) { return place_of(tile.row[position]); });
  };
  if (begin >= end) return;
  load_next(begin);
  struct TileRow {
    int key;
    Cell<A, D> cell;  // its fractions, and slopes of 1: coords_gradient has the coordinates' own
  };
  const auto tile_row = [&](int position) {
    TileRow row;
    position = min(position, end - 1);
    row.key = tile.key[position];
#pragma unroll
    for (int j = 0; j < D; ++j) {
      row.cell.fraction[j] = tile.cell[position].fraction[j];
      row.cell.slope[j] = 1;
    }
    return row;
  };
  TileRow ahead = tile_row(begin);
  for (int first = begin; first < end; first += kGroup) {
    Packet<T, kWidth> g[kGroup];
#pragma unroll
    for (int r = 0; r < kGroup; ++r) g[r] = next[r];
    load_next(first + kGroup);
    A sums[kValues];
#pragma unroll
    for (int r = 0; r < kGroup; ++r) {
#pragma unroll
      for (int j = 0; j < kSlots<D>; ++j) sums[r * kSlots<D> + j] = 0;
      if (first + r >= end) continue;
      const TileRow row = ahead;
      ahead = tile_row(first + r + 1);  // here, as the compiler can't move reads past the writes of flush()
      if (row.key != key) {             // the same for all threads that share the row
        key = row.key;
        const Cell<A, D> cell = tile.cell[first + r];
        const Corners<kWidth, G, D> corners(cell, lattice, grid, grid_pitch, active && dots);
        flush();  // while the values are on their way
#pragma unroll
        for (int k = 0; k < kCorners; ++k) {
          corner[k] = corners.index[k];
          corner_sum[k] = {};
#pragma unroll
          for (int i = 0; i < kWidth; ++i) corner_value[k].value[i] = load(corners.value[k].value[i]);
        }
      }
#pragma unroll
      for (int k = 0; k < kCorners; ++k) {
        const A weight = corner_weight(row.cell, k);
        A dot = 0;
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
          const A value = load(g[r].value[i]);
          corner_sum[k].value[i] += weight * value;
          dot += corner_value[k].value[i] * value;
        }
#pragma unroll
        for (int j = 0; j < D; ++j) sums[r * kSlots<D> + j] += corner_weight_slope(row.cell, k, j) * dot;
      }
    }
    if (dots) {
      warp_sum<kValues>(sums);
      const int owned = owned_value<kValues>(lane);
      const int position = first + owned / kSlots<D>;
      if (owner_of<kValues>(owned) == lane && position < end) {
        dots[(warp * tile.capacity + position) * kSlots<D> + owned % kSlots<D>] = sums[0];
      }
    }
  }
  flush();
}

// dcoord_j = (dt_j / dcoord_j) sum_k (dw_k / dt_j) <grid[i_k], g> of one sorted row, from the dots of all
// warps that share it.
template <int D, typename A>
__device__ __forceinline__ void coords_gradient(const SortedTile<A, D>& tile, int position, const A* dots,
                                                int warps, A* grad_coords) {
  const Cell<A, D>& cell = tile.cell[position];
#pragma unroll
  for (int j = 0; j < D; ++j) {
    A dot = 0;
    for (int w = 0; w < warps; ++w) dot += dots[(w * tile.capacity + position) * kSlots<D> + j];
    grad_coords[j] = cell.is_nan ? static_cast<A>(NAN) : cell.slope[j] * dot;
  }
}

}  // namespace grad
