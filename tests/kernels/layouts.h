// How the matrices of a case lie in memory.
#pragma once

#include <algorithm>
#include <cstdint>

#include "buffer.h"
#include "common/rows.h"
#include "random.h"

using grad::RowLayout;

// Elements from the first to the last one that `rows` of `columns` have in this layout.
inline int64_t extent(const RowLayout& layout, int64_t rows, int64_t columns) {
  return rows && columns ? layout.offset(rows - 1, columns - 1) + 1 : 0;
}

// Sets the elements that belong to the matrix; what lies between stays NaN.
template <typename Memory, typename T>
void fill_random(Buffer<Memory, T>& buffer, const RowLayout& layout, int64_t rows, int64_t columns,
                 Random& random) {
  for (int64_t n = 0; n < rows; ++n) {
    for (int64_t c = 0; c < columns; ++c) buffer.set(layout.offset(n, c), random.uniform(-2, 2));
  }
}

// Packed: all is aligned and a multiple of 8 elements, as where whole packets can be moved. Else anything.
class Alignment {
 public:
  static Alignment random(Random& random) { return Alignment(random.chance(50)); }
  static Alignment packed() { return Alignment(true); }
  static Alignment any() { return Alignment(false); }

  bool is_packed() const { return packed_; }

  // How many elements an array begins behind a wide alignment.
  int64_t shift(Random& random) const { return !packed_ && random.chance(50) ? random.integer(1, 3) : 0; }

  int64_t columns(int64_t columns) const {
    return packed_ ? (columns + unit() - 1) / unit() * unit() : columns;
  }

  // Adjacent columns; rows further apart at times, or, where they are only read, all the same.
  RowLayout rows(Random& random, int64_t columns, bool may_expand) const {
    const int64_t run = std::max<int64_t>(columns, 1);
    if (may_expand && random.chance(8)) return {0, run, 0};
    return {columns + gap(random, 0), run, 0};
  }

  // The same, or the columns in runs with gaps between them.
  RowLayout runs(Random& random, int64_t columns, bool may_expand) const {
    if (columns <= unit() || !random.chance(40)) return rows(random, columns, may_expand);
    const int64_t run = unit() * random.integer(1, std::max<int64_t>(columns / unit() - 1, 1));
    const int64_t run_stride = run + gap(random, 1);
    const int64_t row_stride = (columns + run - 1) / run * run_stride + gap(random, 0);
    return {may_expand && random.chance(8) ? 0 : row_stride, run, run_stride};
  }

 private:
  explicit Alignment(bool packed) : packed_(packed) {}
  int64_t unit() const { return packed_ ? 8 : 1; }
  int64_t gap(Random& random, int64_t least) const {
    return least == 0 && random.chance(50) ? 0 : unit() * random.integer(1, 9);
  }

  bool packed_;
};
