// Where a coordinate lies in a grid: its cell, the 2^D corners, their weights and derivatives.
//
// Axis j of the coordinates addresses the grid's axis of size R_{j+1}; the last spatial axis of the
// grid, R_1, is axis 0, as in torch's grid_sample. With t the position of a coordinate between two
// cell centres, the weight of corner k is the product over axes of t_j (bit j of k set: the upper
// cell) or 1 - t_j (the lower). Forward and backward, CPU and CUDA, all use these functions; kernels that
// must agree on a row's cell round alike, whatever else the compiler fuses in them.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "common/scalar.h"

namespace grad {

constexpr int kMaxDims = 4;

// Calls body(std::integral_constant<int, D>).
template <typename Body>
void dispatch_dims(int64_t dims, Body&& body) {
  switch (dims) {
    case 1:
      return body(std::integral_constant<int, 1>{});
    case 2:
      return body(std::integral_constant<int, 2>{});
    case 3:
      return body(std::integral_constant<int, 3>{});
    default:
      return body(std::integral_constant<int, 4>{});
  }
}

// Two cells beside the grid are counted along each axis: with them, too, their number fits an int.
constexpr int64_t kMaxCells = (int64_t{1} << 31) - 3;

// The spatial shape of a grid and how coordinates address it.
struct Lattice {
  int size[kMaxDims];  // R_1, ..., R_D
  bool align_corners;
  bool border;  // outside: the border cells repeated, else zeros

  int64_t cells(int dims) const {
    int64_t product = 1;
    for (int j = 0; j < dims; ++j) product *= size[j];
    return product;
  }
};

// A row's place in the grid. Corners outside the grid are not valid and carry nothing.
template <typename A, int D>
struct Cell {
  int lower[D];   // index of the lower corner along each axis, -1 where it is outside
  A fraction[D];  // t_j, distance from the lower corner
  A slope[D];     // dt_j / dcoord_j, 0 where the coordinate was clipped
  bool is_nan;    // a coordinate was NaN: no corner is valid
};

template <typename A, int D>
GRAD_HOST_DEVICE Cell<A, D> locate(const A* coords, const Lattice& lattice) {
  constexpr int kOutside = -2;  // neither it nor the cell above is in the grid
  Cell<A, D> cell;
  cell.is_nan = false;
  for (int j = 0; j < D; ++j) {
    const int last = lattice.size[j] - 1;
    const A size = static_cast<A>(lattice.size[j]);
    // Infinities become the largest number, so that 0 * infinity can't make a NaN below.
    constexpr A kLargest = std::numeric_limits<A>::max();
    const A coord = coords[j] > kLargest ? kLargest : coords[j] < -kLargest ? -kLargest : coords[j];
    const A x = lattice.align_corners ? separate_product((coord + 1) / 2, static_cast<A>(last))
                                      : multiply_add(coord + 1, size, A{-1}) / 2;
    cell.slope[j] = (lattice.align_corners ? static_cast<A>(last) : size) / 2;
    if (x != x) {
      cell.is_nan = true;
      cell.lower[j] = kOutside;
      cell.fraction[j] = 0;
    } else if (lattice.border && (x <= 0 || x >= static_cast<A>(last))) {
      cell.lower[j] = x <= 0 ? 0 : last;
      cell.fraction[j] = 0;
      cell.slope[j] = 0;
    } else if (x >= -1 && x < size) {
      const A floor = std::floor(x);
      cell.lower[j] = static_cast<int>(floor);
      cell.fraction[j] = x - floor;
    } else {
      cell.lower[j] = kOutside;
      cell.fraction[j] = 0;
      cell.slope[j] = 0;
    }
  }
  return cell;
}

// Rows with the same key have the same corners; keys lie in [0, key_count).
template <typename A, int D>
GRAD_HOST_DEVICE int64_t cell_key(const Cell<A, D>& cell, const Lattice& lattice) {
  int64_t key = 0;
  for (int j = D - 1; j >= 0; --j) key = key * (lattice.size[j] + 2) + cell.lower[j] + 2;
  return key;
}

template <int D>
int64_t key_count(const Lattice& lattice) {
  int64_t count = 1;
  for (int j = 0; j < D; ++j) count *= lattice.size[j] + 2;
  return count;
}

// The linear index of corner k, or -1 where it is outside the grid.
template <typename A, int D>
GRAD_HOST_DEVICE int corner_index(const Cell<A, D>& cell, const Lattice& lattice, int k) {
  uint32_t index = 0;  // beyond the grid it may wrap
  bool valid = !cell.is_nan;
  for (int j = D - 1; j >= 0; --j) {
    const int along = cell.lower[j] + ((k >> j) & 1);
    valid = valid && along >= 0 && along < lattice.size[j];
    index = index * static_cast<uint32_t>(lattice.size[j]) + static_cast<uint32_t>(along);
  }
  return valid ? static_cast<int>(index) : -1;
}

template <typename A, int D>
GRAD_HOST_DEVICE A corner_weight(const Cell<A, D>& cell, int k) {
  A weight = 1;
  for (int j = 0; j < D; ++j) weight *= (k >> j) & 1 ? cell.fraction[j] : 1 - cell.fraction[j];
  return weight;
}

// dweight_k / dcoord_axis: the axis' own factor t or 1 - t becomes +slope or -slope.
template <typename A, int D>
GRAD_HOST_DEVICE A corner_weight_slope(const Cell<A, D>& cell, int k, int axis) {
  A weight = (k >> axis) & 1 ? cell.slope[axis] : -cell.slope[axis];
  for (int j = 0; j < D; ++j) {
    if (j != axis) weight *= (k >> j) & 1 ? cell.fraction[j] : 1 - cell.fraction[j];
  }
  return weight;
}

}  // namespace grad
