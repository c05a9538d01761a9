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
  kKeep,   // read again soon: the grid, the weights
  kStream  // read or written once: features and their gradients
};

// Moves a packet as the widest machine words that its alignment allows.
template <Cache kCache, typename T, int kWidth>
__device__ __forceinline__ Packet<T, kWidth> load_packet(const T* place) {
  using P = Packet<T, kWidth>;
  P packet;
  if constexpr (alignof(P) == 16) {
#pragma unroll
    for (int i = 0; i < static_cast<int>(sizeof(P) / 16); ++i) {
      const uint4* from = reinterpret_cast<const uint4*>(place) + i;
      reinterpret_cast<uint4*>(&packet)[i] = kCache == Cache::kStream ? __ldcs(from) : __ldg(from);
    }
  } else if constexpr (alignof(P) == 8) {
    const uint2* from = reinterpret_cast<const uint2*>(place);
    *reinterpret_cast<uint2*>(&packet) = kCache == Cache::kStream ? __ldcs(from) : __ldg(from);
  } else if constexpr (alignof(P) == 4) {
    const unsigned* from = reinterpret_cast<const unsigned*>(place);
    *reinterpret_cast<unsigned*>(&packet) = kCache == Cache::kStream ? __ldcs(from) : __ldg(from);
  } else {
    const unsigned short* from = reinterpret_cast<const unsigned short*>(place);
    *reinterpret_cast<unsigned short*>(&packet) = kCache == Cache::kStream ? __ldcs(from) : __ldg(from);
  }
  return packet;
}

template <typename T, int kWidth>
__device__ __forceinline__ void store_packet(T* place, const Packet<T, kWidth>& packet) {
  using P = Packet<T, kWidth>;
  if constexpr (alignof(P) == 16) {
#pragma unroll
    for (int i = 0; i < static_cast<int>(sizeof(P) / 16); ++i) {
      __stcs(reinterpret_cast<uint4*>(place) + i, reinterpret_cast<const uint4*>(&packet)[i]);
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
