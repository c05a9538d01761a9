// Packets of adjacent columns: one wide load or store a thread.
#pragma once

#include <cstdint>

#include "common/rows.h"
#include "common/scalar.h"

namespace grad {

// kWidth adjacent columns, aligned so that they move in 16-byte accesses (or one of their size).
template <typename T, int kWidth>
struct alignas(sizeof(T) * kWidth < 16 ? sizeof(T) * kWidth : 16) Packet {
  T value[kWidth];
};

// How many columns of type T a lane takes: as many as fill 16 bytes, but one float64, with which a warp reads
// whole lines as well; a second width would only be more to compile.
template <typename T>
constexpr int kFullWidth = sizeof(T) == 8 ? 1 : 16 / static_cast<int>(sizeof(T));

enum class Cache {
  kKeep,    // read again soon: the grid, the weights
  kStream,  // read or written once: features and their gradients
  kShared   // not a cache, but the block's shared memory
};

// One load of a machine word.
template <Cache kCache, typename Word>
__device__ __forceinline__ Word load_word(const Word* from) {
  if constexpr (kCache == Cache::kShared) {
    return *from;
  } else {
    return kCache == Cache::kStream ? __ldcs(from) : __ldg(from);
  }
}

// Moves a packet as the widest machine words that its alignment allows.
template <Cache kCache, typename T, int kWidth>
__device__ __forceinline__ Packet<T, kWidth> load_packet(const T* place) {
  using P = Packet<T, kWidth>;
  P packet;
  if constexpr (alignof(P) == 16) {
#pragma unroll
    for (int i = 0; i < static_cast<int>(sizeof(P) / 16); ++i) {
      reinterpret_cast<uint4*>(&packet)[i] = load_word<kCache>(reinterpret_cast<const uint4*>(place) + i);
    }
  } else if constexpr (alignof(P) == 8) {
    *reinterpret_cast<uint2*>(&packet) = load_word<kCache>(reinterpret_cast<const uint2*>(place));
  } else if constexpr (alignof(P) == 4) {
    *reinterpret_cast<unsigned*>(&packet) = load_word<kCache>(reinterpret_cast<const unsigned*>(place));
  } else {
    *reinterpret_cast<unsigned short*>(&packet) =
        load_word<kCache>(reinterpret_cast<const unsigned short*>(place));
  }
  return packet;
}

template <Cache kCache = Cache::kStream, typename T, int kWidth>
__device__ __forceinline__ void store_packet(T* place, const Packet<T, kWidth>& packet) {
  using P = Packet<T, kWidth>;
  if constexpr (alignof(P) == 16) {
#pragma unroll
    for (int i = 0; i < static_cast<int>(sizeof(P) / 16); ++i) {
      uint4* to = reinterpret_cast<uint4*>(place) + i;
      const uint4& word = reinterpret_cast<const uint4*>(&packet)[i];
      if constexpr (kCache == Cache::kShared) {
        *to = word;
      } else {
        __stcs(to, word);
      }
    }
  } else {
    *reinterpret_cast<P*>(place) = packet;
  }
}

// The same from any place, a value at a time where it is not aligned.
template <Cache kCache, typename T, int kWidth>
__device__ __forceinline__ Packet<T, kWidth> load_values(const T* place) {
  if (reinterpret_cast<uintptr_t>(place) % alignof(Packet<T, kWidth>) == 0) {
    return load_packet<kCache, T, kWidth>(place);
  }
  Packet<T, kWidth> packet;
#pragma unroll
  for (int i = 0; i < kWidth; ++i) packet.value[i] = place[i];
  return packet;
}

template <typename T, int kWidth>
__device__ __forceinline__ void store_values(T* place, const Packet<T, kWidth>& packet) {
  if (reinterpret_cast<uintptr_t>(place) % alignof(Packet<T, kWidth>) == 0) {
    store_packet(place, packet);
  } else {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) place[i] = packet.value[i];
  }
}

// Whether rows `stride` apart can be moved in packets of kWidth columns.
template <typename T>
bool is_packed(const T* start, int64_t stride, int width) {
  const int64_t bytes = static_cast<int64_t>(sizeof(T)) * width;
  const int64_t alignment = bytes < 16 ? bytes : 16;
  return reinterpret_cast<uintptr_t>(start) % alignment == 0 && stride % width == 0;
}
template <typename T>
bool is_packed(const T* start, const RowLayout& layout, int width) {
  return is_packed(start, layout.row_stride, width) && layout.run % width == 0 &&
         layout.run_stride % width == 0;
}

}  // namespace grad
