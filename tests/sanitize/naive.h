// What the kernels compute, as plain loops in float64.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include "buffers.h"
#include "common/lattice.h"
#include "common/philox.h"

// A corner of the cell that a row lies in: its cell's index, its weight and the weight's derivatives.
struct Corner {
  int64_t cell;
  double weight;
  std::array<double, 4> slope;
  std::array<double, 4> slope_bound;
};

struct Place {
  bool is_nan = false;
  std::vector<Corner> corners;  // those in the grid
};

// In cells; the centre of the first is 0. Infinities are the farthest coordinates.
inline double position(double coordinate, int size, bool align_corners) {
  if (std::isinf(coordinate)) coordinate = std::copysign(1e300, coordinate);
  return align_corners ? (coordinate + 1) / 2 * (size - 1) : ((coordinate + 1) * size - 1) / 2;
}

inline Place place_of(const double* coords, int dims, const grad::Lattice& lattice) {
  Place place;
  double lower[4], fraction[4], slope[4];
  for (int j = 0; j < dims; ++j) {
    const int size = lattice.size[j];
    double x = position(coords[j], size, lattice.align_corners);
    place.is_nan = place.is_nan || std::isnan(x);
    slope[j] = (lattice.align_corners ? size - 1 : size) / 2.0;
    if (lattice.border && (x <= 0 || x >= size - 1)) {
      x = x <= 0 ? 0 : size - 1;
      slope[j] = 0;
    }
    lower[j] = std::floor(x);
    fraction[j] = x - lower[j];
  }
  if (place.is_nan) return place;
  for (int k = 0; k < 1 << dims; ++k) {
    Corner corner{0, 1, {}, {}};
    bool inside = true;
    int64_t stride = 1;
    for (int j = 0; j < dims; ++j) {
      const bool upper = k >> j & 1;
      const double along = lower[j] + upper;
      inside = inside && along >= 0 && along < lattice.size[j];
      if (!inside) break;
      corner.cell += static_cast<int64_t>(along) * stride;
      stride *= lattice.size[j];
      corner.weight *= upper ? fraction[j] : 1 - fraction[j];
    }
    if (!inside) continue;
    for (int axis = 0; axis < dims; ++axis) {
      double derivative = (k >> axis & 1) ? slope[axis] : -slope[axis];
      for (int j = 0; j < dims; ++j) {
        if (j != axis) derivative *= (k >> j & 1) ? fraction[j] : 1 - fraction[j];
      }
      corner.slope[axis] = derivative;
      corner.slope_bound[axis] = slope[axis];
    }
    place.corners.push_back(corner);
  }
  return place;
}

// Whether rounding could put a coordinate into another cell, where the coordinates' gradient differs.
// `slack` is the coordinate's own error. Without any, both roundings that a compiler may choose from,
// with and without a fused multiply-add, have to agree; on a border they do where they are exact.
template <typename A>
bool is_ambiguous(const double* coords, int dims, const grad::Lattice& lattice, double slack) {
  for (int j = 0; j < dims; ++j) {
    const int size = lattice.size[j];
    const auto cell = [&](double x) {
      const bool clipped = lattice.border && (x <= 0 || x >= size - 1);
      return clipped ? (x <= 0 ? -10.0 : size + 10.0) : std::floor(x);
    };
    const double exact = position(coords[j], size, lattice.align_corners);
    if (!std::isfinite(coords[j])) continue;
    const A shifted = static_cast<A>(coords[j]) + 1;
    const A aligned = shifted / 2 * static_cast<A>(size - 1);
    const A scaled = shifted * static_cast<A>(size);
    const A apart = lattice.align_corners ? aligned : (scaled - 1) / 2;
    const A fused = lattice.align_corners ? aligned : std::fma(shifted, static_cast<A>(size), A{-1}) / 2;
    const double error = slack * (1 + std::abs(coords[j])) * size;
    for (const double x :
         {static_cast<double>(apart), static_cast<double>(fused), exact - error, exact + error}) {
      if (cell(x) != cell(exact)) return true;
    }
  }
  return false;
}

// out[c] = sum_k w_k grid[i_k, c]; read(i, c) is the grid.
template <typename Read>
void naive_gather(const Place& place, int64_t columns, Read&& read, Expected* out) {
  for (int64_t c = 0; c < columns; ++c) {
    if (place.is_nan) out[c].value = std::nan("");
    for (const Corner& corner : place.corners) {
      const double value = read(corner.cell, c);
      out[c].add(corner.weight * value, std::abs(value));
    }
  }
}

// Adds w_k g[c] to grad_grid, (cells, grid_columns); returns the coordinates' gradient.
template <typename Read, typename Gradient>
std::array<Expected, 4> naive_scatter(const Place& place, Range columns, Read&& read, Gradient&& gradient,
                                      Expected* grad_grid) {
  std::array<Expected, 4> grad_coords;
  if (place.is_nan) grad_coords.fill({std::nan(""), 0});
  for (const Corner& corner : place.corners) {
    Expected dot;
    for (int64_t c = columns.begin; c < columns.end; ++c) {
      const double g = gradient(c);
      dot.add(g * read(corner.cell, c));
      grad_grid[corner.cell * columns.size() + c - columns.begin].add(corner.weight * g, std::abs(g));
    }
    for (int j = 0; j < 4; ++j) {
      grad_coords[j].add(corner.slope[j] * dot.value, corner.slope_bound[j] * dot.magnitude);
    }
  }
  return grad_coords;
}

// Philox4x32-10 as its paper has it: ten rounds, keys raised between them.
inline std::array<uint32_t, 4> naive_philox(uint64_t seed, uint64_t offset, uint64_t row) {
  std::array<uint32_t, 4> c = {uint32_t(offset), uint32_t(offset >> 32), uint32_t(row), uint32_t(row >> 32)};
  for (uint32_t round = 0; round < 10; ++round) {
    const uint64_t left = uint64_t{0xD2511F53} * c[0], right = uint64_t{0xCD9E8D57} * c[2];
    const uint32_t key[2] = {uint32_t(seed) + round * 0x9E3779B9u,
                             uint32_t(seed >> 32) + round * 0xBB67AE85u};
    c = {uint32_t(right >> 32) ^ c[1] ^ key[0], uint32_t(right), uint32_t(left >> 32) ^ c[3] ^ key[1],
         uint32_t(left)};
  }
  return c;
}

// As grad.ops.reference.jitter_noise has it.
inline std::array<double, 4> naive_noise(const grad::JitterArgs& jitter, int64_t row) {
  const uint64_t seed = static_cast<uint64_t>(jitter.state[0]),
                 offset = static_cast<uint64_t>(jitter.state[1]);
  const auto uniform = [](uint32_t word) { return (word >> 8) * 0x1p-24; };
  const auto first = naive_philox(seed, offset, row), second = naive_philox(seed, offset + 1, row);
  const uint32_t coin = jitter.per_batch ? naive_philox(seed, offset, ~uint64_t{0})[0] : first[0];
  if (!(uniform(coin) < jitter.probability)) return {};
  const uint32_t words[4] = {first[2], first[3], second[0], second[1]};
  std::array<double, 4> noise;
  for (int j = 0; j < 4; ++j) {
    const double radius = std::sqrt(-2 * std::log(uniform(words[j & 2]) + 0x1p-24));
    const double angle = 2 * std::acos(-1.0) * uniform(words[(j & 2) + 1]);
    noise[j] = jitter.std * radius * (j & 1 ? std::sin(angle) : std::cos(angle));
  }
  return noise;
}
