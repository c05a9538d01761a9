// A range of addresses from which memory is taken in order, with gaps.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>

namespace emulate {

// Pages that nobody has touched take no memory.
template <typename T>
T* map_pages(size_t count) {
  void* place = mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (place == MAP_FAILED) {
    std::perror("emulator: mmap");
    std::exit(2);
  }
  return static_cast<T*>(place);
}

class Arena {
 public:
  Arena(const char* name, size_t size, size_t alignment, size_t gap)
      : name_(name), size_(size), alignment_(alignment), gap_(gap), bytes_(map_pages<unsigned char>(size)) {}

  bool holds(const void* place) const {
    const auto* p = static_cast<const unsigned char*>(place);
    return p >= bytes_ && p < bytes_ + size_;
  }
  size_t offset(const void* place) const { return static_cast<const unsigned char*>(place) - bytes_; }
  const char* name() const { return name_; }
  size_t size() const { return size_; }
  unsigned char* bytes() const { return bytes_; }
  size_t used() const { return top_; }

  unsigned char* take(size_t bytes, size_t shift) {
    top_ = (top_ + gap_ + alignment_ - 1) / alignment_ * alignment_;
    unsigned char* place = bytes_ + top_ + shift;
    top_ += shift + bytes;
    ++taken_;
    if (top_ + gap_ <= size_) return place;
    std::printf("emulator: %s memory is full\n", name_);
    std::exit(2);
  }
  // Starts again at the beginning once all is given back.
  void give_back() {
    if (--taken_ == 0) top_ = 0;
  }
  void give_back_all() { taken_ = top_ = 0; }

 private:
  const char* name_;
  size_t size_, alignment_, gap_;
  unsigned char* bytes_;
  size_t top_ = 0, taken_ = 0;
};

}  // namespace emulate
