// Included by interpolate_cpu.cpp once for each instruction set, inside its namespace.

#include "interpolate/corners_cpu.inl"

template <int D, typename T, typename G>
void interpolate_forward(const InterpolateForward<T, G>& args, Range rows, Range columns) {
  using A = Accumulate<T>;
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    const Corners<A, D> corners[] = {{args.coords + n * D, args.lattice}};
    for_runs(args.layout, columns, [&](int64_t begin, int64_t size) {
      T* const out[] = {args.out + args.layout.offset(n, begin)};
      if (args.past_caches) {
        gather_past_caches(corners, args.grid + begin, args.columns, size, out);
      } else {
        gather(corners, args.grid + begin, args.columns, size, out);
      }
    });
  }
  if (args.past_caches) finish_writes();
}

// The backward pass goes over kRowBlock rows, whose corners are found once, and kColumnBlock columns at a
// time: those of the paper's global grid (16 cells) and its gradient, 32 KiB, stay in the first-level cache.
constexpr int kRowBlock = 32;
constexpr int64_t kColumnBlock = 256;

template <int D, bool kNeedGrid, bool kNeedCoords, typename T, typename G>
void interpolate_backward(const InterpolateBackward<T, G>& args, Range rows, Range columns,
                          Accumulate<T>* grad_grid, Accumulate<T>* grad_coords) {
  using A = Accumulate<T>;
  int64_t n[kRowBlock];
  Corners<A, D> corners[kRowBlock][1];
  A dots[kRowBlock][1][Corners<A, D>::kCount];
  for (int64_t first = rows.begin; first < rows.end; first += kRowBlock) {
    const int count = static_cast<int>(std::min<int64_t>(kRowBlock, rows.end - first));
    for (int i = 0; i < count; ++i) {
      n[i] = args.order ? args.order[first + i] : first + i;
      corners[i][0] = {args.coords + n[i] * D, args.lattice};
    }
    std::fill_n(dots[0][0], count * Corners<A, D>::kCount, A{0});
    for (int64_t block = columns.begin; block < columns.end; block += kColumnBlock) {
      const Range part{block, std::min(block + kColumnBlock, columns.end)};
      for (int i = 0; i < count; ++i) {
        for_runs(args.layout, part, [&](int64_t begin, int64_t size) {
          const T* const grad_out[] = {args.grad_out + args.layout.offset(n[i], begin)};
          const Scatter<1, T, G, A, D> scatter{corners[i],
                                               grad_out,
                                               kNeedCoords ? args.grid + begin : nullptr,
                                               args.columns,
                                               kNeedGrid ? grad_grid + (begin - columns.begin) : nullptr,
                                               columns.size(),
                                               size,
                                               dots[i]};
          scatter.template run<kNeedGrid, kNeedCoords>([](int64_t) {});
        });
      }
    }
    for (int i = 0; kNeedCoords && i < count; ++i) {
      coords_gradient(corners[i][0], dots[i][0], grad_coords + n[i] * D);
    }
  }
}

template <int D, typename T, typename G>
void interpolate_backward(const InterpolateBackward<T, G>& args, Range rows, Range columns,
                          Accumulate<T>* grad_grid, Accumulate<T>* grad_coords) {
  if (grad_grid && grad_coords) {
    interpolate_backward<D, true, true>(args, rows, columns, grad_grid, grad_coords);
  } else if (grad_grid) {
    interpolate_backward<D, true, false>(args, rows, columns, grad_grid, grad_coords);
  } else if (grad_coords) {
    interpolate_backward<D, false, true>(args, rows, columns, grad_grid, grad_coords);
  }
}
