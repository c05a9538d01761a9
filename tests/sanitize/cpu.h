// The CPU as a device of the cases in tests/kernels.
#pragma once

#include "cpu_interpolate.h"
#include "cpu_project.h"
#include "cpu_refine.h"
#include "heap.h"

struct Cpu : Heap, CpuInterpolate<Cpu>, CpuProject<Cpu>, CpuRefine<Cpu> {};
