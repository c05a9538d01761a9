// How kernels see tensors: rows x columns, with the columns of a row in equal runs.
#pragma once

#include <cstdint>

#include "common/scalar.h"

namespace grad {

// Half-open range of rows or columns.
struct Range {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// Element (n, c) lies at n * row_stride + (c / run) * run_stride + c % run. A plain matrix has one
// run a row; the global lookup of an image has one run a pixel, so that it can write its channels
// beside those of the local lookup.
struct RowLayout {
  int64_t row_stride;
  int64_t run;
  int64_t run_stride;

  GRAD_HOST_DEVICE int64_t offset(int64_t row, int64_t column) const {
    return row * row_stride + (column / run) * run_stride + column % run;
  }
};

// Calls body(begin, size) for each part of `columns` that lies within one run.
template <typename Body>
inline void for_runs(const RowLayout& layout, Range columns, Body&& body) {
  for (int64_t begin = columns.begin; begin < columns.end;) {
    const int64_t run_end = (begin / layout.run + 1) * layout.run;
    const int64_t end = run_end < columns.end ? run_end : columns.end;
    body(begin, end - begin);
    begin = end;
  }
}

}  // namespace grad
