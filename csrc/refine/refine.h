// refine: training loss and anomaly score from sums over channels, forward and backward. With
//   m = |F^ - F|^2 / C,   s = alpha [m <= tau] + beta cos(F^, F),   F~ = s F + (1 - s) F^
// the refined map differs from F by (1 - s)(F^ - F), so that of each pixel only four sums are needed:
//   loss = mean (1 - s)^2 m,   score = |1 - s| sqrt(C m).
// No torch types: pointers, sizes, strides and a stream. T is the type of F, P that of F^.
#pragma once

#include <cstdint>

#include "common/rows.h"
#include "common/scalar.h"
#include "common/stream.h"
#include "refine/similarity.h"

namespace grad {

template <typename T, typename P>
struct RefineArgs {
  using A = Accumulate<P>;
  using Features = T;
  using Prediction = P;
  const T* features;          // F, (N, C), rows features_stride apart
  const P* prediction;        // F^, (N, C), rows prediction_stride apart
  int64_t features_stride;    //
  int64_t prediction_stride;  //
  int64_t columns;            // C
  Similarity similarity;
};

// Writes score (N,) and sums (N, 4): |F^ - F|^2, <F^, F>, |F|^2, |F^|^2. Returns the rows' share of
// the loss: sum over `rows` of (1 - s)^2 m.
template <typename T, typename P>
double refine_forward_cpu(const RefineArgs<T, P>& args, Accumulate<P>* score, Accumulate<P>* sums,
                          Range rows);

// grad_loss is the gradient of one pixel's (1 - s)^2 m, grad_score (N,) that of the scores; either
// output may be null. Both are plain (N, C) matrices.
template <typename T, typename P>
void refine_backward_cpu(const RefineArgs<T, P>& args, const Accumulate<P>* sums, Accumulate<P> grad_loss,
                         const Accumulate<P>* grad_score, T* grad_features, P* grad_prediction, Range rows);

// refined = s F + (1 - s) F^, a plain (N, C) matrix.
template <typename T, typename P>
void refined_map_cpu(const RefineArgs<T, P>& args, P* refined, Range rows);

// As above for all rows. `shares` (blocks of refine_blocks_cuda) takes the blocks' sums of the loss, of
// which `loss`, a scalar, becomes the mean over pixels.
int64_t refine_blocks_cuda(int64_t rows);
template <typename T, typename P>
void refine_forward_cuda(const RefineArgs<T, P>& args, Accumulate<P>* loss, Accumulate<P>* score,
                         Accumulate<P>* sums, Accumulate<P>* shares, int64_t rows, Stream stream);

// grad_loss is the gradient of the loss, a scalar in device memory.
template <typename T, typename P>
void refine_backward_cuda(const RefineArgs<T, P>& args, const Accumulate<P>* sums,
                          const Accumulate<P>* grad_loss, const Accumulate<P>* grad_score, T* grad_features,
                          P* grad_prediction, int64_t rows, Stream stream);

template <typename T, typename P>
void refined_map_cuda(const RefineArgs<T, P>& args, P* refined, int64_t rows, Stream stream);

}  // namespace grad
