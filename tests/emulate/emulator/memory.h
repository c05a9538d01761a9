// The shared memory of the block that runs.
#pragma once

#include <cstddef>

namespace emulate {

void open_shared(size_t dynamic);

// Returns how much the block has declared, rounded up as the device does before dynamic memory.
size_t close_shared();

}  // namespace emulate
