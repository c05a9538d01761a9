// Included by project_cpu.cpp once for each instruction set, inside its namespace.

#include "interpolate/corners_cpu.inl"

// a_j = tanh(<h, W_j> + b_j)
template <int D, typename T, typename G>
inline void activations(const ProjectArgs<T, G>& args, int64_t row, Accumulate<T>* a) {
  using A = Accumulate<T>;
  const T* hidden = args.hidden + row * args.hidden_stride;
  ColumnSum<A> sums[D];
  for_columns<A>(args.hidden_columns, [&](auto pack, int64_t c) {
    const auto h = pack.load(hidden + c);
#pragma GCC unroll 4
    for (int j = 0; j < D; ++j) sums[j].add(h * pack.load(args.weight + j * args.hidden_columns + c));
  });
  for (int j = 0; j < D; ++j) a[j] = std::tanh(sums[j].total() + args.bias[j]);
}

// u_j = a_j + noise_j
template <int D, typename A>
inline void add_jitter(const JitterArgs& jitter, int64_t row, const A* a, A* u) {
  float noise[D] = {};
  if (jitter.state) jitter_noise<D>(jitter, row, noise);
  for (int j = 0; j < D; ++j) u[j] = a[j] + noise[j];
}

// With d_j = dcoord_j (1 - a_j^2), as tanh' = 1 - tanh^2 and jitter adds a constant:
//   dh = sum_j d_j W_j,  dW_j += d_j h,  db_j += d_j.
template <int D, typename T, typename G>
inline void head_backward(const ProjectArgs<T, G>& args, int64_t row, const Accumulate<T>* a,
                          const Accumulate<T>* grad_coords, const ProjectGradients<T>& gradients) {
  using A = Accumulate<T>;
  A d[D];
  for (int j = 0; j < D; ++j) d[j] = grad_coords[j] * (1 - a[j] * a[j]);
  const int64_t columns = args.hidden_columns;
  if (gradients.grad_hidden) {
    T* grad_hidden = gradients.grad_hidden + row * columns;
    for_columns<A>(columns, [&](auto pack, int64_t c) {
      auto sum = pack.load(args.weight + c) * d[0];
#pragma GCC unroll 4
      for (int j = 1; j < D; ++j) sum += pack.load(args.weight + j * columns + c) * d[j];
      pack.store(grad_hidden + c, sum);
    });
  }
  if (gradients.grad_weight) {
    const T* hidden = args.hidden + row * args.hidden_stride;
    for_columns<A>(columns, [&](auto pack, int64_t c) {
      const auto h = pack.load(hidden + c);
#pragma GCC unroll 4
      for (int j = 0; j < D; ++j) {
        A* place = gradients.grad_weight + j * columns + c;
        pack.store(place, pack.load(place) + h * d[j]);
      }
    });
  }
  if (gradients.grad_bias) {
    for (int j = 0; j < D; ++j) gradients.grad_bias[j] += d[j];
  }
}

template <int D, typename T, typename G>
void project_forward(const ProjectArgs<T, G>& args, T* out, int64_t out_stride, Range rows) {
  using A = Accumulate<T>;
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    A a[D], u[D];
    activations<D>(args, n, a);
    add_jitter<D>(args.jitter, n, a, u);
    gather(Corners<A, D>(u, args.lattice), args.grid, args.columns, args.columns, out + n * out_stride);
  }
}

template <int D, typename T, typename G>
void project_backward(const ProjectArgs<T, G>& args, const T* grad_out, int64_t grad_out_stride, Range rows,
                      const ProjectGradients<T>& gradients) {
  using A = Accumulate<T>;
  const bool need_head = gradients.grad_hidden || gradients.grad_weight || gradients.grad_bias;
  const int64_t columns = args.columns;
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    const T* g = grad_out + n * grad_out_stride;
    A a[D], u[D], grad_coords[D];
    activations<D>(args, n, a);
    add_jitter<D>(args.jitter, n, a, u);
    const Corners<A, D> corners(u, args.lattice);
    A dots[Corners<A, D>::kCount] = {};
    if (need_head && gradients.grad_grid) {
      scatter<true, true>(corners, g, args.grid, columns, gradients.grad_grid, columns, columns, dots);
    } else if (need_head) {
      scatter<false, true>(corners, g, args.grid, columns, gradients.grad_grid, columns, columns, dots);
    } else if (gradients.grad_grid) {
      scatter<true, false>(corners, g, args.grid, columns, gradients.grad_grid, columns, columns, dots);
    }
    if (need_head) {
      coords_gradient(corners, dots, grad_coords);
      head_backward<D>(args, n, a, grad_coords, gradients);
    }
  }
}

template <int D, typename T, typename G>
void project_coords(const ProjectArgs<T, G>& args, Accumulate<T>* coords, Range rows) {
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    Accumulate<T> a[D];
    activations<D>(args, n, a);
    add_jitter<D>(args.jitter, n, a, coords + n * D);
  }
}

template <int D, typename T, typename G>
void project_head_backward(const ProjectArgs<T, G>& args, const Accumulate<T>* grad_coords, Range rows,
                           const ProjectGradients<T>& gradients) {
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    Accumulate<T> a[D];
    activations<D>(args, n, a);
    head_backward<D>(args, n, a, grad_coords + n * D, gradients);
  }
}
