// Asking for memory while something else is computed.
#pragma once

#include <cstdint>

#include "common/lines.h"

namespace grad {

// Asks for the line of the cache that begins at this column of a row, if one does: called at each vector of a
// loop, it has always one on its way, and never more than the processor can wait for. Into the second-level
// cache, where it takes no place from what is in use. It does no harm to ask for what is not there.
template <bool kForWriting, typename T>
inline void prefetch_line(const T* row, int64_t column) {
  constexpr int kLine = kLineBytes / sizeof(T);  // values in a line
  if (column % kLine != 0) return;
  // GCC takes a function that only prefetches for one without effect, and drops calls of it. This is one.
  asm volatile("" : : "m"(row[column]));
  __builtin_prefetch(row + column, kForWriting, 2);
}

}  // namespace grad
