// Writing results that nobody reads soon: past the caches, so that no line is fetched before it is
// overwritten, and none is displaced.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "common/scalar.h"

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace grad {

// out[i] = values[i]. Other threads see it after finish_writes() by this one.
template <typename A, typename G>
inline void write_past_caches(G* out, const A* values, int64_t count) {
#if defined(__x86_64__)
  constexpr int64_t kVector = sizeof(__m128i) / sizeof(G), kBlock = 32 * kVector;
  for (; count > 0 && reinterpret_cast<std::uintptr_t>(out) % sizeof(__m128i) != 0; --count) {
    store(out++, *values++);
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
  for (int64_t i = 0; i < count; ++i) store(out + i, values[i]);
}

inline void finish_writes() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

}  // namespace grad
