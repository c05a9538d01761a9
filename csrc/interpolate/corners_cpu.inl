// The lookup of one row and its gradient, on the CPU; shared by interpolate and project.
// Included inside an instruction set's namespace.

// The corners of one row that lie in the grid, padded to 2^D with corners of weight 0.
template <typename A, int D>
struct Corners {
  static constexpr int kCount = 1 << D;
  int valid = 0;       // how many are in the grid
  int index[kCount];   // linear cell index
  A weight[kCount];    // w_k
  A slope[kCount][D];  // dw_k / dcoord_j
  bool is_nan = false;

  Corners(const A* coords, const Lattice& lattice) {
    const Cell<A, D> cell = locate<A, D>(coords, lattice);
    is_nan = cell.is_nan;
    for (int k = 0; k < kCount; ++k) {
      const int linear = corner_index(cell, lattice, k);
      if (linear < 0) continue;
      index[valid] = linear;
      weight[valid] = corner_weight(cell, k);
      for (int j = 0; j < D; ++j) slope[valid][j] = corner_weight_slope(cell, k, j);
      ++valid;
    }
    for (int k = valid; k < kCount; ++k) {
      index[k] = valid > 0 ? index[0] : 0;
      weight[k] = 0;
    }
  }
};

// out[c] = sum_k w_k grid[i_k, c] over `columns` columns; `pitch` columns lie between grid cells.
template <typename T, typename G, typename A, int D>
inline void gather(const Corners<A, D>& corners, const G* grid, int64_t pitch, int64_t columns, T* out) {
  constexpr int kCount = Corners<A, D>::kCount;
  if (corners.valid == 0) {
    const A value = corners.is_nan ? std::numeric_limits<A>::quiet_NaN() : A{0};
    for (int64_t c = 0; c < columns; ++c) store(out + c, value);
    return;
  }
  const G* cells[kCount];
  A weight[kCount];
  for (int k = 0; k < kCount; ++k) {
    cells[k] = grid + corners.index[k] * pitch;
    weight[k] = corners.weight[k];
  }
  for_columns<A>(columns, [&](auto pack, int64_t c) {
    auto sum = pack.load(cells[0] + c) * weight[0];
#pragma GCC unroll 16
    for (int k = 1; k < kCount; ++k) sum += pack.load(cells[k] + c) * weight[k];
    pack.store(out + c, sum);
  });
}

// For corners [first, first + kCount): grad_grid[i_k, c] += w_k g[c], and dots[k] += <grid[i_k], g>.
template <int kCount, bool kNeedGrid, bool kNeedCoords, typename T, typename G, typename A, int D>
inline void scatter_corners(const Corners<A, D>& corners, int first, const T* grad_out, const G* grid,
                            int64_t pitch, A* grad_grid, int64_t grad_pitch, int64_t columns, A* dots) {
  const G* cells[kCount];
  A* grad_cells[kCount];
  A weight[kCount];
  ColumnSum<A> sums[kCount];
  for (int k = 0; k < kCount; ++k) {
    cells[k] = kNeedCoords ? grid + corners.index[first + k] * pitch : nullptr;
    grad_cells[k] = kNeedGrid ? grad_grid + corners.index[first + k] * grad_pitch : nullptr;
    weight[k] = corners.weight[first + k];
  }
  for_columns<A>(columns, [&](auto pack, int64_t c) {
    const auto g = pack.load(grad_out + c);
#pragma GCC unroll 4
    for (int k = 0; k < kCount; ++k) {
      if constexpr (kNeedGrid) {
        pack.store(grad_cells[k] + c, pack.load(grad_cells[k] + c) + g * weight[k]);
      }
      if constexpr (kNeedCoords) sums[k].add(g * pack.load(cells[k] + c));
    }
  });
  if constexpr (kNeedCoords) {
    for (int k = 0; k < kCount; ++k) dots[first + k] += sums[k].total();
  }
}

template <bool kNeedGrid, bool kNeedCoords, typename T, typename G, typename A, int D>
inline void scatter(const Corners<A, D>& corners, const T* grad_out, const G* grid, int64_t pitch,
                    A* grad_grid, int64_t grad_pitch, int64_t columns, A* dots) {
  constexpr int kGroup = Corners<A, D>::kCount < 4 ? Corners<A, D>::kCount : 4;
  int k = 0;
  for (; k + kGroup <= corners.valid; k += kGroup) {
    scatter_corners<kGroup, kNeedGrid, kNeedCoords>(corners, k, grad_out, grid, pitch, grad_grid, grad_pitch,
                                                    columns, dots);
  }
  for (; k < corners.valid; ++k) {
    scatter_corners<1, kNeedGrid, kNeedCoords>(corners, k, grad_out, grid, pitch, grad_grid, grad_pitch,
                                               columns, dots);
  }
}

// dcoord_j = sum_k (dw_k / dcoord_j) <grid[i_k], g>; NaN where a coordinate is NaN.
template <typename A, int D>
inline void coords_gradient(const Corners<A, D>& corners, const A* dots, A* grad_coords) {
  for (int j = 0; j < D; ++j) {
    A sum = corners.is_nan ? std::numeric_limits<A>::quiet_NaN() : A{0};
    for (int k = 0; k < corners.valid; ++k) sum += corners.slope[k][j] * dots[k];
    grad_coords[j] = sum;
  }
}
