// Refinement on the GPU: a warp takes 4 pixels, reads F and F^ once in wide packets, and sums all their
// products together; one lane a pixel makes score and share of the loss of them. Backward reads the
// sums that forward kept, F and F^ once more, and writes the gradient.
#include <algorithm>

#include "common/device.cuh"
#include "common/reduce.cuh"
#include "common/types.h"
#include "common/vec.cuh"
#include "refine/refine.h"

namespace grad {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kWarpRows = 4;
constexpr int kSums = 4;  // of a pixel
constexpr int64_t kMaxBlocks = 4096;

// Columns that a lane reads at once: 16 bytes of the narrower type.
template <typename T, typename P>
constexpr int kPacketWidth = kFullWidth<P> > kFullWidth<T> ? kFullWidth<P> : kFullWidth<T>;

// The sums of kWarpRows pixels from `first` on; sums[0] of a lane is value owned_value<16>(lane): number
// r * 4 + i is sum i of pixel r. Pixels from `rows` on repeat the last.
template <int kWidth, typename T, typename P>
__device__ __forceinline__ void warp_pixel_sums(const RefineArgs<T, P>& args, int64_t first, int64_t rows,
                                                Accumulate<P>* sums) {
  using A = Accumulate<P>;
  const int lane = threadIdx.x % kWarpSize;
#pragma unroll
  for (int v = 0; v < kWarpRows * kSums; ++v) sums[v] = 0;
  for (int64_t c = lane * kWidth; c < args.columns; c += kWarpSize * kWidth) {
    Packet<T, kWidth> features[kWarpRows];
    Packet<P, kWidth> prediction[kWarpRows];
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r) {
      const int64_t row = min(first + r, rows - 1);
      features[r] = load_packet<Cache::kStream, T, kWidth>(args.features + row * args.features_stride + c);
      prediction[r] =
          load_packet<Cache::kStream, P, kWidth>(args.prediction + row * args.prediction_stride + c);
    }
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r) {
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        const A f = load(features[r].value[i]), p = load(prediction[r].value[i]);
        sums[r * kSums + 0] += (p - f) * (p - f);
        sums[r * kSums + 1] += f * p;
        sums[r * kSums + 2] += f * f;
        sums[r * kSums + 3] += p * p;
      }
    }
  }
  warp_sum<kWarpRows * kSums>(sums);
}

// The four sums of pixel r of the warp, in every lane.
template <typename A>
__device__ __forceinline__ PixelSums<A> pixel_sums_of(A owned, int r) {
  constexpr int kValues = kWarpRows * kSums;
  return {__shfl_sync(kAllLanes, owned, owner_of<kValues>(r * kSums + 0)),
          __shfl_sync(kAllLanes, owned, owner_of<kValues>(r * kSums + 1)),
          __shfl_sync(kAllLanes, owned, owner_of<kValues>(r * kSums + 2)),
          __shfl_sync(kAllLanes, owned, owner_of<kValues>(r * kSums + 3))};
}

template <typename T, typename P, int kWidth>
__global__ void __launch_bounds__(kThreads, 1)
    refine_forward_kernel(const RefineArgs<T, P> args, Accumulate<P>* __restrict__ score,  // (N,)
                          Accumulate<P>* __restrict__ pixel_sums,                          // (N, 4)
                          Accumulate<P>* __restrict__ shares,                              // (blocks,)
                          int64_t rows) {
  using A = Accumulate<P>;
  __shared__ A warp_loss[kWarps];
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int64_t step = int64_t{gridDim.x} * kWarps * kWarpRows;
  A loss = 0;  // of the pixels that this lane finishes
  for (int64_t first = (int64_t{blockIdx.x} * kWarps + warp) * kWarpRows; first < rows; first += step) {
    A sums[kWarpRows * kSums];
    warp_pixel_sums<kWidth>(args, first, rows, sums);
    const int r = lane % kWarpRows;
    const PixelSums<A> pixel = pixel_sums_of(sums[0], r);
    if (lane < kWarpRows && first + r < rows) {
      const PixelSimilarity<A> similarity = pixel_similarity(pixel, args.columns, args.similarity);
      loss += pixel_loss(similarity);
      score[first + r] = pixel_score(pixel, similarity);
      Packet<A, kSums> out{{pixel.difference, pixel.dot, pixel.features, pixel.prediction}};
      store_values(pixel_sums + (first + r) * kSums, out);
    }
  }
  A total[1] = {loss};
  warp_sum<1>(total);
  if (lane == 0) warp_loss[warp] = total[0];
  __syncthreads();
  if (threadIdx.x == 0) {
    A sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += warp_loss[w];
    shares[blockIdx.x] = sum;
  }
}

// One block: loss = sum of shares / rows, each thread its shares in order, then the threads in order.
template <typename A>
__global__ void __launch_bounds__(kThreads)
    mean_loss_kernel(const A* __restrict__ shares, int64_t count, int64_t rows, A* __restrict__ loss) {
  __shared__ double sums[kThreads];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += shares[i];
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < kThreads; ++i) sum += sums[i];
  *loss = static_cast<A>(sum / static_cast<double>(rows));
}

template <typename T, typename P, int kWidth>
__global__ void __launch_bounds__(kThreads, 1)
    refine_backward_kernel(const RefineArgs<T, P> args, const Accumulate<P>* __restrict__ sums,  // (N, 4)
                           const Accumulate<P>* __restrict__ grad_loss,                          // scalar
                           const Accumulate<P>* __restrict__ grad_score,  // (N,), or null
                           T* __restrict__ grad_features,                 // (N, C), or null
                           P* __restrict__ grad_prediction,               // (N, C), or null
                           int64_t rows) {
  using A = Accumulate<P>;
  const int lane = threadIdx.x % kWarpSize;
  const int64_t warps = int64_t{gridDim.x} * kWarps;
  const A pixel_loss_gradient = *grad_loss / static_cast<A>(rows);
#pragma unroll 2
  for (int64_t n = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpSize; n < rows; n += warps) {
    const auto kept = load_values<Cache::kStream, A, kSums>(sums + n * kSums);
    const PixelSums<A> pixel{kept.value[0], kept.value[1], kept.value[2], kept.value[3]};
    const PixelSimilarity<A> similarity = pixel_similarity(pixel, args.columns, args.similarity);
    const PixelGradient<A> gradient = pixel_gradient(pixel, similarity, args.columns, pixel_loss_gradient,
                                                     grad_score ? grad_score[n] : A{0});
    for (int64_t c = lane * kWidth; c < args.columns; c += kWarpSize * kWidth) {
      const auto features =
          load_packet<Cache::kStream, T, kWidth>(args.features + n * args.features_stride + c);
      const auto prediction =
          load_packet<Cache::kStream, P, kWidth>(args.prediction + n * args.prediction_stride + c);
      Packet<T, kWidth> to_features;
      Packet<P, kWidth> to_prediction;
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        const A f = load(features.value[i]), p = load(prediction.value[i]);
        const A pull = gradient.difference * (p - f);
        store(&to_prediction.value[i], pull + gradient.cross * f + gradient.prediction * p);
        store(&to_features.value[i], gradient.cross * p + gradient.features * f - pull);
      }
      if (grad_prediction) store_packet(grad_prediction + n * args.columns + c, to_prediction);
      if (grad_features) store_packet(grad_features + n * args.columns + c, to_features);
    }
  }
}

template <typename T, typename P, int kWidth>
__global__ void __launch_bounds__(kThreads, 1)
    refined_map_kernel(const RefineArgs<T, P> args, P* __restrict__ refined, int64_t rows) {
  using A = Accumulate<P>;
  const int lane = threadIdx.x % kWarpSize;
  const int64_t first = (int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpSize) * kWarpRows;
  if (first >= rows) return;
  A sums[kWarpRows * kSums];
  warp_pixel_sums<kWidth>(args, first, rows, sums);
  for (int r = 0; r < kWarpRows && first + r < rows; ++r) {
    const A one_minus = pixel_similarity(pixel_sums_of(sums[0], r), args.columns, args.similarity).one_minus;
    const A s = 1 - one_minus;
    for (int64_t c = lane * kWidth; c < args.columns; c += kWarpSize * kWidth) {
      const auto features =
          load_packet<Cache::kStream, T, kWidth>(args.features + (first + r) * args.features_stride + c);
      const auto prediction =
          load_packet<Cache::kStream, P, kWidth>(args.prediction + (first + r) * args.prediction_stride + c);
      Packet<P, kWidth> out;
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        store(&out.value[i], s * load(features.value[i]) + one_minus * load(prediction.value[i]));
      }
      store_packet(refined + (first + r) * args.columns + c, out);
    }
  }
}

template <typename T, typename P>
bool is_packed(const RefineArgs<T, P>& args) {
  constexpr int kWidth = kPacketWidth<T, P>;
  return args.columns % kWidth == 0 && grad::is_packed(args.features, args.features_stride, kWidth) &&
         grad::is_packed(args.prediction, args.prediction_stride, kWidth);
}

// Calls launch(std::integral_constant<int, width>), a width for inputs and outputs; those may be null.
template <typename T, typename P, typename Launch>
void with_width(const RefineArgs<T, P>& args, const typename RefineArgs<T, P>::Features* to_features,
                const typename RefineArgs<T, P>::Prediction* to_prediction, Launch&& launch) {
  constexpr int kWidth = kPacketWidth<T, P>;
  if (is_packed(args) && grad::is_packed(to_features, args.columns, kWidth) &&
      grad::is_packed(to_prediction, args.columns, kWidth)) {
    launch(std::integral_constant<int, kWidth>{});
  } else {
    launch(std::integral_constant<int, 1>{});
  }
}

}  // namespace

int64_t refine_blocks_cuda(int64_t rows) {
  return std::clamp<int64_t>(divide_up<int64_t>(rows, kWarps * kWarpRows), 1, kMaxBlocks);
}

template <typename T, typename P>
void refine_forward_cuda(const RefineArgs<T, P>& args, Accumulate<P>* loss, Accumulate<P>* score,
                         Accumulate<P>* sums, Accumulate<P>* shares, int64_t rows, Stream stream) {
  const int64_t blocks = refine_blocks_cuda(rows);
  with_width(args, nullptr, nullptr, [&](auto width) {
    refine_forward_kernel<T, P, decltype(width)::value>
        <<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(args, score, sums, shares, rows);
  });
  mean_loss_kernel<<<1, kThreads, 0, stream>>>(shares, blocks, rows, loss);
}

template <typename T, typename P>
void refine_backward_cuda(const RefineArgs<T, P>& args, const Accumulate<P>* sums,
                          const Accumulate<P>* grad_loss, const Accumulate<P>* grad_score, T* grad_features,
                          P* grad_prediction, int64_t rows, Stream stream) {
  if (rows == 0) return;
  const int64_t blocks = std::min<int64_t>(divide_up<int64_t>(rows, kWarps), 4 * kMaxBlocks);
  with_width(args, grad_features, grad_prediction, [&](auto width) {
    refine_backward_kernel<T, P, decltype(width)::value>
        <<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(args, sums, grad_loss, grad_score,
                                                                 grad_features, grad_prediction, rows);
  });
}

template <typename T, typename P>
void refined_map_cuda(const RefineArgs<T, P>& args, P* refined, int64_t rows, Stream stream) {
  if (rows == 0) return;
  const int64_t blocks = divide_up<int64_t>(rows, kWarps * kWarpRows);
  with_width(args, nullptr, refined, [&](auto width) {
    refined_map_kernel<T, P, decltype(width)::value>
        <<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(args, refined, rows);
  });
}

// The prediction may be 16 bit under autocast while the features stay float32: types swapped.
#define GRAD_INSTANTIATE(P, T)                                                                               \
  template void refine_forward_cuda(const RefineArgs<T, P>&, Accumulate<P>*, Accumulate<P>*, Accumulate<P>*, \
                                    Accumulate<P>*, int64_t, Stream);                                        \
  template void refine_backward_cuda(const RefineArgs<T, P>&, const Accumulate<P>*, const Accumulate<P>*,    \
                                     const Accumulate<P>*, T*, P*, int64_t, Stream);                         \
  template void refined_map_cuda(const RefineArgs<T, P>&, P*, int64_t, Stream);
GRAD_FOR_EACH_TYPE_PAIR(GRAD_INSTANTIATE)

}  // namespace grad
