// The fused local head: forward, backward for every choice of gradients, and the head's half alone.
#pragma once

#include <vector>

#include "common/partition.h"
#include "jitter/jitter.h"
#include "naive.h"
#include "project/project.h"
#include "shapes.h"

template <typename T, typename G>
class ProjectCase {
  using A = grad::Accumulate<T>;

 public:
  ProjectCase(Random& random, int dims, const grad::Lattice& lattice, int64_t rows, int64_t hidden_columns,
              int64_t columns)
      : random_(random),
        dims_(dims),
        rows_(rows),
        hidden_columns_(hidden_columns),
        columns_(columns),
        cells_(lattice.cells(dims)),
        checker_(Checker::of<A>(description(lattice))),
        noise_checker_(Checker::of<float>(description(lattice))),
        hidden_layout_(matrix_rows(hidden_columns, true)),
        hidden_(extent(hidden_layout_, rows, hidden_columns)),
        weight_(dims * hidden_columns),
        bias_(dims),
        grid_(cells_ * columns),
        state_(new int64_t[2]),
        a_(rows * dims) {
    fill_random(hidden_, hidden_layout_, rows, hidden_columns, random);
    weight_.fill_random(random, 2 / std::sqrt(hidden_columns + 1.0));
    bias_.fill_random(random, 0.5);
    grid_.fill_random(random, 2);
    if (hidden_.size() && random.chance(10)) {
      const double special = random.chance(50) ? std::nan("") : std::numeric_limits<double>::infinity();
      hidden_.set(hidden_layout_.offset(random.integer(0, rows - 1), random.integer(0, hidden_columns - 1)),
                  special);
    }
    for (int i = 0; i < 2; ++i) {
      state_[i] = static_cast<int64_t>(uint64_t{random.word()} << 32 | random.word());
      if (random.chance(10)) state_[i] = -1;
    }
    const float probabilities[] = {0, 0.5f, 1}, deviations[] = {0.05f, 1, 100};
    args_ = {hidden_.get(),
             hidden_layout_.row_stride,
             weight_.get(),
             bias_.get(),
             grid_.get(),
             hidden_columns,
             columns,
             lattice,
             {random.chance(60) ? state_.get() : nullptr, probabilities[random.integer(0, 2)],
              deviations[random.integer(0, 2)], random.chance(30), nullptr}};
  }

  // `wanted` has a bit for each of grad_hidden, grad_weight, grad_bias and grad_grid.
  void run(int wanted) {
    with_dims(dims_, [&](auto dims) {
      coordinates<dims()>();
      forward<dims()>();
      backward<dims()>(wanted);
      if (!(wanted & 8)) head_backward<dims()>(wanted);
    });
    ++cases_passed();
  }

 private:
  std::string description(const grad::Lattice& lattice) const {
    return describe<T, G>("project", rows_, columns_, dims_, lattice) + ", " +
           std::to_string(hidden_columns_) + " hidden columns";
  }

  // Adjacent columns; rows further apart at times, or all the same.
  RowLayout matrix_rows(int64_t columns, bool may_expand) const {
    const int64_t stride = columns + (random_.chance(50) ? random_.integer(1, 9) : 0);
    return {may_expand && random_.chance(10) ? 0 : stride, std::max<int64_t>(columns, 1), 0};
  }

  double hidden_at(int64_t row, int64_t column) const { return hidden_[hidden_layout_.offset(row, column)]; }

  // Checks the kernel's activations and noise, which is the least exact step; lookups go on from them.
  template <int D>
  void coordinates() {
    Buffer<T> out(rows_ * columns_);
    in_random_parts(random_, rows_, [&](Range rows) {
      grad::project_forward_cpu<D>(args_, out.get(), columns_, a_.get(), rows, random_.chance(50));
    });
    Buffer<float> noises(rows_ * D);
    if (args_.jitter.state) grad::jitter_noise_cpu<D>(args_.jitter, noises.get(), {0, rows_});
    const double slack = std::is_same_v<A, double> ? 1e-12 : 1e-5;
    const double noise_bound = args_.jitter.state ? 6 * args_.jitter.std : 0;  // no normal is larger than 6
    for (int64_t n = 0; n < rows_; ++n) {
      double u[D];
      std::array<double, 4> noise = {};
      if (args_.jitter.state) noise = naive_noise(args_.jitter, n);
      for (int j = 0; j < D; ++j) {
        double sum = bias_[j];
        for (int64_t c = 0; c < hidden_columns_; ++c)
          sum += hidden_at(n, c) * weight_[j * hidden_columns_ + c];
        activations_.push_back(std::tanh(sum));
        checker_.near("activations", n, j, a_[n * D + j], {activations_.back(), 1}, 0);
        const A drawn = args_.jitter.state ? static_cast<A>(noises[n * D + j]) : A{0};
        noise_checker_.near("noise", n, j, drawn, {noise[j], 1 + noise_bound}, 0);
        u[j] = static_cast<A>(a_[n * D + j]) + drawn;
      }
      places_.push_back(place_of(u, D, args_.lattice));
      ambiguous_.push_back(is_ambiguous<A>(u, D, args_.lattice, slack));
    }
  }

  template <int D>
  void forward() {
    std::vector<Expected> want(rows_ * columns_);
    for (int64_t n = 0; n < rows_; ++n) {
      naive_gather(
          places_[n], columns_, [&](int64_t i, int64_t c) { return grid_[i * columns_ + c]; },
          want.data() + n * columns_);
    }
    const RowLayout layout = matrix_rows(columns_, false);
    Buffer<T> out(extent(layout, rows_, columns_)), part(out.size());
    in_random_parts(random_, rows_, [&](Range rows) {
      grad::project_forward_cpu<D>(args_, out.get(), layout.row_stride, a_.get(), rows, random_.chance(50));
    });
    check_part(checker_, "out", out, layout, {0, rows_}, {0, columns_}, columns_, want);

    const Range rows = random_.part(rows_);
    grad::project_forward_cpu<D>(args_, part.get(), layout.row_stride, a_.get(), rows, random_.chance(50));
    check_part(checker_, "part of out", part, layout, rows, {0, columns_}, columns_, want);
  }

  struct Gradients {
    std::vector<Expected> hidden, weight, bias, grid;
  };

  // The head's gradients from those of the coordinates, (N, D).
  Gradients naive_head(const std::vector<Expected>& grad_coords) const {
    Gradients want{std::vector<Expected>(rows_ * hidden_columns_),
                   std::vector<Expected>(dims_ * hidden_columns_),
                   std::vector<Expected>(dims_),
                   {}};
    for (int64_t n = 0; n < rows_; ++n) {
      for (int j = 0; j < dims_; ++j) {
        const Expected& gradient = grad_coords[n * dims_ + j];
        const double a = activations_[n * dims_ + j], d = gradient.value * (1 - a * a);
        want.bias[j].add(d, gradient.magnitude);
        for (int64_t c = 0; c < hidden_columns_; ++c) {
          const double w = weight_[j * hidden_columns_ + c], h = hidden_at(n, c);
          want.hidden[n * hidden_columns_ + c].add(d * w, gradient.magnitude * std::abs(w));
          want.weight[j * hidden_columns_ + c].add(d * h, gradient.magnitude * std::abs(h));
        }
      }
    }
    return want;
  }

  template <int D>
  void backward(int wanted) {
    const RowLayout layout = matrix_rows(columns_, true);
    Buffer<T> grad_out(extent(layout, rows_, columns_));
    fill_random(grad_out, layout, rows_, columns_, random_);
    for (int64_t n = 0; n < rows_; ++n) {
      for (int64_t c = 0; ambiguous_[n] && c < columns_; ++c) grad_out.set(layout.offset(n, c), 0);
    }
    std::vector<Expected> grid(cells_ * columns_), grad_coords;
    for (int64_t n = 0; n < rows_; ++n) {
      const auto coords = naive_scatter(
          places_[n], {0, columns_}, [&](int64_t i, int64_t c) { return grid_[i * columns_ + c]; },
          [&](int64_t c) { return grad_out[layout.offset(n, c)]; }, grid.data());
      grad_coords.insert(grad_coords.end(), coords.begin(), coords.begin() + D);
    }
    Gradients want = naive_head(grad_coords);
    want.grid = std::move(grid);
    in_parts(wanted, want, [&](Range rows, const grad::ProjectGradients<T>& gradients) {
      grad::project_backward_cpu<D>(args_, a_.get(), grad_out.get(), layout.row_stride, rows, gradients);
    });
  }

  template <int D>
  void head_backward(int wanted) {
    Buffer<A> grad_coords(rows_ * D);
    grad_coords.fill_random(random_, 2);
    std::vector<Expected> want;
    for (int64_t i = 0; i < grad_coords.size(); ++i)
      want.push_back({grad_coords[i], std::abs(grad_coords[i])});
    in_parts(wanted, naive_head(want), [&](Range rows, const grad::ProjectGradients<T>& gradients) {
      grad::project_head_backward_cpu<D>(args_, a_.get(), grad_coords.get(), rows, gradients);
    });
  }

  // Runs kernel(rows, gradients) with sums of its own for each part of the rows, adds them up, compares.
  template <typename Kernel>
  void in_parts(int wanted, const Gradients& want, Kernel&& kernel) {
    const grad::Partition parts = grad::backward_rows(rows_, cells_);
    const int64_t sizes[] = {dims_ * hidden_columns_, dims_, cells_ * columns_};
    Buffer<T> grad_hidden(rows_ * hidden_columns_);
    Buffer<A> grad_weight(parts.count() * sizes[0]), grad_bias(parts.count() * sizes[1]),
        grad_grid(parts.count() * sizes[2]);
    for (Buffer<A>* sums : {&grad_weight, &grad_bias, &grad_grid}) sums->fill(0);
    for (int64_t part = 0; part < parts.count(); ++part) {
      kernel(parts[part],
             grad::ProjectGradients<T>{wanted & 1 ? grad_hidden.get() : nullptr,
                                       wanted & 2 ? grad_weight.get() + part * sizes[0] : nullptr,
                                       wanted & 4 ? grad_bias.get() + part * sizes[1] : nullptr,
                                       grad_grid.get() + part * sizes[2], random_.chance(50)});
    }
    Buffer<A> weight(sizes[0]), bias(sizes[1]);
    Buffer<G> grid(sizes[2]);
    grad::sum_parts(grad_weight.get(), parts.count(), sizes[0], {0, sizes[0]}, weight.get());
    grad::sum_parts(grad_bias.get(), parts.count(), sizes[1], {0, sizes[1]}, bias.get());
    grad::sum_parts(grad_grid.get(), parts.count(), sizes[2], {0, sizes[2]}, grid.get());
    if (wanted & 1) checker_.near("grad_hidden", grad_hidden, want.hidden, hidden_columns_);
    if (wanted & 2) checker_.near("grad_weight", weight, want.weight, hidden_columns_);
    if (wanted & 4) checker_.near("grad_bias", bias, want.bias, dims_);
    if (wanted & 8) checker_.near("grad_grid", grid, want.grid, columns_);
  }

  Random& random_;
  int dims_;
  int64_t rows_, hidden_columns_, columns_, cells_;
  Checker checker_;
  Checker noise_checker_;  // noise is float32 whatever the features are
  RowLayout hidden_layout_;
  Buffer<T> hidden_;
  Buffer<A> weight_, bias_;
  Buffer<G> grid_;
  std::unique_ptr<int64_t[]> state_;
  Buffer<A> a_;  // the kernel's activations
  grad::ProjectArgs<T, G> args_;
  std::vector<double> activations_;
  std::vector<Place> places_;
  std::vector<bool> ambiguous_;
};

template <typename T, typename G>
void project_cases(Random& random) {
  for (int dims = 1; dims <= 4; ++dims) {
    for (int wanted = 0; wanted < 16; ++wanted) {
      const bool large = wanted % 8 == 7;  // several parts of rows
      const grad::Lattice lattice =
          random_lattice(random, dims, random.chance(50), random.chance(50), large ? 2 : 9);
      const int64_t rows = large ? random.integer(1024, 1700) : random_rows(random);
      const int64_t columns = limit_columns(large ? random.integer(1, 20) : random_columns(random), rows,
                                            dims, lattice.cells(dims));
      const int64_t hidden_columns = large ? random.integer(1, 20) : random_columns(random);
      ProjectCase<T, G>(random, dims, lattice, rows, hidden_columns, columns).run(wanted);
    }
  }
}
