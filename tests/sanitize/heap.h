// The memory that CPU kernels run in: an allocation for each array, which AddressSanitizer watches.
#pragma once

#include <cstddef>

#include "buffer.h"

struct Heap {
  static void* allocate(size_t bytes, size_t shift) { return new unsigned char[shift + bytes] + shift; }
  static void release(void* place, size_t, size_t shift) {
    delete[] (static_cast<unsigned char*>(place) - shift);
  }
  static void set(const void*, size_t) {}
  static void forget(const void*, size_t) {}
};

// Calls body(part) for parts of [0, rows) that are cut anywhere, as threads may.
template <typename Body>
void in_random_parts(Random& random, int64_t rows, Body&& body) {
  for (int64_t begin = 0; begin < rows;) {
    const int64_t end = random.integer(begin + 1, rows);
    body(Range{begin, end});
    begin = end;
  }
}
