// The fused local head: random ones, and what forward, backward for every choice of gradients, and the
// head's half alone should give. The device runs and checks them in each of its ways.
#pragma once

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "checker.h"
#include "oracle.h"
#include "project/project.h"
#include "shapes.h"

struct ProjectShape {
  int dims;
  grad::Lattice lattice;
  int64_t rows, hidden_columns, columns;
};

// Device is the memory too, and has
//   template <int D, typename Case>
//   static void project_activations(const Case&, Buffer<Device, A>& activations);
//   template <int D, typename Case>
//   static void jitter_noise(const Case&, Buffer<Device, float>& noise);
//   template <int D, typename Case>
//   static void project_forward(const Case&, const RowLayout& out, const std::vector<Expected>& want);
//   template <int D, typename Case>
//   static void project_backward(const Case&, const Case::Backward&);
//   template <typename T, typename G>
//   static std::vector<int> project_limits();  // see limit_project_cases
template <typename Device, typename T, typename G>
class ProjectCase {
 public:
  using Value = T;
  using Parameter = G;
  using A = grad::Accumulate<T>;

  // One backward pass: with grad_coords given, only the head's half.
  struct Backward {
    const A* activations;
    const T* grad_out;
    int64_t grad_out_stride;
    const A* grad_coords;
    bool need_hidden, need_weight, need_bias, need_grid;
    std::vector<Expected> want_hidden, want_weight, want_bias, want_grid;
  };

  ProjectCase(Random& random, const ProjectShape& shape, Alignment alignment)
      : random_(random),
        alignment_(alignment),
        dims_(shape.dims),
        rows_(shape.rows),
        hidden_columns_(alignment.columns(shape.hidden_columns)),
        columns_(alignment.columns(shape.columns)),
        cells_(shape.lattice.cells(shape.dims)),
        checker_(Checker::of<A>(description(shape.lattice), longest_axis(shape.lattice))),
        noise_checker_(Checker::of<float>(description(shape.lattice))),
        hidden_layout_(alignment.rows(random, hidden_columns_, true)),
        hidden_(extent(hidden_layout_, rows_, hidden_columns_), shift()),
        weight_(dims_ * hidden_columns_, shift()),
        bias_(dims_),
        grid_(cells_ * columns_, shift()),
        state_(3),
        a_(rows_ * dims_) {
    fill_random(hidden_, hidden_layout_, rows_, hidden_columns_, random);
    weight_.fill_random(random, 2 / std::sqrt(hidden_columns_ + 1.0));
    bias_.fill_random(random, 0.5);
    grid_.fill_random(random, 2);
    if (hidden_.size() && random.chance(10)) {
      const double special = random.chance(50) ? std::nan("") : std::numeric_limits<double>::infinity();
      const int64_t row = random.integer(0, rows_ - 1), column = random.integer(0, hidden_columns_ - 1);
      hidden_.set(hidden_layout_.offset(row, column), special);
    }
    for (int i = 0; i < 2; ++i) {
      const uint64_t word = uint64_t{random.word()} << 32 | random.word();
      state_.put(i, random.chance(10) ? -1 : static_cast<int64_t>(word));
    }
    state_.put(2, random.integer(0, 1000000));
    const float probabilities[] = {0, 0.5f, 1}, deviations[] = {0.05f, 1, 100};
    args_ = {hidden_.get(),
             hidden_layout_.row_stride,
             weight_.get(),
             bias_.get(),
             grid_.get(),
             hidden_columns_,
             columns_,
             shape.lattice,
             {random.chance(60) ? state_.get() : nullptr, probabilities[random.integer(0, 2)],
              deviations[random.integer(0, 2)], random.chance(30),
              random.chance(30) ? state_.get() + 2 : nullptr}};
  }

  // `wanted` has a bit for each of grad_hidden, grad_weight, grad_bias and grad_grid.
  void run(int wanted) {
    grad::dispatch_dims(dims_, [&](auto dims) {
      coordinates<dims()>();
      forward<dims()>();
      backward<dims()>(wanted);
      if (!(wanted & 8)) head_backward<dims()>(wanted);
    });
    ++cases_passed();
  }

  // For the device.
  Random& random() const { return random_; }
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  int64_t hidden_columns() const { return hidden_columns_; }
  int64_t cells() const { return cells_; }
  const Checker& checker() const { return checker_; }
  int64_t shift() const { return alignment_.shift(random_); }
  const grad::ProjectArgs<T, G>& args() const { return args_; }

 private:
  std::string description(const grad::Lattice& lattice) const {
    return describe<T, G>("project", rows_, columns_, dims_, lattice) + ", " +
           std::to_string(hidden_columns_) + " hidden columns";
  }

  double hidden_at(int64_t row, int64_t column) const { return hidden_[hidden_layout_.offset(row, column)]; }

  // Checks the kernel's activations and noise, which is the least exact step; lookups go on from them.
  template <int D>
  void coordinates() {
    Device::template project_activations<D>(*this, a_);
    Buffer<Device, float> noises(rows_ * D);
    if (args_.jitter.state) Device::template jitter_noise<D>(*this, noises);
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
    const RowLayout layout = alignment_.rows(random_, columns_, false);
    Device::template project_forward<D>(*this, layout, want);
  }

  Backward wanted_of(int wanted) const {
    Backward backward{};
    backward.activations = a_.get();
    backward.need_hidden = wanted & 1;
    backward.need_weight = wanted & 2;
    backward.need_bias = wanted & 4;
    backward.need_grid = wanted & 8;
    return backward;
  }

  // The head's gradients from those of the coordinates, (N, D).
  void naive_head(const std::vector<Expected>& grad_coords, Backward& want) const {
    want.want_hidden.resize(rows_ * hidden_columns_);
    want.want_weight.resize(dims_ * hidden_columns_);
    want.want_bias.resize(dims_);
    for (int64_t n = 0; n < rows_; ++n) {
      for (int j = 0; j < dims_; ++j) {
        const Expected& gradient = grad_coords[n * dims_ + j];
        const double a = activations_[n * dims_ + j], d = gradient.value * (1 - a * a);
        want.want_bias[j].add(d, gradient.magnitude);
        for (int64_t c = 0; c < hidden_columns_; ++c) {
          const double w = weight_[j * hidden_columns_ + c], h = hidden_at(n, c);
          want.want_hidden[n * hidden_columns_ + c].add(d * w, gradient.magnitude * std::abs(w));
          want.want_weight[j * hidden_columns_ + c].add(d * h, gradient.magnitude * std::abs(h));
        }
      }
    }
  }

  template <int D>
  void backward(int wanted) {
    const RowLayout layout = alignment_.rows(random_, columns_, true);
    Buffer<Device, T> grad_out(extent(layout, rows_, columns_), shift());
    fill_random(grad_out, layout, rows_, columns_, random_);
    for (int64_t n = 0; n < rows_; ++n) {
      for (int64_t c = 0; ambiguous_[n] && c < columns_; ++c) grad_out.set(layout.offset(n, c), 0);
    }
    Backward backward = wanted_of(wanted);
    backward.grad_out = grad_out.get();
    backward.grad_out_stride = layout.row_stride;
    backward.want_grid.resize(cells_ * columns_);
    std::vector<Expected> grad_coords;
    for (int64_t n = 0; n < rows_; ++n) {
      const auto coords = naive_scatter(
          places_[n], {0, columns_}, [&](int64_t i, int64_t c) { return grid_[i * columns_ + c]; },
          [&](int64_t c) { return grad_out[layout.offset(n, c)]; }, backward.want_grid.data());
      grad_coords.insert(grad_coords.end(), coords.begin(), coords.begin() + D);
    }
    naive_head(grad_coords, backward);
    Device::template project_backward<D>(*this, backward);
  }

  template <int D>
  void head_backward(int wanted) {
    Buffer<Device, A> grad_coords(rows_ * D);
    grad_coords.fill_random(random_, 2);
    std::vector<Expected> want;
    for (int64_t i = 0; i < grad_coords.size(); ++i)
      want.push_back({grad_coords[i], std::abs(grad_coords[i])});
    Backward backward = wanted_of(wanted);
    backward.grad_coords = grad_coords.get();
    naive_head(want, backward);
    Device::template project_backward<D>(*this, backward);
  }

  Random& random_;
  Alignment alignment_;
  int dims_;
  int64_t rows_, hidden_columns_, columns_, cells_;
  Checker checker_;
  Checker noise_checker_;  // noise is float32 whatever the features are
  RowLayout hidden_layout_;
  Buffer<Device, T> hidden_;
  Buffer<Device, A> weight_, bias_;
  Buffer<Device, G> grid_;
  Buffer<Device, int64_t> state_;
  Buffer<Device, A> a_;  // the kernel's activations
  grad::ProjectArgs<T, G> args_;
  std::vector<double> activations_;
  std::vector<Place> places_;
  std::vector<bool> ambiguous_;
};

template <typename Device, typename T, typename G>
void project_cases(Random& random, Choice choice) {
  for (int dims = 1; dims <= 4; ++dims) {
    for (int wanted = 0; wanted < 16; ++wanted) {
      const bool large = wanted % 8 == 7;  // several parts of rows
      const grad::Lattice lattice =
          random_lattice(random, dims, random.chance(50), random.chance(50), large ? 2 : 9);
      const int64_t rows = large ? random.integer(1024, 1700) : random_rows(random);
      const int64_t columns = limit_columns(large ? random.integer(1, 20) : random_columns(random), rows,
                                            dims, lattice.cells(dims));
      const int64_t hidden_columns = large ? random.integer(1, 20) : random_columns(random);
      const ProjectShape shape{dims, lattice, rows, hidden_columns, columns};
      if (!choice.next()) continue;
      ProjectCase<Device, T, G>(random, shape, Alignment::random(random)).run(wanted);
    }
  }
}

// Every axis that may be empty.
template <typename Device, typename T, typename G>
void empty_project_cases(Random& random) {
  for (int dims = 1; dims <= 4; ++dims) {
    const grad::Lattice lattice{{4, 3, 2, 2}, false, false};
    for (const int64_t rows : {0, 3}) {
      for (const int64_t hidden_columns : {0, 5}) {
        for (const int64_t columns : {0, 5}) {
          const ProjectShape shape{dims, lattice, rows, hidden_columns, columns};
          for (const int wanted : {7, 15}) {
            ProjectCase<Device, T, G>(random, shape, Alignment::any()).run(wanted);
          }
        }
      }
    }
  }
}

// Of one axis and column: as many cells as a device's best way takes, and one more.
template <typename Device, typename T, typename G>
void limit_project_cases(Random& random) {
  for (const int cells : Device::template project_limits<T, G>()) {
    const ProjectShape shape{1, {{cells, 1, 1, 1}, false, false}, 40, 1, 1};
    ProjectCase<Device, T, G>(random, shape, Alignment::any()).run(15);
  }
}
