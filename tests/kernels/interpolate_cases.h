// Lookups: random ones, and what they should give. The device runs and checks them in each of its ways.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "checker.h"
#include "interpolate/interpolate.h"
#include "oracle.h"
#include "shapes.h"

struct InterpolateShape {
  int dims;
  grad::Lattice lattice;
  int64_t rows, columns;
};

// Device is the memory too, and has
//   template <int D, typename Case>
//   static void interpolate_forward(const Case&, const RowLayout& out, const std::vector<Expected>& want);
//   template <int D, typename Case>
//   static void interpolate_backward(const Case&, const Case::Backward&);
//   template <typename T, typename G>
//   static std::vector<int> interpolate_limits();  // see limit_interpolate_cases
template <typename Device, typename T, typename G>
class InterpolateCase {
 public:
  using Value = T;
  using Parameter = G;
  using A = grad::Accumulate<T>;

  struct Gradients {
    std::vector<Expected> grid, coords;
  };

  // One backward pass: the gradients that are wanted, of which values.
  struct Backward {
    grad::InterpolateBackward<T, G> args;
    bool need_grid, need_coords;
    const Buffer<Device, T>& grad_out;
  };

  InterpolateCase(Random& random, const InterpolateShape& shape, Alignment alignment)
      : random_(random),
        alignment_(alignment),
        dims_(shape.dims),
        rows_(shape.rows),
        columns_(alignment.columns(shape.columns)),
        cells_(shape.lattice.cells(shape.dims)),
        lattice_(shape.lattice),
        checker_(Checker::of<A>(describe<T, G>("interpolate", rows_, columns_, dims_, lattice_),
                                longest_axis(lattice_))),
        coords_(rows_ * dims_),
        grid_(cells_ * columns_, alignment.shift(random)) {
    for (int64_t i = 0; i < coords_.size(); ++i) {
      coords_.set(i, random_coordinate(random, lattice_.size[i % dims_], lattice_.align_corners));
    }
    grid_.fill_random(random, 2);
    for (int64_t n = 0; n < rows_; ++n) {
      double coords[4];
      for (int j = 0; j < dims_; ++j) coords[j] = coords_[n * dims_ + j];
      places_.push_back(place_of(coords, dims_, lattice_));
      ambiguous_.push_back(is_ambiguous<A>(coords, dims_, lattice_, 0));
    }
  }

  void run() {
    forward();
    for (const bool need_grid : {false, true}) {
      for (const bool need_coords : {false, true}) backward(need_grid, need_coords);
    }
    ++cases_passed();
  }

  // For the device.
  Random& random() const { return random_; }
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  int64_t cells() const { return cells_; }
  const Checker& checker() const { return checker_; }
  int64_t shift() const { return alignment_.shift(random_); }

  grad::InterpolateForward<T, G> forward_args(const RowLayout& layout, T* out) const {
    return {coords_.get(), grid_.get(), out, layout, columns_, lattice_};
  }

  // What part of the rows and columns gives: grid (cells, columns.size()), coords (N, D).
  Gradients gradients(const Backward& backward, Range rows, Range columns) const {
    Gradients want{std::vector<Expected>(cells_ * columns.size()), std::vector<Expected>(rows_ * dims_)};
    for (int64_t n = rows.begin; n < rows.end; ++n) {
      const auto coords = naive_scatter(
          places_[n], columns, [&](int64_t i, int64_t c) { return grid_[i * columns_ + c]; },
          [&](int64_t c) { return backward.grad_out[backward.args.layout.offset(n, c)]; }, want.grid.data());
      for (int j = 0; j < dims_; ++j) want.coords[n * dims_ + j] = coords[j];
    }
    return want;
  }

 private:
  void forward() {
    std::vector<Expected> want(rows_ * columns_);
    for (int64_t n = 0; n < rows_; ++n) {
      naive_gather(
          places_[n], columns_, [&](int64_t i, int64_t c) { return grid_[i * columns_ + c]; },
          want.data() + n * columns_);
    }
    const RowLayout layout = alignment_.runs(random_, columns_, false);
    grad::dispatch_dims(
        dims_, [&](auto dims) { Device::template interpolate_forward<dims()>(*this, layout, want); });
  }

  void backward(bool need_grid, bool need_coords) {
    const RowLayout layout = alignment_.runs(random_, columns_, true);
    Buffer<Device, T> grad_out(extent(layout, rows_, columns_), shift());
    fill_random(grad_out, layout, rows_, columns_, random_);
    for (int64_t n = 0; n < rows_; ++n) {
      for (int64_t c = 0; ambiguous_[n] && c < columns_; ++c) grad_out.set(layout.offset(n, c), 0);
    }
    const G* grid = need_coords || random_.chance(50) ? grid_.get() : nullptr;
    const Backward backward{
        {coords_.get(), grid, grad_out.get(), layout, columns_, lattice_}, need_grid, need_coords, grad_out};
    grad::dispatch_dims(dims_,
                        [&](auto dims) { Device::template interpolate_backward<dims()>(*this, backward); });
  }

  Random& random_;
  Alignment alignment_;
  int dims_;
  int64_t rows_, columns_, cells_;
  grad::Lattice lattice_;
  Checker checker_;
  Buffer<Device, A> coords_;
  Buffer<Device, G> grid_;
  std::vector<Place> places_;
  std::vector<bool> ambiguous_;
};

template <typename Device, typename T, typename G>
void interpolate_cases(Random& random, Choice choice) {
  for (int dims = 1; dims <= 4; ++dims) {
    for (int option = 0; option < 4; ++option) {
      const bool align_corners = option & 1, border = option & 2;
      const auto run = [&](int largest, int64_t rows, int64_t columns) {
        const grad::Lattice lattice = random_lattice(random, dims, align_corners, border, largest);
        columns = limit_columns(columns, rows, dims, lattice.cells(dims));
        const InterpolateShape shape{dims, lattice, rows, columns};
        if (choice.next()) InterpolateCase<Device, T, G>(random, shape, Alignment::random(random)).run();
      };
      for (int i = 0; i < 3; ++i) run(9, random_rows(random), random_columns(random));
      if (option == dims - 1) {
        run(2, random.integer(1024, 1700), random.integer(1, 20));              // several parts of rows
        run(3, random.integer(1, 4), random.integer(2049, 4200));               // several parts of columns
        run(2, (1 << dims) + random.integer(0, 3), random.integer(600, 1300));  // as many rows as cells
      }
    }
  }
}

// Every axis that may be empty.
template <typename Device, typename T, typename G>
void empty_interpolate_cases(Random& random) {
  for (int dims = 1; dims <= 4; ++dims) {
    const grad::Lattice lattice{{4, 3, 2, 2}, false, false};
    for (const int64_t rows : {0, 3}) {
      for (const int64_t columns : {0, 5}) {
        InterpolateCase<Device, T, G>(random, {dims, lattice, rows, columns}, Alignment::any()).run();
      }
    }
  }
}

// Of one axis and column: as many cells as a device's best way takes, and one more.
template <typename Device, typename T, typename G>
void limit_interpolate_cases(Random& random) {
  for (const int cells : Device::template interpolate_limits<T, G>()) {
    const InterpolateShape shape{1, {{cells, 1, 1, 1}, false, false}, 40, 1};
    InterpolateCase<Device, T, G>(random, shape, Alignment::any()).run();
  }
}
