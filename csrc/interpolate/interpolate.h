// interpolate: N-dimensional grid lookup, forward and backward. No torch types: pointers, sizes,
// strides and a stream. T is the type of the looked-up values, G that of the grid.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/lattice.h"
#include "common/rows.h"
#include "common/scalar.h"
#include "common/stream.h"

namespace grad {

template <typename T, typename G>
struct InterpolateForward {
  const Accumulate<T>* coords;  // (N, D)
  const G* grid;                // (cells, columns)
  T* out;                       // N rows of `columns`, as in `layout`
  RowLayout layout;
  int64_t columns;
  Lattice lattice;
  bool past_caches = false;  // how `out` is written. CPU only
};

template <typename T, typename G>
struct InterpolateBackward {
  const Accumulate<T>* coords;  // (N, D)
  const G* grid;                // (cells, columns); may be null where coordinates need no gradient
  const T* grad_out;            // N rows of `columns`, as in `layout`
  RowLayout layout;
  int64_t columns;
  Lattice lattice;
  const int* order = nullptr;  // (N,): which row comes first, and so on; null: as they lie. CPU only
};

// out[n, c] = sum_k w_k(n) grid[i_k(n), c] for the given part of the output.
template <int D, typename T, typename G>
void interpolate_forward_cpu(const InterpolateForward<T, G>& args, Range rows, Range columns);

// Adds w_k(n) grad_out[n, c] to grad_grid (cells, columns.size()), with grad_pitch columns from cell to cell,
// and to grad_coords, (N, D), the share of these columns in the coordinates' gradient. Either may be null.
template <int D, typename T, typename G>
void interpolate_backward_cpu(const InterpolateBackward<T, G>& args, Range rows, Range columns,
                              Accumulate<T>* grad_grid, int64_t grad_pitch, Accumulate<T>* grad_coords);

template <int D, typename T, typename G>
void interpolate_forward_cuda(const InterpolateForward<T, G>& args, int64_t rows, Stream stream);

// How the backward pass of one shape is cut into blocks: each owns `columns` columns of the grid's
// gradient, in shared memory, over its share of the rows. No atomics; sums are taken in fixed order.
struct ColumnPlan {
  bool fits;       // false: not even a warp's columns of this grid fit in shared memory
  int threads;     // of a block
  int columns;     // a block owns
  int width;       // columns a thread owns
  int tile_rows;   // rows that are sorted together
  int64_t slices;  // blocks side by side over columns
  int64_t splits;  // blocks one after the other over rows
  size_t shared_bytes;

  // Workspace elements: partial gradients of the grid (0: written directly), and of the coordinates.
  int64_t grid_workspace(int64_t values) const { return splits > 1 ? splits * values : 0; }
  int64_t coords_workspace(int64_t values) const { return slices > 1 ? slices * values : 0; }
};

template <int D, typename T, typename G>
ColumnPlan plan_columns_cuda(const InterpolateBackward<T, G>& args, int64_t rows);

template <int D, typename T, typename G>
void interpolate_backward_columns_cuda(const InterpolateBackward<T, G>& args, const ColumnPlan& plan,
                                       int64_t rows, G* grad_grid, Accumulate<T>* grad_coords,
                                       Accumulate<T>* grid_workspace, Accumulate<T>* coords_workspace,
                                       Stream stream);

// For grids that do not fit: a warp a row. Adds to `sums`, (cells, columns), with atomics, and writes
// grad_coords; either may be null.
template <int D, typename T, typename G>
void interpolate_backward_atomic_cuda(const InterpolateBackward<T, G>& args, int64_t rows,
                                      Accumulate<T>* sums, Accumulate<T>* grad_coords, Stream stream);

// The deterministic way for the same grids: the cell of each row's each corner, (N, 2^D), `cells` where
// it is outside; then, with these sorted, a block a cell that adds up its rows in order.
template <int D, typename T, typename G>
void corner_cells_cuda(const InterpolateBackward<T, G>& args, int64_t rows, int* corner_cells, Stream stream);

template <int D, typename T, typename G>
void interpolate_backward_sorted_cuda(const InterpolateBackward<T, G>& args,
                                      const int64_t* order,  // (N * 2^D,): corners sorted by cell
                                      const int64_t* begin,  // (cells + 1,): where a cell's corners begin
                                      G* grad_grid, Stream stream);

}  // namespace grad
