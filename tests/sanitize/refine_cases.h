// Refinement: forward, backward for every choice of gradients, and the refined map.
#pragma once

#include <vector>

#include "common/partition.h"
#include "naive.h"
#include "refine/refine.h"
#include "shapes.h"

template <typename T, typename P>
class RefineCase {
  using A = grad::Accumulate<P>;

  struct Pixel {
    Expected sums[4];
    double mean_square, distance, cosine, features_norm, prediction_norm;
    double q;   // 1 - s
    bool tiny;  // a zero vector, for which the cosine has no gradient
  };

 public:
  RefineCase(Random& random, int64_t rows, int64_t columns)
      : random_(random),
        rows_(rows),
        columns_(columns),
        checker_(Checker::of<A>(std::string("refine: ") + Type<P>::name + " prediction, " + Type<T>::name +
                                " features, " + std::to_string(rows) + " rows, " + std::to_string(columns) +
                                " columns")),
        features_layout_(random_rows_layout()),
        prediction_layout_(random_rows_layout()),
        features_(extent(features_layout_, rows, columns)),
        prediction_(extent(prediction_layout_, rows, columns)),
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
             columns,         similarity_};
  }

  // `wanted` has a bit for each of grad_features, grad_prediction and a gradient of the scores.
  void run(int wanted) {
    Buffer<A> sums(rows_ * 4);
    forward(sums);
    backward(sums, wanted);
    refined_map();
    ++cases_passed();
  }

 private:
  RowLayout random_rows_layout() const {
    const int64_t stride = columns_ + (random_.chance(50) ? random_.integer(1, 9) : 0);
    return {random_.chance(5) ? 0 : stride, std::max<int64_t>(columns_, 1), 0};
  }

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

  void forward(Buffer<A>& sums) {
    Buffer<A> score(rows_);
    double loss = 0;
    const grad::Partition parts = grad::forward_rows(rows_, columns_);
    for (int64_t part = 0; part < parts.count(); ++part) {
      loss += grad::refine_forward_cpu(args_, score.get(), sums.get(), parts[part]);
    }
    Expected want_loss;
    for (int64_t n = 0; n < rows_; ++n) {
      const Pixel& pixel = pixels_[n];
      want_loss.add(pixel.q * pixel.q * pixel.mean_square, weight_bound_ * weight_bound_ * pixel.mean_square);
      checker_.near("score", n, 0, score[n],
                    {std::abs(pixel.q) * pixel.distance, weight_bound_ * pixel.distance}, Type<A>::epsilon);
      for (int k = 0; k < 4; ++k)
        checker_.near("sums", n, k, sums[4 * n + k], pixel.sums[k], Type<A>::epsilon);
    }
    checker_.near("loss", 0, 0, loss, want_loss, Type<A>::epsilon);

    Buffer<A> part_score(rows_), part_sums(rows_ * 4);
    const Range part = random_.part(rows_);
    grad::refine_forward_cpu(args_, part_score.get(), part_sums.get(), part);
    for (int64_t n = 0; n < rows_; ++n) {
      const bool inside = n >= part.begin && n < part.end;
      checker_.require(inside || part_score.untouched(n), "score outside of its part", n);
      for (int k = 0; k < 4; ++k) {
        checker_.require(inside || part_sums.untouched(4 * n + k), "sums outside of their part", n);
      }
    }
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

  void backward(const Buffer<A>& sums, int wanted) {
    Buffer<A> grad_score(rows_);
    grad_score.fill_random(random_, 2);
    // Near s = 1 the sign of 1 - s hangs on rounding.
    for (int64_t n = 0; n < rows_; ++n) {
      if (std::abs(pixels_[n].q) < 1e-4) grad_score.set(n, 0);
    }
    const A grad_loss = static_cast<A>(random_.uniform(-1, 1));
    Buffer<T> grad_features(rows_ * columns_);
    Buffer<P> grad_prediction(rows_ * columns_);
    const auto run = [&](Buffer<T>& to_features, Buffer<P>& to_prediction, Range rows) {
      grad::refine_backward_cpu(args_, sums.get(), grad_loss, wanted & 4 ? grad_score.get() : nullptr,
                                wanted & 1 ? to_features.get() : nullptr,
                                wanted & 2 ? to_prediction.get() : nullptr, rows);
    };
    const grad::Partition parts = grad::forward_rows(rows_, columns_);
    for (int64_t part = 0; part < parts.count(); ++part) run(grad_features, grad_prediction, parts[part]);
    std::vector<Expected> want_features, want_prediction;
    for (int64_t n = 0; n < rows_; ++n) {
      const Pixel& pixel = pixels_[n];
      const double score = wanted & 4 ? grad_score[n] : 0;
      for (int64_t c = 0; c < columns_; ++c) {
        want_features.push_back(
            naive_gradient(pixel, f(n, c), p(n, c), pixel.features_norm, to_double(grad_loss), score));
        want_prediction.push_back(
            naive_gradient(pixel, p(n, c), f(n, c), pixel.prediction_norm, to_double(grad_loss), score));
      }
    }
    if (wanted & 1) checker_.near("grad_features", grad_features, want_features, columns_);
    if (wanted & 2) checker_.near("grad_prediction", grad_prediction, want_prediction, columns_);

    Buffer<T> part_features(rows_ * columns_);
    Buffer<P> part_prediction(rows_ * columns_);
    const Range part = random_.part(rows_);
    run(part_features, part_prediction, part);
    const RowLayout plain{columns_, std::max<int64_t>(columns_, 1), 0};
    const Range columns{0, columns_}, none{0, 0};
    check_part(checker_, "part of grad_features", part_features, plain, wanted & 1 ? part : none, columns,
               columns_, want_features);
    check_part(checker_, "part of grad_prediction", part_prediction, plain, wanted & 2 ? part : none, columns,
               columns_, want_prediction);
  }

  void refined_map() {
    Buffer<P> refined(rows_ * columns_);
    std::vector<Expected> want(rows_ * columns_);
    for (int64_t n = 0; n < rows_; ++n) {
      for (int64_t c = 0; c < columns_; ++c) {
        const double q = pixels_[n].q;
        Expected& value = want[n * columns_ + c];
        value.add((1 - q) * f(n, c), weight_bound_ * std::abs(f(n, c)));
        value.add(q * p(n, c), weight_bound_ * std::abs(p(n, c)));
      }
    }
    in_random_parts(random_, rows_, [&](Range rows) { grad::refined_map_cpu(args_, refined.get(), rows); });
    checker_.near("refined", refined, want, columns_);
  }

  Random& random_;
  int64_t rows_, columns_;
  Checker checker_;
  RowLayout features_layout_, prediction_layout_;
  Buffer<T> features_;
  Buffer<P> prediction_;
  grad::Similarity similarity_;
  grad::RefineArgs<T, P> args_;
  std::vector<Pixel> pixels_;
  double weight_bound_;
};

template <typename P, typename T>
void refine_cases(Random& random) {
  for (int i = 0; i < 80; ++i)
    RefineCase<T, P>(random, random_rows(random), random_columns(random)).run(i % 8);
}
