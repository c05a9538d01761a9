// An access that the processor refuses is reported as a fault, too, and ends the program.
#include <ucontext.h>
#include <unistd.h>
#include <csignal>
#include <cstring>

#include "state.h"

namespace emulate {

namespace {

void report(int number, siginfo_t*, void* context) {
  const auto* machine = static_cast<const ucontext_t*>(context);
  const auto pc = static_cast<uintptr_t>(machine->uc_mcontext.gregs[REG_RIP]);
  fault("crash", reinterpret_cast<const void*>(pc + 1), strsignal(number));
  print_faults();
  _exit(1);
}

}  // namespace

void report_crashes() {
  static unsigned char stack[64 * 1024];
  stack_t own_stack = {};
  own_stack.ss_sp = stack;
  own_stack.ss_size = sizeof(stack);
  sigaltstack(&own_stack, nullptr);
  struct sigaction action = {};
  action.sa_sigaction = report;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  for (const int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) sigaction(number, &action, nullptr);
}

}  // namespace emulate
