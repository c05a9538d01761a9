// The kernels of one pair of types at a time: found before csrc/common/types.h, which it reads.
#pragma once

#include_next "common/types.h"

#undef GRAD_FOR_EACH_TYPE_PAIR
#define GRAD_FOR_EACH_TYPE_PAIR(X) X(EMULATE_VALUES, EMULATE_PARAMETERS)
