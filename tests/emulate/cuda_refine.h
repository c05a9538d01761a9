// Refinement by the launchers of CUDA kernels.
#pragma once

#include <vector>

#include "device.h"
#include "refine/refine.h"

template <typename Device>
struct CudaRefine {
  template <typename Case>
  static void refine_forward(const Case& c, Buffer<Device, typename Case::A>& sums,
                             const typename Case::Forward& want) {
    using A = typename Case::A;
    Buffer<Device, A> loss(1), score(c.rows()), shares(grad::refine_blocks_cuda(c.rows()));
    InOrders(c.checker(), c.random(), "forward")
        .output(loss, "loss")
        .output(score, "score")
        .output(sums, "sums")
        .run([&] {
          shares.forget();
          grad::refine_forward_cuda(c.args(), loss.get(), score.get(), sums.get(), shares.get(), c.rows(),
                                    nullptr);
        });
    c.checker().near("score", score, want.score, 1);
    c.checker().near("sums", sums, want.sums, 4);
    if (c.rows() == 0) return c.checker().require(loss[0] != loss[0], "the mean of nothing is NaN", 0);
    c.checker().near("loss", 0, 0, loss[0] * static_cast<double>(c.rows()), want.loss, Type<A>::epsilon);
  }

  template <typename Case>
  static void refine_backward(const Case& c, const typename Case::Backward& backward) {
    const int64_t values = c.rows() * c.columns();
    Buffer<Device, typename Case::Features> grad_features(backward.need_features ? values : 0, c.shift());
    Buffer<Device, typename Case::Prediction> grad_prediction(backward.need_prediction ? values : 0,
                                                              c.shift());
    Buffer<Device, typename Case::A> grad_loss(1);
    grad_loss.put(0, backward.grad_loss);
    InOrders(c.checker(), c.random(), "backward")
        .output(grad_features, "grad_features")
        .output(grad_prediction, "grad_prediction")
        .run([&] {
          grad::refine_backward_cuda(c.args(), backward.sums.get(), grad_loss.get(),
                                     backward.grad_score ? backward.grad_score->get() : nullptr,
                                     backward.need_features ? grad_features.get() : nullptr,
                                     backward.need_prediction ? grad_prediction.get() : nullptr, c.rows(),
                                     nullptr);
        });
    const Checker& checker = c.checker();
    if (backward.need_features)
      checker.near("grad_features", grad_features, backward.want_features, c.columns());
    if (backward.need_prediction)
      checker.near("grad_prediction", grad_prediction, backward.want_prediction, c.columns());
  }

  template <typename Case>
  static void refined_map(const Case& c, const std::vector<Expected>& want) {
    Buffer<Device, typename Case::Prediction> refined(c.rows() * c.columns(), c.shift());
    InOrders(c.checker(), c.random(), "refined map").output(refined, "refined").run([&] {
      grad::refined_map_cuda(c.args(), refined.get(), c.rows(), nullptr);
    });
    c.checker().near("refined", refined, want, c.columns());
  }
};
