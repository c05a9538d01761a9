// Writing results past the caches, so that no line is fetched before it is overwritten, and none is
// displaced: those that nobody reads soon, and those that are too large to stay there until they are read.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "common/lines.h"
#include "common/scalar.h"

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace grad {

// Whether a result of this size is written past the caches. Measured with a lookup and the 1x1 convolution
// that reads it, together: with 2.7 MB no difference, 4 % less time with 11 MB and 7 % less with 43 MB.
inline bool goes_past_caches(int64_t bytes) { return bytes > int64_t{8} << 20; }

// Copies a value, or rounds it.
template <typename A, typename G>
inline void write(G* out, A value) {
  if constexpr (std::is_same_v<A, G>) {
    *out = value;
  } else {
    store(out, value);
  }
}

// out[i] = values[i]. Other threads see it after finish_writes() by this one.
template <typename A, typename G>
inline void write_past_caches(G* out, const A* values, int64_t count) {
#if defined(__x86_64__)
  constexpr int64_t kVector = sizeof(__m128i) / sizeof(G), kBlock = 32 * kVector;
  for (; count > 0 && reinterpret_cast<std::uintptr_t>(out) % sizeof(__m128i) != 0; --count) {
    write(out++, *values++);
  }
  alignas(__m128i) G block[kBlock];
  while (count >= kVector) {
    const int64_t size = std::min(count / kVector * kVector, kBlock);
    const G* source = block;
    if constexpr (std::is_same_v<A, G>) {
      source = values;
    } else {  // many at a time, as the compiler makes vectors of that
      for (int64_t i = 0; i < size; ++i) store(block + i, values[i]);
    }
    for (int64_t i = 0; i < size; i += kVector) {
      _mm_stream_si128(reinterpret_cast<__m128i*>(out + i),
                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i)));
    }
    out += size;
    values += size;
    count -= size;
  }
#endif
  for (int64_t i = 0; i < count; ++i) write(out + i, values[i]);
}

inline void finish_writes() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// Rows that follow each other in memory, written one after the other: straight to their places, or past the
// caches. Then a few rows wait in a buffer until they end with a line of the cache, as a line that is written
// in two parts takes longer. Rows that are wider than the buffer go straight to their places.
template <typename T>
class RowWriter {
 public:
  // `rows` may be null, where none are wanted.
  RowWriter(T* rows, int64_t columns, bool past_caches)
      : place_(rows), columns_(columns), waits_(rows && past_caches && columns <= kCapacity) {}

  RowWriter(const RowWriter&) = delete;
  RowWriter& operator=(const RowWriter&) = delete;

  ~RowWriter() {
    if (!waits_) return;
    flush();
    finish_writes();
  }

  // Where the next row's values go; null where none are wanted.
  T* row() { return waits_ ? buffer_ + waiting_ : place_; }

  // Whether row() is the place where the values stay.
  bool is_direct() const { return !waits_; }

  void end_row() {
    if (waits_) {
      waiting_ += columns_;
      if (waiting_ * sizeof(T) % kLineBytes == 0 || waiting_ + columns_ > kCapacity) flush();
    } else if (place_) {
      place_ += columns_;
    }
  }

 private:
  static constexpr int64_t kCapacity = 4096 / sizeof(T);

  void flush() {
    write_past_caches(place_, buffer_, waiting_);
    place_ += waiting_;
    waiting_ = 0;
  }

  T* place_;
  int64_t columns_;
  bool waits_;
  int64_t waiting_ = 0;  // values in the buffer
  alignas(kLineBytes) T buffer_[kCapacity];
};

}  // namespace grad
