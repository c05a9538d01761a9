// Lookups: whole, cut as csrc/interpolate/interpolate.cpp cuts them, and any other part.
#pragma once

#include <numeric>
#include <utility>
#include <vector>

#include "common/lines.h"
#include "common/partition.h"
#include "common/write_past_caches.h"
#include "interpolate/interpolate.h"
#include "naive.h"
#include "shapes.h"

// Inside, on and next to cell borders, outside, far outside, infinite and NaN.
inline double random_coordinate(Random& random, int size, bool align_corners) {
  const double infinity = std::numeric_limits<double>::infinity();
  const int64_t kind = random.integer(1, 100), cell = random.integer(-2, size + 1);
  const double border = align_corners ? -1 + 2.0 * cell / std::max(size - 1, 1) : (2.0 * cell + 1) / size - 1;
  const double sign = random.chance(50) ? 1 : -1;
  if (kind <= 60) return random.uniform(-1.3, 1.3);
  if (kind <= 72) return border;
  if (kind <= 78) return std::nextafter(static_cast<float>(border), static_cast<float>(sign * infinity));
  if (kind <= 86) return sign * static_cast<double>(random.integer(0, 1));
  if (kind <= 94) return sign * std::pow(10.0, random.uniform(0, 30));
  return kind <= 97 ? sign * infinity : std::nan("");
}

template <typename T, typename G>
class InterpolateCase {
  using A = grad::Accumulate<T>;

 public:
  InterpolateCase(Random& random, int dims, const grad::Lattice& lattice, int64_t rows, int64_t columns)
      : random_(random),
        dims_(dims),
        rows_(rows),
        columns_(columns),
        cells_(lattice.cells(dims)),
        lattice_(lattice),
        checker_(Checker::of<A>(describe<T, G>("interpolate", rows, columns, dims, lattice))),
        coords_(rows * dims),
        grid_(cells_ * columns) {
    for (int64_t i = 0; i < coords_.size(); ++i) {
      coords_.set(i, random_coordinate(random, lattice.size[i % dims], lattice.align_corners));
    }
    grid_.fill_random(random, 2);
    for (int64_t n = 0; n < rows; ++n) {
      double coords[4];
      for (int j = 0; j < dims; ++j) coords[j] = coords_[n * dims + j];
      places_.push_back(place_of(coords, dims, lattice));
      ambiguous_.push_back(is_ambiguous<A>(coords, dims, lattice, 0));
    }
  }

  void run() {
    forward();
    for (const bool need_grid : {false, true}) {
      for (const bool need_coords : {false, true}) backward(need_grid, need_coords);
    }
    ++cases_passed();
  }

 private:
  void forward() {
    std::vector<Expected> want(rows_ * columns_);
    for (int64_t n = 0; n < rows_; ++n) {
      naive_gather(
          places_[n], columns_, [&](int64_t i, int64_t c) { return grid_[i * columns_ + c]; },
          want.data() + n * columns_);
    }
    const RowLayout layout = random_layout(random_, columns_);
    const int64_t size = extent(layout, rows_, columns_);
    with_dims(dims_, [&](auto dims) {
      Buffer<T> out(size);
      const grad::Partition column_parts = grad::forward_columns(columns_);
      const grad::Partition row_parts = grad::forward_rows(rows_, column_parts.width);
      for (int64_t i = 0; i < column_parts.count(); ++i) {
        for (int64_t j = 0; j < row_parts.count(); ++j) {
          grad::interpolate_forward_cpu<dims()>(forward_args(layout, out), row_parts[j], column_parts[i]);
        }
      }
      check_part(checker_, "out", out, layout, {0, rows_}, {0, columns_}, columns_, want);

      Buffer<T> part(size);
      const Range rows = random_.part(rows_), columns = random_.part(columns_);
      grad::interpolate_forward_cpu<dims()>(forward_args(layout, part), rows, columns);
      check_part(checker_, "part of out", part, layout, rows, columns, columns_, want);
    });
  }

  grad::InterpolateForward<T, G> forward_args(const RowLayout& layout, Buffer<T>& out) const {
    return {coords_.get(), grid_.get(), out.get(), layout, columns_, lattice_, random_.chance(50)};
  }

  void backward(bool need_grid, bool need_coords) {
    RowLayout layout = random_layout(random_, columns_);
    if (random_.chance(10)) layout.row_stride = 0;  // an expanded row
    Buffer<T> grad_out(extent(layout, rows_, columns_));
    fill_random(grad_out, layout, rows_, columns_, random_);
    for (int64_t n = 0; n < rows_; ++n) {
      for (int64_t c = 0; ambiguous_[n] && c < columns_; ++c) grad_out.set(layout.offset(n, c), 0);
    }
    const G* grid = need_coords || random_.chance(50) ? grid_.get() : nullptr;
    const grad::InterpolateBackward<T, G> args{coords_.get(), grid,     grad_out.get(),
                                               layout,        columns_, lattice_};
    const Range rows{0, rows_}, columns{0, columns_};
    const Gradients want = naive_backward(grad_out, layout, rows, columns);
    with_dims(dims_, [&](auto dims) {
      const grad::Partition row_parts = grad::backward_rows(rows_, cells_);
      if (row_parts.count() > 1) by_rows<dims()>(args, row_parts, need_grid, need_coords, want);
      by_columns<dims()>(args, need_grid, need_coords, want);

      const Range some_rows = random_.part(rows_), some_columns = random_.part(columns_);
      Buffer<A> grad_grid(cells_ * some_columns.size()), grad_coords(rows_ * dims_);
      grad_grid.fill(0);
      grad::interpolate_backward_cpu<dims()>(args, some_rows, some_columns,
                                             need_grid ? grad_grid.get() : nullptr, some_columns.size(),
                                             need_coords ? grad_coords.get() : nullptr);
      const Gradients part = naive_backward(grad_out, layout, some_rows, some_columns);
      if (need_grid) checker_.near("part of grad_grid", grad_grid, part.grid, some_columns.size());
      const Range written = need_coords ? some_rows : Range{0, 0};
      check_part(checker_, "part of grad_coords", grad_coords, {dims_, dims_, 0}, written, {0, dims_}, dims_,
                 part.coords);
    });
  }

  struct Gradients {
    std::vector<Expected> grid, coords;
  };

  Gradients naive_backward(const Buffer<T>& grad_out, const RowLayout& layout, Range rows,
                           Range columns) const {
    Gradients want{std::vector<Expected>(cells_ * columns.size()), std::vector<Expected>(rows_ * dims_)};
    for (int64_t n = rows.begin; n < rows.end; ++n) {
      const auto coords = naive_scatter(
          places_[n], columns, [&](int64_t i, int64_t c) { return grid_[i * columns_ + c]; },
          [&](int64_t c) { return grad_out[layout.offset(n, c)]; }, want.grid.data());
      for (int j = 0; j < dims_; ++j) want.coords[n * dims_ + j] = coords[j];
    }
    return want;
  }

  // Each part of the rows sums into a gradient of the grid of its own.
  template <int D>
  void by_rows(const grad::InterpolateBackward<T, G>& args, const grad::Partition& parts, bool need_grid,
               bool need_coords, const Gradients& want) const {
    const int64_t size = cells_ * columns_;
    Buffer<A> sums(parts.count() * size), grad_coords(rows_ * D);
    Buffer<G> grad_grid(size);
    sums.fill(0);
    for (int64_t part = 0; part < parts.count(); ++part) {
      grad::interpolate_backward_cpu<D>(args, parts[part], {0, columns_},
                                        need_grid ? sums.get() + part * size : nullptr, columns_,
                                        need_coords ? grad_coords.get() : nullptr);
    }
    grad::sum_parts(sums.get(), parts.count(), size, {0, size}, grad_grid.get());
    if (need_grid) checker_.near("grad_grid by rows", grad_grid, want.grid, columns_);
    if (need_coords) checker_.near("grad_coords by rows", grad_coords, want.coords, D);
  }

  // Each part owns some columns of the grid's gradient, and has a share in each coordinate's gradient.
  template <int D>
  void by_columns(grad::InterpolateBackward<T, G> args, bool need_grid, bool need_coords,
                  const Gradients& want) const {
    std::vector<int> order(rows_);
    std::iota(order.begin(), order.end(), 0);
    for (int64_t i = rows_ - 1; i > 0; --i) std::swap(order[i], order[random_.integer(0, i)]);
    if (random_.chance(50)) args.order = order.data();
    const grad::Partition parts = grad::backward_columns(columns_, cells_);
    const int64_t pitch = grad::apart<A>(parts.width);
    Buffer<G> grad_grid(cells_ * columns_);
    Buffer<A> shares(parts.count() * rows_ * D), grad_coords(rows_ * D);
    for (int64_t part = 0; part < parts.count(); ++part) {
      const Range columns = parts[part];
      Buffer<A> sums(cells_ * pitch);
      sums.fill(0);
      grad::interpolate_backward_cpu<D>(args, {0, rows_}, columns, need_grid ? sums.get() : nullptr, pitch,
                                        need_coords ? shares.get() + part * rows_ * D : nullptr);
      for (int64_t cell = 0; cell < cells_; ++cell) {
        grad::write_past_caches(grad_grid.get() + cell * columns_ + columns.begin, sums.get() + cell * pitch,
                                columns.size());
      }
    }
    grad::finish_writes();
    grad::sum_parts(shares.get(), parts.count(), rows_ * D, {0, rows_ * D}, grad_coords.get());
    if (need_grid) checker_.near("grad_grid by columns", grad_grid, want.grid, columns_);
    if (need_coords && columns_) checker_.near("grad_coords by columns", grad_coords, want.coords, D);
  }

  Random& random_;
  int dims_;
  int64_t rows_, columns_, cells_;
  grad::Lattice lattice_;
  Checker checker_;
  Buffer<A> coords_;
  Buffer<G> grid_;
  std::vector<Place> places_;
  std::vector<bool> ambiguous_;
};

template <typename T, typename G>
void interpolate_cases(Random& random) {
  for (int dims = 1; dims <= 4; ++dims) {
    for (int option = 0; option < 4; ++option) {
      const bool align_corners = option & 1, border = option & 2;
      const auto run = [&](int largest, int64_t rows, int64_t columns) {
        const grad::Lattice lattice = random_lattice(random, dims, align_corners, border, largest);
        columns = limit_columns(columns, rows, dims, lattice.cells(dims));
        InterpolateCase<T, G>(random, dims, lattice, rows, columns).run();
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

// Every 16-bit value as a float, and as what the floats at and next to it and half way up round to. One
// cell of weight 1 passes a value on as it is.
template <typename H>
void conversion_cases(int64_t run) {
  const Checker checker = Checker::of<float>(std::string("conversions of ") + Type<H>::name);
  const grad::Lattice lattice{{1, 1, 1, 1}, false, true};
  Buffer<float> coords(1);
  coords.fill(0);

  Buffer<H> all(1 << 16);
  Buffer<float> loaded(all.size());
  for (int64_t i = 0; i < all.size(); ++i) all.get()[i].bits = static_cast<uint16_t>(i);
  loaded.fill(0);
  grad::interpolate_backward_cpu<1>(
      grad::InterpolateBackward<H, float>{
          coords.get(), nullptr, all.get(), {0, run, run}, all.size(), lattice},
      {0, 1}, {0, all.size()}, loaded.get(), all.size(), nullptr);
  for (int64_t i = 0; i < all.size(); ++i) checker.near("loaded", 0, i, loaded[i], {all[i], 0}, 0);

  std::vector<float> floats;
  for (int64_t i = 0; i + 1 < all.size(); ++i) {
    const float value = static_cast<float>(all[i]), next = static_cast<float>(all[i + 1]);
    if (!std::isfinite(value)) continue;
    // The last step before infinity is as wide as the one before it.
    const float middle = std::isfinite(next) ? value + (next - value) / 2
                                             : value + (value - static_cast<float>(all[i - 1])) / 2;
    for (const float x : {value, middle}) {
      if (!std::isfinite(x)) continue;
      floats.insert(floats.end(),
                    {std::nextafter(x, -2 * std::abs(x) - 1), x, std::nextafter(x, 2 * std::abs(x) + 1)});
    }
  }
  floats.push_back(std::nanf(""));
  Buffer<float> grid(static_cast<int64_t>(floats.size()));
  std::memcpy(grid.get(), floats.data(), floats.size() * sizeof(float));
  for (const bool past_caches : {false, true}) {
    Buffer<H> stored(grid.size());
    grad::interpolate_forward_cpu<1>(
        grad::InterpolateForward<H, float>{
            coords.get(), grid.get(), stored.get(), {0, run, run}, grid.size(), lattice, past_caches},
        {0, 1}, {0, grid.size()});
    for (int64_t i = 0; i < grid.size(); ++i) {
      checker.near("stored", 0, i, stored[i], {rounded_to<H>(grid[i]), 0}, 0);
    }
  }
  ++cases_passed();
}
