// Writing results that nobody reads soon: past the caches, so that no line is fetched before it is
// overwritten, and none is displaced.
#pragma once

#include <cstdint>

#include "common/scalar.h"

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace grad {

// out[i] = values[i]. Other threads see it after finish_writes() by this one.
template <typename A, typename G>
inline void write_past_caches(G* out, const A* values, int64_t count) {
#if defined(__x86_64__)
  constexpr int kBlock = sizeof(__m128i) / sizeof(G);
  for (; count > 0 && reinterpret_cast<std::uintptr_t>(out) % sizeof(__m128i) != 0; --count) {
    store(out++, *values++);
  }
  for (; count >= kBlock; count -= kBlock, out += kBlock, values += kBlock) {
    alignas(__m128i) G block[kBlock];
    for (int i = 0; i < kBlock; ++i) store(block + i, values[i]);
    _mm_stream_si128(reinterpret_cast<__m128i*>(out), _mm_load_si128(reinterpret_cast<__m128i*>(block)));
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
