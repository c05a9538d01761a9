// How CPU work is cut into parts. The cut depends on sizes only, never on the number of threads, so
// that results do not either.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/rows.h"

namespace grad {

// `count` nearly equal parts of `total`, or parts of a given width.
struct Partition {
  int64_t total;
  int64_t width;

  static Partition of_width(int64_t total, int64_t width) { return {total, std::max<int64_t>(width, 1)}; }
  static Partition of_count(int64_t total, int64_t count) {
    return of_width(total, (total + count - 1) / std::max<int64_t>(count, 1));
  }
  int64_t count() const { return (total + width - 1) / width; }
  Range operator[](int64_t part) const { return {part * width, std::min(total, (part + 1) * width)}; }
};

// Forward: a part's columns of all grid cells should stay in a second-level cache.
inline Partition forward_columns(int64_t columns) { return Partition::of_width(columns, 2048); }

// Rows for about 32,000 values a part.
inline Partition forward_rows(int64_t rows, int64_t columns) {
  return Partition::of_width(rows, 32768 / std::max<int64_t>(columns, 1));
}

// Forward: tiles of rows that are looked up in the order of their cells.
inline Partition forward_tiles(int64_t rows) { return Partition::of_count(rows, (rows + 255) / 256); }

// Backward by rows: each part sums into a gradient of the grid of its own; all of them together stay
// below a tenth of the rows' own gradient. A power of two, so that 2, 4 or 8 threads get equal shares.
// Fewer than two: go by columns.
inline Partition backward_rows(int64_t rows, int64_t cells) {
  const int64_t most = std::min({rows / 512, rows / (10 * cells), int64_t{32}});
  int64_t parts = 1;
  while (2 * parts <= most) parts *= 2;
  return Partition::of_count(rows, parts);
}

// Backward by columns: a part owns its columns of the grid's gradient, 128 KiB of it; more in large
// grids, as finding a row's corners costs as much as 100 of its columns.
inline Partition backward_columns(int64_t columns, int64_t cells) {
  return Partition::of_width(columns, std::clamp<int64_t>(32768 / cells, 128, 2048));
}

// out[i] = sum over parts of parts[p * size + i], in order, for i in `range`.
template <typename A, typename G>
void sum_parts(const A* parts, int64_t count, int64_t size, Range range, G* out) {
  for (int64_t i = range.begin; i < range.end; ++i) {
    A sum = 0;
    for (int64_t p = 0; p < count; ++p) sum += parts[p * size + i];
    store(out + i, sum);
  }
}

}  // namespace grad
