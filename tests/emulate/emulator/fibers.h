// Threads of a block as fibers: each runs until it waits.
#pragma once

namespace emulate {

// Makes fiber `number` ready to run body(context).
void start_fiber(int number, void (*body)(void*), void* context);
// Runs it from where it waited until it waits again or is done.
void resume_fiber(int number);
// In a fiber: goes back to whoever resumed it.
void wait_in_fiber();

}  // namespace emulate
