// The lookup of rows and its gradient, on the CPU; shared by interpolate and project. Functions take
// kRows rows at once that lie in the same cell, and so read and write the same corners.
// Included inside an instruction set's namespace.

// The corners of one row that lie in the grid, padded to 2^D with corners of weight 0. Their slopes are for
// the backward pass.
template <typename A, int D, bool kWithSlopes = true>
struct Corners {
  static constexpr int kCount = 1 << D;
  int valid = 0;                         // how many are in the grid
  int index[kCount];                     // linear cell index
  A weight[kCount];                      // w_k
  A slope[kWithSlopes ? kCount : 1][D];  // dw_k / dcoord_j
  bool is_nan;

  Corners() = default;

  Corners(const A* coords, const Lattice& lattice) : Corners(locate<A, D>(coords, lattice), lattice) {}

  __attribute__((noinline)) Corners(const Cell<A, D>& cell, const Lattice& lattice) : is_nan(cell.is_nan) {
    for (int k = 0; k < kCount; ++k) {
      const int linear = corner_index(cell, lattice, k);
      if (linear < 0) continue;
      index[valid] = linear;
      weight[valid] = corner_weight(cell, k);
      for (int j = 0; kWithSlopes && j < D; ++j) slope[valid][j] = corner_weight_slope(cell, k, j);
      ++valid;
    }
    for (int k = valid; k < kCount; ++k) {
      index[k] = valid > 0 ? index[0] : 0;
      weight[k] = 0;
    }
  }
};

// out[r][c] = sum_k w_rk grid[i_k, c] over `columns` columns; `pitch` columns lie between grid cells.
// Meanwhile the columns from `ahead` on are asked for, unless it is null: at run time, and in a function that
// is not inlined, as one for each caller takes minutes to compile.
template <int kRows, typename T, typename G, typename A, int D>
__attribute__((noinline)) void gather(const Corners<A, D, false> (&corners)[kRows], const G* grid,
                                      int64_t pitch, int64_t columns, T* const (&out)[kRows],
                                      const G* ahead = nullptr) {
  constexpr int kCount = 1 << D;
  if (corners[0].valid == 0) {
    for (int r = 0; r < kRows; ++r) {
      const A value = corners[r].is_nan ? std::numeric_limits<A>::quiet_NaN() : A{0};
      for (int64_t c = 0; c < columns; ++c) store(out[r] + c, value);
    }
    return;
  }
  const G* cells[kCount];
  A weight[kRows][kCount];
  for (int k = 0; k < kCount; ++k) {
    cells[k] = grid + corners[0].index[k] * pitch;
    for (int r = 0; r < kRows; ++r) weight[r][k] = corners[r].weight[k];
  }
  if (!ahead) ahead = cells[0];
  for_columns<A>(columns, [&](auto pack, int64_t c) {
    prefetch_line<false>(ahead, c);
    typename decltype(pack)::Value sum[kRows];
    const auto first = pack.load(cells[0] + c);
    for (int r = 0; r < kRows; ++r) sum[r] = first * weight[r][0];
#pragma GCC unroll 16
    for (int k = 1; k < kCount; ++k) {
      const auto value = in_register(pack.load(cells[k] + c));
      for (int r = 0; r < kRows; ++r) sum[r] += value * weight[r][k];
    }
    for (int r = 0; r < kRows; ++r) pack.store(out[r] + c, sum[r]);
  });
}

// The same past the caches, by way of rows in the first-level cache. finish_writes() is the caller's.
template <int kRows, typename T, typename G, typename A, int D>
__attribute__((noinline)) void gather_past_caches(const Corners<A, D, false> (&corners)[kRows], const G* grid,
                                                  int64_t pitch, int64_t columns, T* const (&out)[kRows],
                                                  const G* ahead = nullptr) {
  constexpr int64_t kBlock = 512;  // columns at a time
  alignas(kVectorBytes) T blocks[kRows][kBlock];
  T* places[kRows];
  for (int r = 0; r < kRows; ++r) places[r] = blocks[r];
  for (int64_t c = 0; c < columns; c += kBlock) {
    const int64_t size = std::min(columns - c, kBlock);
    gather<kRows, T>(corners, grid + c, pitch, size, places, ahead ? ahead + c : nullptr);
    for (int r = 0; r < kRows; ++r) write_past_caches(out[r] + c, blocks[r], size);
  }
}

// What the lookups of kRows rows of one cell read and write in their backward pass.
template <int kRows, typename T, typename G, typename A, int D>
struct Scatter {
  const Corners<A, D> (&corners)[kRows];
  const T* const (&grad_out)[kRows];
  const G* grid;  // `pitch` columns lie between cells
  int64_t pitch;
  A* grad_grid;  // `grad_pitch` columns lie between cells
  int64_t grad_pitch;
  int64_t columns;
  A (&dots)[kRows][Corners<A, D>::kCount];

  // grad_grid[i_k, c] += w_rk g_r[c], and dots[r][k] += <grid[i_k], g_r>, for all corners. Corners go in
  // groups. Meanwhile the columns from `ahead` on are asked for, and with each group, which begins with
  // corner `first`, those from cell_ahead(first) on; where that is null, none.
  template <bool kNeedCoords, typename CellAhead>
  void run(const T* const (&ahead)[kRows], CellAhead&& cell_ahead) const {
    constexpr int kGroup = Corners<A, D>::kCount < 4 ? Corners<A, D>::kCount : 4;
    const int valid = corners[0].valid;
    int k = 0;
    for (; k + kGroup <= valid; k += kGroup) {
      some<kGroup, kNeedCoords>(k, k == 0 ? ahead : grad_out, cell_ahead(k));
    }
    for (; k < valid; ++k) some<1, kNeedCoords>(k, k == 0 ? ahead : grad_out, cell_ahead(k));
  }

 private:
  // Corners [first, first + kCount).
  template <int kCount, bool kNeedCoords>
  __attribute__((noinline)) void some(int first, const T* const (&ahead)[kRows], const G* cell_ahead) const {
    const G* cells[kCount];
    A* grad_cells[kCount];
    A weight[kRows][kCount];
    ColumnSum<A> sums[kRows][kCount];
    for (int k = 0; k < kCount; ++k) {
      const int index = corners[0].index[first + k];
      cells[k] = kNeedCoords ? grid + index * pitch : nullptr;
      grad_cells[k] = grad_grid + index * grad_pitch;
      for (int r = 0; r < kRows; ++r) weight[r][k] = corners[r].weight[first + k];
    }
    if (!cell_ahead) cell_ahead = cells[0];
    for_columns<A>(columns, [&](auto pack, int64_t c) {
      unrolled<kRows>([&](auto r) { prefetch_line<false>(ahead[r], c); });
      if constexpr (kNeedCoords) prefetch_line<false>(cell_ahead, c);
      typename decltype(pack)::Value g[kRows];
      unrolled<kRows>([&](auto r) { g[r] = pack.load(grad_out[r] + c); });
      unrolled<kCount>([&](auto k) {
        auto sum = pack.load(grad_cells[k] + c);
        unrolled<kRows>([&](auto r) { sum += g[r] * weight[r][k]; });
        pack.store(grad_cells[k] + c, sum);
        if constexpr (kNeedCoords) {
          const auto value = in_register(pack.load(cells[k] + c));
          unrolled<kRows>([&](auto r) { sums[r][k].add(g[r] * value); });
        }
      });
    });
    if constexpr (kNeedCoords) {
      unrolled<kCount>(
          [&](auto k) { unrolled<kRows>([&](auto r) { dots[r][first + k] += sums[r][k].total(); }); });
    }
  }
};

// dcoord_j = sum_k (dw_k / dcoord_j) <grid[i_k], g>; NaN where a coordinate is NaN.
template <typename A, int D>
__attribute__((noinline)) void coords_gradient(const Corners<A, D>& corners, const A* dots, A* grad_coords) {
  for (int j = 0; j < D; ++j) {
    A sum = corners.is_nan ? std::numeric_limits<A>::quiet_NaN() : A{0};
    for (int k = 0; k < corners.valid; ++k) sum += corners.slope[k][j] * dots[k];
    grad_coords[j] = sum;
  }
}
