// project: the local head from its hidden layer to grid values in one pass, forward and backward:
//   a = tanh(h W^T + b),  u = a + jitter,  out = interpolate(u, grid).
// No torch types: pointers, sizes, strides and a stream. T is the type of hidden layer and values,
// G that of the grid; weight, bias and sums have the accumulation type A.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/lattice.h"
#include "common/philox.h"
#include "common/rows.h"
#include "common/scalar.h"
#include "common/stream.h"

namespace grad {

template <typename T, typename G>
struct ProjectArgs {
  using A = Accumulate<T>;
  const T* hidden;         // (N, Ch), rows hidden_stride apart
  int64_t hidden_stride;   //
  const A* weight;         // (D, Ch)
  const A* bias;           // (D,)
  const G* grid;           // (cells, C)
  int64_t hidden_columns;  // Ch
  int64_t columns;         // C
  Lattice lattice;
  JitterArgs jitter;
};

// Where the gradients of some rows go; what is null is not computed.
template <typename T>
struct ProjectGradients {
  using A = Accumulate<T>;
  T* grad_hidden;            // (N, Ch), written
  A* grad_weight;            // (D, Ch), added to
  A* grad_bias;              // (D,), added to
  A* grad_grid;              // (cells, C), added to; needed by project_backward_cpu
  bool past_caches = false;  // how grad_hidden is written. CPU only
};

// Writes the values to `out`, and a, (N, D), to `activations`: with them the backward pass reads h but
// once, when it has the gradients of the coordinates. `past_caches` says how the values are written.
template <int D, typename T, typename G>
void project_forward_cpu(const ProjectArgs<T, G>& args, T* out, int64_t out_stride,
                         Accumulate<T>* activations, Range rows, bool past_caches);

template <int D, typename T, typename G>
void project_backward_cpu(const ProjectArgs<T, G>& args, const Accumulate<T>* activations, const T* grad_out,
                          int64_t grad_out_stride, Range rows, const ProjectGradients<T>& gradients);

// The head's half of it, from the gradient of the coordinates, (N, D): for grids that are too large for a
// private copy of their gradient.
template <int D, typename T, typename G>
void project_head_backward_cpu(const ProjectArgs<T, G>& args, const Accumulate<T>* activations,
                               const Accumulate<T>* grad_coords, Range rows,
                               const ProjectGradients<T>& gradients);

template <int D, typename T, typename G>
void project_forward_cuda(const ProjectArgs<T, G>& args, T* out, int64_t out_stride,
                          Accumulate<T>* activations, int64_t rows, Stream stream);

// How the backward pass is cut: each block has a share of the rows, all columns, and sums of its own.
struct ProjectPlan {
  bool fits;      // the block's threads and shared memory hold a row and the grid's gradient
  int groups;     // of threads: each takes rows of its own, and has sums of its own
  int threads;    // of a block
  int width;      // columns a thread owns
  int tile_rows;  // rows that are sorted together
  int64_t parts;  // blocks
  size_t shared_bytes;
};

template <int D, typename T, typename G>
ProjectPlan plan_project_cuda(const ProjectArgs<T, G>& args, const T* grad_out, int64_t grad_out_stride,
                              const T* grad_hidden, int64_t rows, bool with_grid);

// With grad_coords (N, D) given, only the head's half. `workspace` holds the blocks' sums one after the
// other, each grid, weight, bias as far as they are wanted; totals are written to `gradients` in order.
template <int D, typename T, typename G>
void project_backward_cuda(const ProjectArgs<T, G>& args, const ProjectPlan& plan,
                           const Accumulate<T>* activations, const T* grad_out, int64_t grad_out_stride,
                           const Accumulate<T>* grad_coords, int64_t rows,
                           const ProjectGradients<T>& gradients, G* grad_grid, Accumulate<T>* workspace,
                           Stream stream);

}  // namespace grad
