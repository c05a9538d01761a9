// Arrays of exactly the size that a kernel may touch, in the memory of the device that runs it.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/scalar.h"
#include "numbers.h"
#include "random.h"

// Memory allocates so that one element too far is a report, and is told what of it has been set:
//   static void* allocate(size_t bytes, size_t shift);        `shift` bytes off a wide alignment
//   static void release(void* place, size_t bytes, size_t shift);
//   static void set(const void* place, size_t bytes);
//   static void forget(const void* place, size_t bytes);      as if it had never been set
//
// Filled with 0xFF, a NaN in every type: what is read without having been set spoils the result, and what
// must not be written shows.
template <typename Memory, typename T>
class Buffer {
 public:
  explicit Buffer(int64_t size, int64_t shift = 0)
      : size_(size), shift_(shift), values_(static_cast<T*>(Memory::allocate(bytes(), shift * sizeof(T)))) {
    forget();
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { Memory::release(values_, bytes(), shift_ * sizeof(T)); }

  T* get() { return values_; }
  const T* get() const { return values_; }
  int64_t size() const { return size_; }
  size_t bytes() const { return size_ * sizeof(T); }

  double operator[](int64_t i) const { return to_double(values_[i]); }
  void put(int64_t i, T value) {
    values_[i] = value;
    Memory::set(values_ + i, sizeof(T));
  }
  void set(int64_t i, double value) {
    if constexpr (std::is_same_v<T, double>) {
      put(i, value);
    } else {
      T stored;
      grad::store(&stored, static_cast<float>(value));
      put(i, stored);
    }
  }
  void fill(double value) {
    for (int64_t i = 0; i < size_; ++i) set(i, value);
  }
  void fill_random(Random& random, double scale) {
    for (int64_t i = 0; i < size_; ++i) set(i, random.uniform(-scale, scale));
  }
  void forget() {
    std::memset(static_cast<void*>(values_), 0xFF, bytes());
    Memory::forget(values_, bytes());
  }
  bool untouched(int64_t i) const {
    unsigned char bytes[sizeof(T)];
    std::memcpy(bytes, &values_[i], sizeof(T));
    for (const unsigned char byte : bytes) {
      if (byte != 0xFF) return false;
    }
    return true;
  }

 private:
  int64_t size_, shift_;
  T* values_;
};
