// Refinement on the CPU: in parts of the rows, as csrc/refine/refine.cpp cuts them and any others.
#pragma once

#include <algorithm>
#include <vector>

#include "checker.h"
#include "common/partition.h"
#include "heap.h"
#include "refine/refine.h"

template <typename Device>
struct CpuRefine {
  template <typename Case>
  static void refine_forward(const Case& c, Buffer<Device, typename Case::A>& sums,
                             const typename Case::Forward& want) {
    using A = typename Case::A;
    Buffer<Device, A> score(c.rows());
    double loss = 0;
    const grad::Partition parts = grad::forward_rows(c.rows(), c.columns());
    for (int64_t part = 0; part < parts.count(); ++part) {
      loss += grad::refine_forward_cpu(c.args(), score.get(), sums.get(), parts[part]);
    }
    c.checker().near("score", score, want.score, 1);
    c.checker().near("sums", sums, want.sums, 4);
    c.checker().near("loss", 0, 0, loss, want.loss, Type<A>::epsilon);

    Buffer<Device, A> part_score(c.rows()), part_sums(c.rows() * 4);
    const Range part = c.random().part(c.rows());
    grad::refine_forward_cpu(c.args(), part_score.get(), part_sums.get(), part);
    c.checker().part_near("part of score", part_score, {1, 1, 0}, part, {0, 1}, 1, want.score);
    c.checker().part_near("part of sums", part_sums, {4, 4, 0}, part, {0, 4}, 4, want.sums);
  }

  template <typename Case>
  static void refine_backward(const Case& c, const typename Case::Backward& backward) {
    const int64_t values = c.rows() * c.columns();
    Buffer<Device, typename Case::Features> grad_features(values, c.shift());
    Buffer<Device, typename Case::Prediction> grad_prediction(values, c.shift());
    const auto run = [&](Range rows) {
      grad::refine_backward_cpu(c.args(), backward.sums.get(), backward.pixel_grad_loss,
                                backward.grad_score ? backward.grad_score->get() : nullptr,
                                backward.need_features ? grad_features.get() : nullptr,
                                backward.need_prediction ? grad_prediction.get() : nullptr, rows);
    };
    const RowLayout plain{c.columns(), std::max<int64_t>(c.columns(), 1), 0};
    const auto check = [&](const char* features, const char* prediction, Range rows) {
      const Range none{0, 0}, columns{0, c.columns()};
      c.checker().part_near(features, grad_features, plain, backward.need_features ? rows : none, columns,
                            c.columns(), backward.want_features);
      c.checker().part_near(prediction, grad_prediction, plain, backward.need_prediction ? rows : none,
                            columns, c.columns(), backward.want_prediction);
    };
    const grad::Partition parts = grad::forward_rows(c.rows(), c.columns());
    for (int64_t part = 0; part < parts.count(); ++part) run(parts[part]);
    check("grad_features", "grad_prediction", {0, c.rows()});

    grad_features.forget();
    grad_prediction.forget();
    const Range part = c.random().part(c.rows());
    run(part);
    check("part of grad_features", "part of grad_prediction", part);
  }

  template <typename Case>
  static void refined_map(const Case& c, const std::vector<Expected>& want) {
    Buffer<Device, typename Case::Prediction> refined(c.rows() * c.columns(), c.shift());
    in_random_parts(c.random(), c.rows(),
                    [&](Range rows) { grad::refined_map_cpu(c.args(), refined.get(), rows); });
    c.checker().near("refined", refined, want, c.columns());
  }
};
