#include "fibers.h"

#include <sys/mman.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <vector>

#if !defined(__x86_64__)
#error "the emulator switches stacks by hand, and knows x86-64 alone"
#endif

#ifdef EMULATE_ADDRESS
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// Saves what a call must keep on the stack, and the stack in *save; goes on where `to` was saved.
extern "C" void emulate_switch(void** save, void* to);
asm(R"(
.text
.globl emulate_switch
.type emulate_switch,@function
emulate_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp,(%rdi)
  mov %rsi,%rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size emulate_switch,.-emulate_switch
)");

namespace emulate {

namespace {

#ifdef EMULATE_ADDRESS
constexpr size_t kStack = 512 * 1024;
#else
constexpr size_t kStack = 128 * 1024;
#endif

struct Fiber {
  unsigned char* stack = nullptr;
  void* top = nullptr;
  void (*body)(void*) = nullptr;
  void* context = nullptr;
  void* fake_stack = nullptr;  // AddressSanitizer's
};

std::vector<Fiber> fibers;
int running;
void* caller_top;
[[maybe_unused]] void* caller_fake_stack;
[[maybe_unused]] const void* caller_stack;
[[maybe_unused]] size_t caller_stack_size;

void leave([[maybe_unused]] bool for_good) {
  Fiber& fiber = fibers[running];
#ifdef EMULATE_ADDRESS
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fiber.fake_stack, caller_stack, caller_stack_size);
#endif
  emulate_switch(&fiber.top, caller_top);
#ifdef EMULATE_ADDRESS
  __sanitizer_finish_switch_fiber(fibers[running].fake_stack, &caller_stack, &caller_stack_size);
#endif
}

void enter() {
#ifdef EMULATE_ADDRESS
  __sanitizer_finish_switch_fiber(nullptr, &caller_stack, &caller_stack_size);
#endif
  fibers[running].body(fibers[running].context);
  leave(true);
  std::abort();
}

}  // namespace

void start_fiber(int number, void (*body)(void*), void* context) {
  if (number >= static_cast<int>(fibers.size())) fibers.resize(number + 1);
  Fiber& fiber = fibers[number];
  if (!fiber.stack) {
    void* stack = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack == MAP_FAILED) {
      std::perror("emulator: mmap");
      std::exit(2);
    }
    fiber.stack = static_cast<unsigned char*>(stack);
  }
#ifdef EMULATE_ADDRESS
  __asan_unpoison_memory_region(fiber.stack, kStack);
#endif
  fiber.body = body;
  fiber.context = context;
  auto** top = reinterpret_cast<void**>(fiber.stack + kStack - 64);
  *--top = nullptr;  // enter() returns nowhere
  *--top = reinterpret_cast<void*>(&enter);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  fiber.top = top;
}

void resume_fiber(int number) {
  running = number;
#ifdef EMULATE_ADDRESS
  __sanitizer_start_switch_fiber(&caller_fake_stack, fibers[number].stack, kStack);
#endif
  emulate_switch(&caller_top, fibers[number].top);
#ifdef EMULATE_ADDRESS
  __sanitizer_finish_switch_fiber(caller_fake_stack, nullptr, nullptr);
#endif
}

void wait_in_fiber() { leave(false); }

}  // namespace emulate
