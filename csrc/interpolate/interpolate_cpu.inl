// Included by interpolate_cpu.cpp once for each instruction set, inside its namespace.

#include "interpolate/corners_cpu.inl"

// Both passes go over kRowBlock rows, whose corners are found once, and kColumnBlock columns at a time, whose
// cells and gradients they all find in the caches. Meanwhile the next columns are asked for: the processor
// can't foresee the leaps from row to row and from cell to cell.
constexpr int kRowBlock = 32;
constexpr int64_t kColumnBlock = 512;

template <typename A, int D>
class RowBlock {
 public:
  // The rows of `rows` in the given order, or as they lie where it is null.
  RowBlock(const A* coords, const int* order, Range rows, const Lattice& lattice)
      : cells_(lattice.cells(D)), count_(static_cast<int>(rows.size())) {
    for (int i = 0; i < count_; ++i) {
      row_[i] = order ? order[rows.begin + i] : rows.begin + i;
      corners_[i][0] = {coords + row_[i] * D, lattice};
    }
  }

  int count() const { return count_; }
  int64_t row(int i) const { return row_[i]; }
  const Corners<A, D> (&corners(int i) const)[1] { return corners_[i]; }

  // The cell whose next columns are asked for with row i and its corners from `first` on: together all cells
  // of a small grid, each once.
  int64_t cell_to_ask(int i, int first) const {
    return cells_ <= kRowBlock ? i % cells_ : corners_[i][0].index[first];
  }

 private:
  int64_t cells_;
  int count_;
  int64_t row_[kRowBlock];
  Corners<A, D> corners_[kRowBlock][1];
};

// Calls body(block) for the rows, kRowBlock at a time.
template <int D, typename A, typename Body>
inline void for_row_blocks(const A* coords, const int* order, Range rows, const Lattice& lattice,
                           Body&& body) {
  for (int64_t begin = rows.begin; begin < rows.end; begin += kRowBlock) {
    body(RowBlock<A, D>(coords, order, {begin, std::min(begin + kRowBlock, rows.end)}, lattice));
  }
}

// Calls body(i, begin, size, ahead) for each row i of a block, and parts of the columns that lie within one
// run; `ahead` columns later come those that should be asked for.
template <typename Block, typename Body>
inline void for_column_blocks(const Block& block, const RowLayout& layout, Range columns, Body&& body) {
  // Whole runs ahead, so that what lies together here does so there.
  const int64_t runs = (kColumnBlock + layout.run - 1) / layout.run;
  const int64_t ahead = runs > 1 ? runs * layout.run : kColumnBlock;
  for (int64_t begin = columns.begin; begin < columns.end; begin += kColumnBlock) {
    const Range part{begin, std::min(begin + kColumnBlock, columns.end)};
    for (int i = 0; i < block.count(); ++i) {
      for_runs(layout, part, [&](int64_t first, int64_t size) { body(i, first, size, ahead); });
    }
  }
}

template <int D, typename T, typename G>
void interpolate_forward(const InterpolateForward<T, G>& args, Range rows, Range columns) {
  for_row_blocks<D>(args.coords, nullptr, rows, args.lattice, [&](const auto& block) {
    for_column_blocks(block, args.layout, columns, [&](int i, int64_t begin, int64_t size, int64_t ahead) {
      T* const out[] = {args.out + args.layout.offset(block.row(i), begin)};
      const G* grid = args.grid + begin;
      const G* next = begin + ahead < args.columns ? grid + ahead : grid;
      next += block.cell_to_ask(i, 0) * args.columns;
      const auto prefetch = [&](int64_t c) { prefetch_line<false>(next, c); };
      if (args.past_caches) {
        gather_past_caches(block.corners(i), grid, args.columns, size, out, prefetch);
      } else {
        gather(block.corners(i), grid, args.columns, size, out, prefetch);
      }
    });
  });
  if (args.past_caches) finish_writes();
}

template <int D, bool kNeedGrid, bool kNeedCoords, typename T, typename G>
void interpolate_backward(const InterpolateBackward<T, G>& args, Range rows, Range columns,
                          Accumulate<T>* grad_grid, int64_t grad_pitch, Accumulate<T>* grad_coords) {
  using A = Accumulate<T>;
  for_row_blocks<D>(args.coords, args.order, rows, args.lattice, [&](const auto& block) {
    A dots[kRowBlock][1][Corners<A, D>::kCount] = {};
    for_column_blocks(block, args.layout, columns, [&](int i, int64_t begin, int64_t size, int64_t ahead) {
      const T* const grad_out[] = {args.grad_out + args.layout.offset(block.row(i), begin)};
      const T* next_grad = args.grad_out + args.layout.offset(block.row(i), begin + ahead);
      const G* grid = kNeedCoords ? args.grid + begin : nullptr;
      const G* next = kNeedCoords && begin + ahead < args.columns ? grid + ahead : grid;
      const Scatter<1, T, G, A, D> scatter{block.corners(i),
                                           grad_out,
                                           grid,
                                           args.columns,
                                           kNeedGrid ? grad_grid + (begin - columns.begin) : nullptr,
                                           grad_pitch,
                                           size,
                                           dots[i]};
      scatter.template run<kNeedGrid, kNeedCoords>([&](int first, int64_t c) {
        if (first == 0) prefetch_line<false>(next_grad, c);
        if (kNeedCoords) prefetch_line<false>(next + block.cell_to_ask(i, first) * args.columns, c);
      });
    });
    for (int i = 0; kNeedCoords && i < block.count(); ++i) {
      coords_gradient(block.corners(i)[0], dots[i][0], grad_coords + block.row(i) * D);
    }
  });
}

template <int D, typename T, typename G>
void interpolate_backward(const InterpolateBackward<T, G>& args, Range rows, Range columns,
                          Accumulate<T>* grad_grid, int64_t grad_pitch, Accumulate<T>* grad_coords) {
  if (grad_grid && grad_coords) {
    interpolate_backward<D, true, true>(args, rows, columns, grad_grid, grad_pitch, grad_coords);
  } else if (grad_grid) {
    interpolate_backward<D, true, false>(args, rows, columns, grad_grid, grad_pitch, grad_coords);
  } else if (grad_coords) {
    interpolate_backward<D, false, true>(args, rows, columns, grad_grid, grad_pitch, grad_coords);
  }
}
