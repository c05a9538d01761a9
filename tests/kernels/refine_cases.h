// Refinement: random pixels, and what forward, backward for every choice of gradients, and the refined map
// should give. The device runs and checks them in each of its ways.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "checker.h"
#include "refine/refine.h"
#include "shapes.h"

// Device is the memory too, and has
//   template <typename Case>
//   static void refine_forward(const Case&, Buffer<Device, A>& sums, const Case::Forward& want);
//   template <typename Case>
//   static void refine_backward(const Case&, const Case::Backward&);
//   template <typename Case>
//   static void refined_map(const Case&, const std::vector<Expected>& want);
template <typename Device, typename T, typename P>
class RefineCase {
 public:
  using Features = T;
  using Prediction = P;
  using A = grad::Accumulate<P>;

  struct Forward {
    std::vector<Expected> score, sums;
    Expected loss;  // the sum over rows
  };

  // One backward pass.
  struct Backward {
    const Buffer<Device, A>& sums;
    const Buffer<Device, A>* grad_score;  // or null
    A grad_loss;                          // of the mean over pixels
    A pixel_grad_loss;                    // of one pixel's share
    bool need_features, need_prediction;
    std::vector<Expected> want_features, want_prediction;
  };

 private:
  struct Pixel {
    Expected sums[4];
    double mean_square, distance, cosine, features_norm, prediction_norm;
    double q;   // 1 - s
    bool tiny;  // a zero vector, for which the cosine has no gradient
  };

 public:
  RefineCase(Random& random, int64_t rows, int64_t columns, Alignment alignment)
      : random_(random),
        alignment_(alignment),
        rows_(rows),
        columns_(alignment.columns(columns)),
        checker_(Checker::of<A>(std::string("refine: ") + Type<P>::name + " prediction, " + Type<T>::name +
                                " features, " + std::to_string(rows) + " rows, " + std::to_string(columns_) +
                                " columns")),
        features_layout_(alignment.rows(random, columns_, true)),
        prediction_layout_(alignment.rows(random, columns_, true)),
        features_(extent(features_layout_, rows, columns_), alignment.shift(random)),
        prediction_(extent(prediction_layout_, rows, columns_), alignment.shift(random)),
        similarity_(random_similarity()) {
    const bool with_nan = random.chance(20);
    for (int64_t n = 0; n < rows; ++n) fill_row(n, with_nan);
    // The step [m <= tau] must not hang on rounding.
    const auto is_close = [&](int64_t n) {
      const double m = pixel(n).mean_square;
      return m != similarity_.tau && std::abs(m - similarity_.tau) < 1e-3 * m;
    };
    for (int64_t n = 0; n < rows; ++n) {
      if (!is_close(n)) continue;
      similarity_.tau *= 1.01;
      n = -1;
    }
    for (int64_t n = 0; n < rows; ++n) pixels_.push_back(pixel(n));
    weight_bound_ = 1 + std::abs(similarity_.alpha) + std::abs(similarity_.beta);
    args_ = {features_.get(), prediction_.get(), features_layout_.row_stride, prediction_layout_.row_stride,
             columns_,        similarity_};
  }

  // `wanted` has a bit for each of grad_features, grad_prediction and a gradient of the scores.
  void run(int wanted) {
    Buffer<Device, A> sums(rows_ * 4, shift());
    forward(sums);
    backward(sums, wanted);
    refined_map();
    ++cases_passed();
  }

  // For the device.
  Random& random() const { return random_; }
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  const Checker& checker() const { return checker_; }
  int64_t shift() const { return alignment_.shift(random_); }
  const grad::RefineArgs<T, P>& args() const { return args_; }

 private:
  grad::Similarity random_similarity() const {
    const double tau = random_.chance(20) ? 0 : random_.uniform(0.1, 4);
    switch (random_.integer(0, 4)) {
      case 0:
        return {1, 0, tau};
      case 1:
        return {0, 1, tau};
      case 2:
        return {0, 0, tau};
      case 3:
        return {random_.uniform(-1, 1), random_.uniform(-1, 1), tau};
      default:
        return {0.3, 0.7, tau};
    }
  }

  double f(int64_t n, int64_t c) const { return features_[features_layout_.offset(n, c)]; }
  double p(int64_t n, int64_t c) const { return prediction_[prediction_layout_.offset(n, c)]; }

  // Anything, equal, parallel or zero vectors, or tiny ones.
  void fill_row(int64_t n, bool with_nan) {
    const int64_t kind = random_.integer(0, 11);
    const double factor = random_.uniform(-2, 2), features_scale = kind == 0 || kind == 1 ? 0 : 1.5;
    const double prediction_scale = kind == 1 || kind == 2 ? 0 : kind == 3 ? 1e-12 : 1.5;
    for (int64_t c = 0; c < columns_; ++c) {
      const int64_t to_f = features_layout_.offset(n, c), to_p = prediction_layout_.offset(n, c);
      features_.set(to_f, random_.uniform(-features_scale, features_scale));
      const double alike = kind == 4 ? features_[to_f] : kind == 5 ? factor * features_[to_f] : 0;
      prediction_.set(to_p,
                      kind == 4 || kind == 5 ? alike : random_.uniform(-prediction_scale, prediction_scale));
    }
    if (!with_nan || !columns_ || !random_.chance(20)) return;
    const int64_t c = random_.integer(0, columns_ - 1);
    if (random_.chance(50)) {
      features_.set(features_layout_.offset(n, c), std::nan(""));
    } else {
      prediction_.set(prediction_layout_.offset(n, c), std::nan(""));
    }
  }

  Pixel pixel(int64_t n) const {
    Pixel pixel = {};
    for (int64_t c = 0; c < columns_; ++c) {
      const double a = f(n, c), b = p(n, c);
      pixel.sums[0].add((b - a) * (b - a));
      pixel.sums[1].add(a * b);
      pixel.sums[2].add(a * a);
      pixel.sums[3].add(b * b);
    }
    pixel.mean_square = pixel.sums[0].value / static_cast<double>(columns_);
    pixel.distance = std::sqrt(pixel.sums[0].value);
    pixel.features_norm = std::sqrt(pixel.sums[2].value);
    pixel.prediction_norm = std::sqrt(pixel.sums[3].value);
    pixel.tiny = pixel.features_norm <= 1e-8 || pixel.prediction_norm <= 1e-8;
    const auto at_least = [](double norm) { return norm < 1e-8 ? 1e-8 : norm; };
    pixel.cosine = pixel.sums[1].value / (at_least(pixel.features_norm) * at_least(pixel.prediction_norm));
    const double step = pixel.mean_square <= similarity_.tau ? similarity_.alpha : 0;
    pixel.q = 1 - step - (similarity_.beta == 0 ? 0 : similarity_.beta * pixel.cosine);
    return pixel;
  }

  void forward(Buffer<Device, A>& sums) {
    Forward want;
    for (const Pixel& pixel : pixels_) {
      want.loss.add(pixel.q * pixel.q * pixel.mean_square, weight_bound_ * weight_bound_ * pixel.mean_square);
      want.score.push_back({std::abs(pixel.q) * pixel.distance, weight_bound_ * pixel.distance});
      want.sums.insert(want.sums.end(), pixel.sums, pixel.sums + 4);
    }
    Device::refine_forward(*this, sums, want);
  }

  // d / d towards of one pixel's grad_loss (1 - s)^2 m + grad_score |1 - s| |F^ - F|, where `towards` is a
  // component of F^ or F, and `other` the same component of the other one.
  Expected naive_gradient(const Pixel& pixel, double towards, double other, double norm, double grad_loss,
                          double grad_score) const {
    const double q = pixel.q, m = pixel.mean_square, difference = towards - other;
    const double width = static_cast<double>(columns_), bound = weight_bound_;
    Expected gradient;
    gradient.add(grad_loss * 2 * q * q / width * difference,
                 std::abs(grad_loss * 2 * bound * bound / width * difference));
    if (pixel.distance != 0) {
      gradient.add(grad_score * std::abs(q) * difference / pixel.distance,
                   std::abs(grad_score * bound * difference / pixel.distance));
    }
    if (similarity_.beta == 0 || pixel.tiny) return gradient;
    const double sign = q > 0 ? 1 : q < 0 ? -1 : 0;
    const double ds = -similarity_.beta * (grad_loss * 2 * q * m + grad_score * sign * pixel.distance);
    const double ds_bound = std::abs(similarity_.beta) *
                            (std::abs(grad_loss) * 2 * bound * m + std::abs(grad_score) * pixel.distance);
    const double cross = other / (pixel.features_norm * pixel.prediction_norm);
    const double along = pixel.cosine * towards / (norm * norm);
    gradient.add(ds * (cross - along), ds_bound * (std::abs(cross) + std::abs(along)));
    return gradient;
  }

  void backward(const Buffer<Device, A>& sums, int wanted) {
    Buffer<Device, A> grad_score(rows_);
    grad_score.fill_random(random_, 2);
    // Near s = 1 the sign of 1 - s hangs on rounding.
    for (int64_t n = 0; n < rows_; ++n) {
      if (std::abs(pixels_[n].q) < 1e-4) grad_score.set(n, 0);
    }
    const A grad_loss = static_cast<A>(random_.uniform(-1, 1) * static_cast<double>(rows_));
    Backward backward{sums,
                      wanted & 4 ? &grad_score : nullptr,
                      grad_loss,
                      grad_loss / static_cast<A>(rows_),
                      (wanted & 1) != 0,
                      (wanted & 2) != 0,
                      {},
                      {}};
    for (int64_t n = 0; n < rows_; ++n) {
      const Pixel& pixel = pixels_[n];
      const double loss = to_double(backward.pixel_grad_loss),
                   score = backward.grad_score ? grad_score[n] : 0;
      for (int64_t c = 0; c < columns_; ++c) {
        backward.want_features.push_back(
            naive_gradient(pixel, f(n, c), p(n, c), pixel.features_norm, loss, score));
        backward.want_prediction.push_back(
            naive_gradient(pixel, p(n, c), f(n, c), pixel.prediction_norm, loss, score));
      }
    }
    Device::refine_backward(*this, backward);
  }

  void refined_map() {
    std::vector<Expected> want(rows_ * columns_);
    for (int64_t n = 0; n < rows_; ++n) {
      for (int64_t c = 0; c < columns_; ++c) {
        const double q = pixels_[n].q;
        Expected& value = want[n * columns_ + c];
        value.add((1 - q) * f(n, c), weight_bound_ * std::abs(f(n, c)));
        value.add(q * p(n, c), weight_bound_ * std::abs(p(n, c)));
      }
    }
    Device::refined_map(*this, want);
  }

  Random& random_;
  Alignment alignment_;
  int64_t rows_, columns_;
  Checker checker_;
  RowLayout features_layout_, prediction_layout_;
  Buffer<Device, T> features_;
  Buffer<Device, P> prediction_;
  grad::Similarity similarity_;
  grad::RefineArgs<T, P> args_;
  std::vector<Pixel> pixels_;
  double weight_bound_;
};

template <typename Device, typename P, typename T>
void refine_cases(Random& random, Choice choice) {
  for (int i = 0; i < 80; ++i) {
    if (!choice.next()) continue;
    const Alignment alignment = Alignment::random(random);
    RefineCase<Device, T, P>(random, random_rows(random), random_columns(random), alignment).run(i % 8);
  }
}

// Every axis that may be empty.
template <typename Device, typename P, typename T>
void empty_refine_cases(Random& random) {
  for (const int64_t rows : {0, 3}) {
    for (const int64_t columns : {0, 5}) {
      RefineCase<Device, T, P>(random, rows, columns, Alignment::any()).run(7);
    }
  }
}
