// Included by interpolate_cpu.cpp once for each instruction set, inside its namespace.

#include "interpolate/corners_cpu.inl"

template <int D, typename T, typename G>
void interpolate_forward(const InterpolateForward<T, G>& args, Range rows, Range columns) {
  using A = Accumulate<T>;
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    const Corners<A, D> corners[] = {{args.coords + n * D, args.lattice}};
    for_runs(args.layout, columns, [&](int64_t begin, int64_t size) {
      T* const out[] = {args.out + args.layout.offset(n, begin)};
      gather(corners, args.grid + begin, args.columns, size, out);
    });
  }
}

template <int D, bool kNeedGrid, bool kNeedCoords, typename T, typename G>
void interpolate_backward(const InterpolateBackward<T, G>& args, Range rows, Range columns,
                          Accumulate<T>* grad_grid, Accumulate<T>* grad_coords) {
  using A = Accumulate<T>;
  for (int64_t i = rows.begin; i < rows.end; ++i) {
    const int64_t n = args.order ? args.order[i] : i;
    const Corners<A, D> corners[] = {{args.coords + n * D, args.lattice}};
    A dots[1][Corners<A, D>::kCount] = {};
    for_runs(args.layout, columns, [&](int64_t begin, int64_t size) {
      const T* const grad_out[] = {args.grad_out + args.layout.offset(n, begin)};
      const Scatter<1, T, G, A, D> scatter{corners,
                                           grad_out,
                                           kNeedCoords ? args.grid + begin : nullptr,
                                           args.columns,
                                           kNeedGrid ? grad_grid + (begin - columns.begin) : nullptr,
                                           columns.size(),
                                           size,
                                           dots};
      scatter.template run<kNeedGrid, kNeedCoords>();
    });
    if constexpr (kNeedCoords) coords_gradient(corners[0], dots[0], grad_coords + n * D);
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
