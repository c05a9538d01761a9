// The mode for AddressSanitizer: each array an allocation of its own, and no look at single accesses.
#include <new>
#include <vector>

#include "observer.h"
#include "state.h"

namespace emulate {

namespace {

std::vector<unsigned char*> shared_places;

unsigned char* allocate(size_t bytes, size_t alignment) {
  return static_cast<unsigned char*>(::operator new(bytes + !bytes, std::align_val_t{alignment}));
}

}  // namespace

void on_access(const void* place, size_t size, Access, const void* pc, bool is_word) {
  if (is_word && reinterpret_cast<uintptr_t>(place) % size != 0) fault("misaligned", pc);
}

void on_launch(const char*, const Settings&) {}
void on_launch_end(size_t) {}
void on_block_end() {}
void on_barrier() {}
void on_exchange(int, Exchange, size_t) {}

unsigned char* new_device_memory(size_t bytes, size_t shift) {
  return allocate(bytes + shift, kDeviceAlignment) + shift;
}
void delete_device_memory(unsigned char* place, size_t, size_t shift) {
  ::operator delete(place - shift, std::align_val_t{kDeviceAlignment});
}
unsigned char* new_shared_memory(size_t bytes) {
  shared_places.push_back(allocate(bytes, kSharedAlignment));
  return shared_places.back();
}
void delete_shared_memory() {
  for (unsigned char* place : shared_places) ::operator delete(place, std::align_val_t{kSharedAlignment});
  shared_places.clear();
}
void on_initialised(const void*, size_t) {}
void on_uninitialised(const void*, size_t) {}

}  // namespace emulate
