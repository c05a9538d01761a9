// The type of a CUDA stream, without a CUDA header: launchers are declared the same in every build.
#pragma once

struct CUstream_st;

namespace grad {

using Stream = CUstream_st*;  // cudaStream_t

}  // namespace grad
