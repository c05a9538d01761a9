// The calls that -fsanitize=thread puts before each access of a kernel; ThreadSanitizer itself is not linked.
#include <cstddef>

#include "observer.h"

using emulate::Access;
using emulate::on_access;

extern "C" {

#define HOOKS(n)                                                                                  \
  void __tsan_read##n(void* p) { on_access(p, n, Access::kRead, __builtin_return_address(0)); }   \
  void __tsan_write##n(void* p) { on_access(p, n, Access::kWrite, __builtin_return_address(0)); } \
  void __tsan_unaligned_read##n(void* p) {                                                        \
    on_access(p, n, Access::kRead, __builtin_return_address(0), false);                           \
  }                                                                                               \
  void __tsan_unaligned_write##n(void* p) {                                                       \
    on_access(p, n, Access::kWrite, __builtin_return_address(0), false);                          \
  }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

void __tsan_read_range(void* p, size_t n) {
  on_access(p, n, Access::kRead, __builtin_return_address(0), false);
}
void __tsan_write_range(void* p, size_t n) {
  on_access(p, n, Access::kWrite, __builtin_return_address(0), false);
}
void __tsan_init() {}
void __tsan_vptr_update(void*, void*) {}
void __tsan_vptr_read(void*) {}

}  // extern "C"
