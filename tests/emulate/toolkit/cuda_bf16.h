// In the place of CUDA's header of this name; the kernels use nothing of it but what is here.
#pragma once

#include "cuda_runtime.h"
