// Included by project_cpu.cpp once for each instruction set, inside its namespace.

#include "interpolate/corners_cpu.inl"
#include "jitter/jitter_cpu.inl"

constexpr int kTileRows = 256;

// Rows that are asked for ahead: in memory's order, where the processor foresees nothing behind a page's end,
// and in the order of cells, which it can't foresee.
constexpr int kRowsAhead = 3;
constexpr int kPlacesAhead = 8;

// The head's inputs, whatever the grid's type, so that its loops are compiled once for each type of h.
template <typename T>
struct Head {
  const T* hidden;  // (N, columns), rows `stride` apart
  int64_t stride;
  const Accumulate<T>* weight;  // (D, columns)
  const Accumulate<T>* bias;    // (D,)
  int64_t columns;

  template <typename G>
  explicit Head(const ProjectArgs<T, G>& args)
      : hidden(args.hidden),
        stride(args.hidden_stride),
        weight(args.weight),
        bias(args.bias),
        columns(args.hidden_columns) {}
};

// a_j = tanh(<h, W_j> + b_j) for rows [begin, begin + count) of a tile, (count, D), with room for
// padded(count * D). Meanwhile the rows of `out`, out_stride apart, are asked for, unless it is null.
template <int D, typename T>
__attribute__((noinline)) void activate(const Head<T>& head, int64_t begin, int count, Accumulate<T>* a,
                                        const T* out, int64_t out_stride) {
  using A = Accumulate<T>;
  for (int i = 0; i < count; ++i) {
    const T* hidden = head.hidden + (begin + i) * head.stride;
    const T* ahead = hidden + kRowsAhead * head.stride;
    ColumnSum<A> sums[D];
    for_columns<A>(head.columns, [&](auto pack, int64_t c) {
      if (out) prefetch_line<true>(out + i * out_stride, c);
      prefetch_line<false>(ahead, c);
      const auto h = in_register(pack.load(hidden + c));
      unrolled<D>([&](auto j) { sums[j].add(h * pack.load(head.weight + j * head.columns + c)); });
    });
    unrolled<D>([&](auto j) { a[i * D + j] = sums[j].total() + head.bias[j]; });
  }
  replace_by_tanh(a, count * D);
}

// Rows [begin, begin + count) with their place in the grid, in the order of their cells: rows that
// follow each other then share their corners, or find them in the first-level cache.
template <int D, typename A>
class Tile {
 public:
  // `a` is (count, D), the activations of these rows.
  __attribute__((noinline)) void fill(const Lattice& lattice, const JitterArgs& jitter, int64_t begin,
                                      int count, const A* a) {
    count_ = count;
    float noise[kTileRows * D] = {};
    if (jitter.state) fill_noise<D>(jitter, begin, count, noise);
    int64_t keys[kTileRows];
    for (int i = 0; i < count; ++i) {
      A u[D];
      for (int j = 0; j < D; ++j) u[j] = a[i * D + j] + noise[i * D + j];
      cells_[i] = locate<A, D>(u, lattice);
      keys[i] = cell_key(cells_[i], lattice);
    }
    sort(keys, key_count<D>(lattice));
  }

  // The row, counted from begin, that comes at a place of the order; the last one for places behind it.
  int row(int place) const { return order_[std::min(place, count_ - 1)]; }

  // Calls body(place, rows, corners) for arrays of two rows of the same cell, or of one, which come at
  // `place` and behind it.
  template <bool kWithSlopes, typename Body>
  void for_groups(const Lattice& lattice, Body&& body) const {
    for (int i = 0; i < count_;) {
      const int first = order_[i];
      const int second = i + 1 < count_ && same_[i + 1] ? order_[i + 1] : -1;
      if (second >= 0) {
        const int rows[] = {first, second};
        const Corners<A, D, kWithSlopes> corners[] = {{cells_[first], lattice}, {cells_[second], lattice}};
        body(i, rows, corners);
        i += 2;
      } else {
        const int rows[] = {first};
        const Corners<A, D, kWithSlopes> corners[] = {{cells_[first], lattice}};
        body(i, rows, corners);
        i += 1;
      }
    }
  }

 private:
  // A stable counting sort; where there are many keys, neighbouring ones share a bucket.
  void sort(const int64_t* keys, int64_t key_count) {
    constexpr int kBuckets = 512;
    int shift = 0;
    while (key_count >> shift >= kBuckets) ++shift;
    int begin[kBuckets + 1] = {};
    for (int i = 0; i < count_; ++i) ++begin[(keys[i] >> shift) + 1];
    for (int b = 0; b < kBuckets; ++b) begin[b + 1] += begin[b];
    for (int i = 0; i < count_; ++i) order_[begin[keys[i] >> shift]++] = i;
    for (int i = 1; i < count_; ++i) same_[i] = keys[order_[i]] == keys[order_[i - 1]];
  }

  int count_;
  Cell<A, D> cells_[kTileRows];
  int order_[kTileRows];
  bool same_[kTileRows];  // whether a row in this order has the key of the one before
};

// Calls body(begin, count) for the tiles of some rows, nearly equal ones.
template <typename Body>
inline void for_tiles(Range rows, Body&& body) {
  const Partition tiles = Partition::of_count(rows.size(), (rows.size() + kTileRows - 1) / kTileRows);
  for (int64_t tile = 0; tile < tiles.count(); ++tile) {
    const Range part = tiles[tile];
    body(rows.begin + part.begin, static_cast<int>(part.size()));
  }
}

// With d_j = dcoord_j (1 - a_j^2), as tanh' = 1 - tanh^2 and jitter adds a constant:
//   dh = sum_j d_j W_j,  dW_j += d_j h,  db_j += d_j.
// The row of dh is the next one of `writer`.
template <int D, typename T>
__attribute__((noinline)) void head_backward(const Head<T>& head, int64_t row,
                                             const Accumulate<T>* activations,
                                             const Accumulate<T>* grad_coords,
                                             const ProjectGradients<T>& gradients, RowWriter<T>& writer) {
  using A = Accumulate<T>;
  const int64_t columns = head.columns;
  const T* hidden = head.hidden + row * head.stride;
  T* grad_hidden = writer.row();
  const bool is_direct = writer.is_direct();
  A d[D];
  for (int j = 0; j < D; ++j) {
    const A a = activations[row * D + j];
    d[j] = grad_coords[j] * (1 - a * a);
    if (gradients.grad_bias) gradients.grad_bias[j] += d[j];
  }
  for_columns<A>(columns, [&](auto pack, int64_t c) {
    if (grad_hidden) {
      if (is_direct) prefetch_line<true>(grad_hidden + kRowsAhead * columns, c);
      auto sum = pack.load(head.weight + c) * d[0];
#pragma GCC unroll 4
      for (int j = 1; j < D; ++j) sum += pack.load(head.weight + j * columns + c) * d[j];
      pack.store(grad_hidden + c, sum);
    }
    if (gradients.grad_weight) {
      prefetch_line<false>(hidden + kRowsAhead * head.stride, c);
      const auto h = in_register(pack.load(hidden + c));
#pragma GCC unroll 4
      for (int j = 0; j < D; ++j) {
        A* place = gradients.grad_weight + j * columns + c;
        pack.store(place, pack.load(place) + h * d[j]);
      }
    }
  });
  writer.end_row();
}

// Writes the rows of dh from `row` on.
template <typename T, typename G>
RowWriter<T> writer_of(const ProjectArgs<T, G>& args, const ProjectGradients<T>& gradients, int64_t row) {
  T* rows = gradients.grad_hidden;
  return {rows ? rows + row * args.hidden_columns : nullptr, args.hidden_columns, gradients.past_caches};
}

template <int D, typename T, typename G>
void project_forward(const ProjectArgs<T, G>& args, T* out, int64_t out_stride, Accumulate<T>* activations,
                     Range rows, bool past_caches) {
  using A = Accumulate<T>;
  A a[padded<A>(kTileRows * D)] = {};
  Tile<D, A> tile;
  for_tiles(rows, [&](int64_t begin, int count) {
    const auto place = [&](int row) { return out + (begin + row) * out_stride; };
    activate<D>(Head<T>(args), begin, count, a, past_caches ? nullptr : place(0), out_stride);
    std::copy_n(a, count * D, activations + begin * D);
    tile.fill(args.lattice, args.jitter, begin, count, a);
    tile.template for_groups<false>(args.lattice, [&](int, const auto& group, const auto& corners) {
      constexpr int kRows = std::extent_v<std::remove_reference_t<decltype(group)>>;
      T* places[kRows];
      for (int r = 0; r < kRows; ++r) places[r] = place(group[r]);
      const auto gather_here =
          past_caches ? gather_past_caches<kRows, T, G, A, D> : gather<kRows, T, G, A, D>;
      gather_here(corners, args.grid, args.columns, args.columns, places, nullptr);
    });
  });
  if (past_caches) finish_writes();
}

template <int D, typename T, typename G>
void project_backward(const ProjectArgs<T, G>& args, const Accumulate<T>* activations, const T* grad_out,
                      int64_t grad_out_stride, Range rows, const ProjectGradients<T>& gradients) {
  using A = Accumulate<T>;
  const int64_t columns = args.columns;
  Tile<D, A> tile;
  A grad_coords[kTileRows][D];
  RowWriter<T> writer = writer_of(args, gradients, rows.begin);
  for_tiles(rows, [&](int64_t begin, int count) {
    const auto values = [&](int row) { return grad_out + (begin + row) * grad_out_stride; };
    tile.fill(args.lattice, args.jitter, begin, count, activations + begin * D);
    tile.template for_groups<true>(args.lattice, [&](int place, const auto& group, const auto& corners) {
      constexpr int kRows = std::extent_v<std::remove_reference_t<decltype(group)>>;
      const T *places[kRows], *ahead[kRows];
      for (int r = 0; r < kRows; ++r) {
        places[r] = values(group[r]);
        ahead[r] = values(tile.row(place + kPlacesAhead + r));
      }
      A dots[kRows][Corners<A, D>::kCount] = {};
      const Scatter<kRows, T, G, A, D> scatter{corners, places,  args.grid, columns, gradients.grad_grid,
                                               columns, columns, dots};
      scatter.template run<true>(ahead, [](int) { return static_cast<const G*>(nullptr); });
      for (int r = 0; r < kRows; ++r) coords_gradient(corners[r], dots[r], grad_coords[group[r]]);
    });
    if (gradients.grad_hidden || gradients.grad_weight || gradients.grad_bias) {
      const Head<T> head(args);
      for (int i = 0; i < count; ++i) {
        head_backward<D>(head, begin + i, activations, grad_coords[i], gradients, writer);
      }
    }
  });
}

template <int D, typename T, typename G>
void project_head_backward(const ProjectArgs<T, G>& args, const Accumulate<T>* activations,
                           const Accumulate<T>* grad_coords, Range rows,
                           const ProjectGradients<T>& gradients) {
  const Head<T> head(args);
  RowWriter<T> writer = writer_of(args, gradients, rows.begin);
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    head_backward<D>(head, row, activations, grad_coords + row * D, gradients, writer);
  }
}
