#pragma once

#include <functional>

// Called with a kernel's name, the kind of fault that it must be reported with, or "", and what launches it.
using RunKernel = std::function<void(const char* name, const char* expected,
                                     const std::function<void(const float* in, float* out)>& launch)>;
void run_wrong_kernels(const RunKernel& run);

// This one ends the program.
void run_null_pointer(const float* in, float* out);
