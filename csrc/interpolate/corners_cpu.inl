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

  Corners(const Cell<A, D>& cell, const Lattice& lattice) : is_nan(cell.is_nan) {
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

struct NoPrefetch {
  void operator()(int64_t) const {}
};

// out[r][c] = sum_k w_rk grid[i_k, c] over `columns` columns; `pitch` columns lie between grid cells. Calls
// prefetch(c) at each column c.
template <int kRows, typename T, typename G, typename A, int D, bool kWithSlopes,
          typename Prefetch = NoPrefetch>
inline void gather(const Corners<A, D, kWithSlopes> (&corners)[kRows], const G* grid, int64_t pitch,
                   int64_t columns, T* const (&out)[kRows], const Prefetch& prefetch = {}) {
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
  for_columns<A>(columns, [&](auto pack, int64_t c) {
    prefetch(c);
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
template <int kRows, typename T, typename G, typename A, int D, bool kWithSlopes,
          typename Prefetch = NoPrefetch>
inline void gather_past_caches(const Corners<A, D, kWithSlopes> (&corners)[kRows], const G* grid,
                               int64_t pitch, int64_t columns, T* const (&out)[kRows],
                               const Prefetch& prefetch = {}) {
  constexpr int64_t kBlock = 512;  // columns at a time
  alignas(kVectorBytes) T blocks[kRows][kBlock];
  T* places[kRows];
  for (int r = 0; r < kRows; ++r) places[r] = blocks[r];
  for (int64_t c = 0; c < columns; c += kBlock) {
    const int64_t size = std::min(columns - c, kBlock);
    gather<kRows, T>(corners, grid + c, pitch, size, places, [&](int64_t i) { prefetch(c + i); });
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
  // groups; prefetch(first, c) is called for each group, which begins with corner `first`, at each column c.
  template <bool kNeedGrid, bool kNeedCoords, typename Prefetch>
  void run(Prefetch&& prefetch) const {
    constexpr int kGroup = Corners<A, D>::kCount < 4 ? Corners<A, D>::kCount : 4;
    const int valid = corners[0].valid;
    int k = 0;
    for (; k + kGroup <= valid; k += kGroup) some<kGroup, kNeedGrid, kNeedCoords>(k, prefetch);
    for (; k < valid; ++k) some<1, kNeedGrid, kNeedCoords>(k, prefetch);
  }

 private:
  // Corners [first, first + kCount).
  template <int kCount, bool kNeedGrid, bool kNeedCoords, typename Prefetch>
  void some(int first, Prefetch&& prefetch) const {
    const G* cells[kCount];
    A* grad_cells[kCount];
    A weight[kRows][kCount];
    ColumnSum<A> sums[kRows][kCount];
    for (int k = 0; k < kCount; ++k) {
      const int index = corners[0].index[first + k];
      cells[k] = kNeedCoords ? grid + index * pitch : nullptr;
      grad_cells[k] = kNeedGrid ? grad_grid + index * grad_pitch : nullptr;
      for (int r = 0; r < kRows; ++r) weight[r][k] = corners[r].weight[first + k];
    }
    for_columns<A>(columns, [&](auto pack, int64_t c) {
      prefetch(first, c);
      typename decltype(pack)::Value g[kRows];
      unrolled<kRows>([&](auto r) { g[r] = pack.load(grad_out[r] + c); });
      unrolled<kCount>([&](auto k) {
        if constexpr (kNeedGrid) {
          auto sum = pack.load(grad_cells[k] + c);
          unrolled<kRows>([&](auto r) { sum += g[r] * weight[r][k]; });
          pack.store(grad_cells[k] + c, sum);
        }
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
inline void coords_gradient(const Corners<A, D>& corners, const A* dots, A* grad_coords) {
  for (int j = 0; j < D; ++j) {
    A sum = corners.is_nan ? std::numeric_limits<A>::quiet_NaN() : A{0};
    for (int k = 0; k < corners.valid; ++k) sum += corners.slope[k][j] * dots[k];
    grad_coords[j] = sum;
  }
}
