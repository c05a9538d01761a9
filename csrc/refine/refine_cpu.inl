// Included by refine_cpu.cpp once for each instruction set, inside its namespace.

template <typename T, typename P>
inline PixelSums<Accumulate<P>> pixel_sums(const RefineArgs<T, P>& args, int64_t row) {
  using A = Accumulate<P>;
  const T* features = args.features + row * args.features_stride;
  const P* prediction = args.prediction + row * args.prediction_stride;
  ColumnSum<A> difference_sum, dot_sum, features_sum, prediction_sum;
  for_columns<A>(args.columns, [&](auto pack, int64_t c) {
    const auto f = pack.load(features + c);
    const auto p = pack.load(prediction + c);
    const auto difference = p - f;
    difference_sum.add(difference * difference);
    dot_sum.add(f * p);
    features_sum.add(f * f);
    prediction_sum.add(p * p);
  });
  return {difference_sum.total(), dot_sum.total(), features_sum.total(), prediction_sum.total()};
}

template <typename T, typename P>
double refine_forward(const RefineArgs<T, P>& args, Accumulate<P>* score, Accumulate<P>* sums, Range rows) {
  using A = Accumulate<P>;
  double loss = 0;
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    const PixelSums<A> pixel = pixel_sums(args, n);
    const PixelSimilarity<A> similarity = pixel_similarity(pixel, args.columns, args.similarity);
    loss += pixel_loss(similarity);
    score[n] = pixel_score(pixel, similarity);
    std::memcpy(sums + 4 * n, &pixel, sizeof(pixel));
  }
  return loss;
}

template <typename T, typename P>
void refine_backward(const RefineArgs<T, P>& args, const Accumulate<P>* sums, Accumulate<P> grad_loss,
                     const Accumulate<P>* grad_score, T* grad_features, P* grad_prediction, Range rows) {
  using A = Accumulate<P>;
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    PixelSums<A> pixel;
    std::memcpy(&pixel, sums + 4 * n, sizeof(pixel));
    const PixelSimilarity<A> similarity = pixel_similarity(pixel, args.columns, args.similarity);
    const PixelGradient<A> gradient =
        pixel_gradient(pixel, similarity, args.columns, grad_loss, grad_score ? grad_score[n] : A{0});
    const T* features = args.features + n * args.features_stride;
    const P* prediction = args.prediction + n * args.prediction_stride;
    T* to_features = grad_features ? grad_features + n * args.columns : nullptr;
    P* to_prediction = grad_prediction ? grad_prediction + n * args.columns : nullptr;
    for_columns<A>(args.columns, [&](auto pack, int64_t c) {
      const auto f = pack.load(features + c);
      const auto p = pack.load(prediction + c);
      const auto pull = (p - f) * gradient.difference;
      if (to_prediction) pack.store(to_prediction + c, pull + f * gradient.cross + p * gradient.prediction);
      if (to_features) pack.store(to_features + c, p * gradient.cross + f * gradient.features - pull);
    });
  }
}

template <typename T, typename P>
void refined_map(const RefineArgs<T, P>& args, P* refined, Range rows) {
  using A = Accumulate<P>;
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    const PixelSimilarity<A> similarity =
        pixel_similarity(pixel_sums(args, n), args.columns, args.similarity);
    const A one_minus = similarity.one_minus, s = 1 - one_minus;
    const T* features = args.features + n * args.features_stride;
    const P* prediction = args.prediction + n * args.prediction_stride;
    for_columns<A>(args.columns, [&](auto pack, int64_t c) {
      pack.store(refined + n * args.columns + c,
                 pack.load(features + c) * s + pack.load(prediction + c) * one_minus);
    });
  }
}
