// The similarity s of a pixel, its loss and score, and their gradients, from four sums over channels.
#pragma once

#include <cmath>

#include "common/scalar.h"

namespace grad {

// s = alpha [m <= tau] + beta cos. The three ablations are other values of the two weights.
struct Similarity {
  double alpha;
  double beta;
  double tau;
};

template <typename A>
struct PixelSums {
  A difference;  // |F^ - F|^2
  A dot;         // <F^, F>
  A features;    // |F|^2
  A prediction;  // |F^|^2
};

constexpr double kCosineEps = 1e-8;  // as in torch.nn.functional.cosine_similarity

// What forward and backward both need of a pixel.
template <typename A>
struct PixelSimilarity {
  A mean_square;    // m
  A cosine;         // cos
  A inverse_norms;  // 1 / (|F| |F^|)
  A beta;           // weight of the cosine; 0 where its gradient is defined as 0
  A one_minus;      // 1 - s
};

template <typename A>
GRAD_HOST_DEVICE PixelSimilarity<A> pixel_similarity(const PixelSums<A>& sums, int64_t columns,
                                                     const Similarity& similarity) {
  const A eps = static_cast<A>(kCosineEps);
  const A features_norm = std::sqrt(sums.features), prediction_norm = std::sqrt(sums.prediction);
  const bool tiny = features_norm <= eps || prediction_norm <= eps;
  PixelSimilarity<A> pixel;
  pixel.mean_square = sums.difference / static_cast<A>(columns);
  pixel.inverse_norms =
      1 / ((features_norm < eps ? eps : features_norm) * (prediction_norm < eps ? eps : prediction_norm));
  pixel.cosine = sums.dot * pixel.inverse_norms;
  const A beta = static_cast<A>(similarity.beta);
  const A close =
      pixel.mean_square <= static_cast<A>(similarity.tau) ? static_cast<A>(similarity.alpha) : A{0};
  pixel.beta = tiny ? A{0} : beta;
  // Not beta * cos where beta is 0: a NaN belongs to the result only if the cosine does.
  pixel.one_minus = 1 - (beta == 0 ? close : close + beta * pixel.cosine);
  return pixel;
}

template <typename A>
GRAD_HOST_DEVICE A pixel_loss(const PixelSimilarity<A>& pixel) {
  return pixel.one_minus * pixel.one_minus * pixel.mean_square;
}

template <typename A>
GRAD_HOST_DEVICE A pixel_score(const PixelSums<A>& sums, const PixelSimilarity<A>& pixel) {
  return std::abs(pixel.one_minus) * std::sqrt(sums.difference);
}

// dF^ = difference (F^ - F) + cross F  + prediction F^
// dF  = difference (F - F^) + cross F^ + features F
template <typename A>
struct PixelGradient {
  A difference;  // x below
  A cross;       // y / (|F| |F^|)
  A features;    // -y cos / |F|^2
  A prediction;  // -y cos / |F^|^2
};

// With q = 1 - s, L = q^2 m and S = |q| |F^ - F|, and as the step [m <= tau] has no gradient:
//   dm / dF^ = 2 (F^ - F) / C
//   ds / dF^ = beta dcos / dF^,   dcos / dF^ = F / (|F| |F^|) - cos F^ / |F^|^2
//   dL / dF^ = (2 q^2 / C) (F^ - F) - 2 q m ds / dF^
//   dS / dF^ = |q| (F^ - F) / |F^ - F| - sign(q) |F^ - F| ds / dF^
// so dF^ = x (F^ - F) + y dcos / dF^ with
//   x = grad_loss 2 q^2 / C + grad_score |q| / |F^ - F|       (second term 0 where F^ = F)
//   y = -beta (grad_loss 2 q m + grad_score sign(q) |F^ - F|).
// L, S and cos are symmetric in F and F^, which gives dF.
template <typename A>
GRAD_HOST_DEVICE PixelGradient<A> pixel_gradient(const PixelSums<A>& sums, const PixelSimilarity<A>& pixel,
                                                 int64_t columns, A grad_loss, A grad_score) {
  const A q = pixel.one_minus;
  const A distance = std::sqrt(sums.difference);
  const A sign = q > 0 ? A{1} : q < 0 ? A{-1} : A{0};
  PixelGradient<A> gradient;
  gradient.difference = grad_loss * 2 * q * q / static_cast<A>(columns);
  if (distance != 0) gradient.difference += grad_score * std::abs(q) / distance;
  const A y = pixel.beta == 0
                  ? A{0}
                  : -pixel.beta * (grad_loss * 2 * q * pixel.mean_square + grad_score * sign * distance);
  gradient.cross = y * pixel.inverse_norms;
  gradient.features = pixel.beta == 0 ? A{0} : -y * pixel.cosine / sums.features;
  gradient.prediction = pixel.beta == 0 ? A{0} : -y * pixel.cosine / sums.prediction;
  return gradient;
}

}  // namespace grad
