// Arrays that begin with a line of the cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace grad {

constexpr std::size_t kLineBytes = 64;

struct FreeLines {
  void operator()(void* array) const { ::operator delete[](array, std::align_val_t{kLineBytes}); }
};

template <typename A>
using Lines = std::unique_ptr<A[], FreeLines>;

// `count` numbers of any value.
template <typename A>
Lines<A> make_lines(int64_t count) {
  return Lines<A>(static_cast<A*>(::operator new[](count * sizeof(A), std::align_val_t{kLineBytes})));
}

// So many numbers apart, arrays of `count` begin with a line, and not all at the same place of a page: the
// processor takes equal places for the same one where a load follows a store, and waits.
template <typename A>
constexpr int64_t apart(int64_t count) {
  constexpr int64_t kLine = kLineBytes / sizeof(A);
  return (count + kLine - 1) / kLine * kLine + kLine;
}

}  // namespace grad
