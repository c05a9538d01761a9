// Included by interpolate_cpu.cpp once for each instruction set, inside its namespace.

#include "interpolate/corners_cpu.inl"

// Wide rows go kRowBlock at a time, whose corners are found once, over kColumnBlock columns, whose cells and
// gradients they all find in the caches. Meanwhile the next columns are asked for: the processor can't
// foresee the leaps from row to row and from cell to cell.
constexpr int kRowBlock = 32;
constexpr int64_t kColumnBlock = 512;

// Up to kRowBlock rows with their corners.
template <typename A, int D, bool kWithSlopes>
class RowBlock {
 public:
  // The rows of `rows` in the given order, or as they lie where it is null.
  __attribute__((noinline)) RowBlock(const A* coords, const int* order, Range rows, const Lattice& lattice)
      : cells_(lattice.cells(D)), count_(static_cast<int>(rows.size())) {
    for (int i = 0; i < count_; ++i) {
      row_[i] = order ? order[rows.begin + i] : rows.begin + i;
      corners_[i][0] = {coords + row_[i] * D, lattice};
    }
  }

  int count() const { return count_; }
  int64_t row(int i) const { return row_[i]; }
  const Corners<A, D, kWithSlopes> (&corners(int i) const)[1] { return corners_[i]; }

  // The cell whose next columns are asked for with row i and its corners from `first` on: where there are as
  // many rows as cells, together all cells, each once.
  int64_t cell_to_ask(int i, int first) const {
    return cells_ <= count_ ? i % cells_ : corners_[i][0].index[first];
  }

 private:
  int64_t cells_;
  int count_;
  int64_t row_[kRowBlock];
  Corners<A, D, kWithSlopes> corners_[kRowBlock][1];
};

// Calls body(block) for the rows, kRowBlock at a time.
template <int D, bool kWithSlopes, typename A, typename Body>
inline void for_row_blocks(const A* coords, const int* order, Range rows, const Lattice& lattice,
                           Body&& body) {
  for (int64_t begin = rows.begin; begin < rows.end; begin += kRowBlock) {
    body(RowBlock<A, D, kWithSlopes>(coords, order, {begin, std::min(begin + kRowBlock, rows.end)}, lattice));
  }
}

// Calls body(i, begin, size, next) for each row i of a block, and parts of the columns that lie within one
// run; from column `next` on come those to ask for, -1 where none are left of the `total` of a row.
template <typename Block, typename Body>
inline void for_column_blocks(const Block& block, const RowLayout& layout, Range columns, int64_t total,
                              Body&& body) {
  // Whole runs ahead, so that what lies together here does so there.
  const int64_t runs = (kColumnBlock + layout.run - 1) / layout.run;
  const int64_t ahead = runs > 1 ? runs * layout.run : kColumnBlock;
  for (int64_t begin = columns.begin; begin < columns.end; begin += kColumnBlock) {
    const Range part{begin, std::min(begin + kColumnBlock, columns.end)};
    for (int i = 0; i < block.count(); ++i) {
      for_runs(layout, part, [&](int64_t first, int64_t size) {
        body(i, first, size, first + ahead < total ? first + ahead : -1);
      });
    }
  }
}

template <int D, typename T, typename G>
void interpolate_forward(const InterpolateForward<T, G>& args, Range rows, Range columns) {
  using A = Accumulate<T>;
  const auto look_up = [&](const Corners<A, D, false>(&corners)[1], int64_t row, int64_t begin, int64_t size,
                           const G* ahead) {
    T* const out[] = {args.out + args.layout.offset(row, begin)};
    const auto gather_here = args.past_caches ? gather_past_caches<1, T, G, A, D> : gather<1, T, G, A, D>;
    gather_here(corners, args.grid + begin, args.columns, size, out, ahead);
  };
  if (columns.size() > kColumnBlock && args.lattice.cells(D) <= rows.size()) {
    for_row_blocks<D, false>(args.coords, nullptr, rows, args.lattice, [&](const auto& block) {
      const auto run = [&](int i, int64_t begin, int64_t size, int64_t next) {
        const G* ahead = next < 0 ? nullptr : args.grid + next + block.cell_to_ask(i, 0) * args.columns;
        look_up(block.corners(i), block.row(i), begin, size, ahead);
      };
      for_column_blocks(block, args.layout, columns, args.columns, run);
    });
  } else {  // rows share little but what the caches keep anyway
    for (int64_t n = rows.begin; n < rows.end; ++n) {
      const Corners<A, D, false> corners[] = {{args.coords + n * D, args.lattice}};
      for_runs(args.layout, columns,
               [&](int64_t begin, int64_t size) { look_up(corners, n, begin, size, nullptr); });
    }
  }
  if (args.past_caches) finish_writes();
}

// Where the grid needs no gradient, its sums go to one row of columns that nobody reads.
template <int D, bool kNeedCoords, typename T, typename G>
void interpolate_backward_some(const InterpolateBackward<T, G>& args, Range rows, Range columns,
                               Accumulate<T>* grad_grid, int64_t grad_pitch, Accumulate<T>* grad_coords) {
  using A = Accumulate<T>;
  A unread[kColumnBlock];
  if (!grad_grid) std::fill_n(unread, kColumnBlock, A{0});
  for_row_blocks<D, true>(args.coords, args.order, rows, args.lattice, [&](const auto& block) {
    A dots[kRowBlock][1][Corners<A, D>::kCount] = {};
    const auto run = [&](int i, int64_t begin, int64_t size, int64_t next) {
      const T* const grad_out[] = {args.grad_out + args.layout.offset(block.row(i), begin)};
      const T* const ahead[] = {next < 0 ? grad_out[0]
                                         : args.grad_out + args.layout.offset(block.row(i), next)};
      const Scatter<1, T, G, A, D> scatter{block.corners(i),
                                           grad_out,
                                           kNeedCoords ? args.grid + begin : nullptr,
                                           args.columns,
                                           grad_grid ? grad_grid + (begin - columns.begin) : unread,
                                           grad_grid ? grad_pitch : 0,
                                           size,
                                           dots[i]};
      scatter.template run<kNeedCoords>(ahead, [&](int first) -> const G* {
        if (!kNeedCoords || next < 0) return nullptr;
        return args.grid + next + block.cell_to_ask(i, first) * args.columns;
      });
    };
    for_column_blocks(block, args.layout, columns, args.columns, run);
    for (int i = 0; kNeedCoords && i < block.count(); ++i) {
      coords_gradient(block.corners(i)[0], dots[i][0], grad_coords + block.row(i) * D);
    }
  });
}

template <int D, typename T, typename G>
void interpolate_backward(const InterpolateBackward<T, G>& args, Range rows, Range columns,
                          Accumulate<T>* grad_grid, int64_t grad_pitch, Accumulate<T>* grad_coords) {
  if (grad_coords) {
    interpolate_backward_some<D, true>(args, rows, columns, grad_grid, grad_pitch, grad_coords);
  } else if (grad_grid) {
    interpolate_backward_some<D, false>(args, rows, columns, grad_grid, grad_pitch, grad_coords);
  }
}
