// Device memory, and the shared memory of the block that runs.
#include "memory.h"

#include <cstring>
#include <map>

#include "observer.h"
#include "state.h"

namespace emulate {

namespace {

struct Variable {
  unsigned char* place;
  size_t bytes, alignment;
};
std::map<int, Variable> variables;
unsigned char* dynamic_place;
size_t dynamic_size;

size_t round_up(size_t value, size_t to) { return (value + to - 1) / to * to; }

unsigned char* allocate_shared(size_t bytes) {
  unsigned char* place = new_shared_memory(bytes);
  std::memset(place, 0xFF, bytes);
  return place;
}

}  // namespace

void* allocate(size_t bytes, size_t shift) { return new_device_memory(bytes, shift); }
void release(void* place, size_t bytes, size_t shift) {
  delete_device_memory(static_cast<unsigned char*>(place), bytes, shift);
}
void mark_initialised(const void* place, size_t bytes) { on_initialised(place, bytes); }
void mark_uninitialised(const void* place, size_t bytes) { on_uninitialised(place, bytes); }

void open_shared(size_t dynamic) {
  dynamic_size = dynamic;
  dynamic_place = allocate_shared(dynamic);
}

size_t close_shared() {
  size_t declared = 0;
  for (const auto& [number, v] : variables) declared = round_up(declared, v.alignment) + v.bytes;
  if (dynamic_size) declared = round_up(declared, kSharedAlignment);
  delete_shared_memory();
  variables.clear();
  return declared;
}

void* shared_variable(int number, size_t bytes, size_t alignment) {
  const auto [at, is_new] = variables.try_emplace(number);
  if (is_new) at->second = {allocate_shared(bytes), bytes, alignment};
  return at->second.place;
}

unsigned char* dynamic_shared() { return dynamic_place; }

}  // namespace emulate
