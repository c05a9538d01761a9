// refine: argument checks, allocation, and who computes which part.
#include "refine/refine.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <tuple>
#include <vector>

#include "common/checks.h"
#include "common/device.h"
#include "common/partition.h"

namespace grad {

namespace {

void check_refine(const at::Tensor& features, const at::Tensor& prediction) {
  check_shape(prediction.dim() == 2, prediction, "prediction", "(N, C)");
  check_shape(features.dim() == 2 && features.sizes() == prediction.sizes(), features, "features",
              "(N, C) like prediction, " + describe(prediction));
  check_same_device(features, "features", prediction, "prediction");
  check_type_pair(prediction, "prediction", features, "features");
}

// Calls body(args) with the template arguments of these inputs.
template <typename Body>
void dispatch_refine(const at::Tensor& features, const at::Tensor& prediction, const Similarity& similarity,
                     Body&& body) {
  dispatch_types(prediction.scalar_type(), features.scalar_type(), [&](auto* value, auto* feature) {
    using P = std::remove_pointer_t<decltype(value)>;
    using T = std::remove_pointer_t<decltype(feature)>;
    body(RefineArgs<T, P>{data<T>(features), data<P>(prediction), features.stride(0), prediction.stride(0),
                          prediction.size(1), similarity});
  });
}

Partition row_parts(const at::Tensor& prediction) {
  return forward_rows(prediction.size(0), prediction.size(1));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> refine(const at::Tensor& features,
                                                      const at::Tensor& prediction, double alpha, double beta,
                                                      double tau) {
  check_refine(features, prediction);
  const c10::DeviceGuard guard(prediction.device());
  const at::Tensor f = with_adjacent_columns(features), p = with_adjacent_columns(prediction);
  const auto options = prediction.options().dtype(accumulate_type(prediction.scalar_type()));
  const int64_t rows = prediction.size(0);
  at::Tensor loss = at::empty({}, options), score = at::empty({rows}, options),
             sums = at::empty({rows, 4}, options);
  dispatch_refine(f, p, {alpha, beta, tau}, [&](const auto& args) {
    using A = typename std::remove_reference_t<decltype(args)>::A;
    if constexpr (kWithCuda) {
      if (p.is_cuda()) {
        const at::Tensor shares = at::empty({refine_blocks_cuda(rows)}, options);
        refine_forward_cuda(args, data<A>(loss), data<A>(score), data<A>(sums), data<A>(shares), rows,
                            current_stream());
        return check_launch();
      }
    }
    const Partition parts = row_parts(p);
    std::vector<double> losses(parts.count());
    at::parallel_for(0, parts.count(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) {
        losses[part] = refine_forward_cpu(args, data<A>(score), data<A>(sums), parts[part]);
      }
    });
    double total = 0;
    for (const double share : losses) total += share;
    *data<A>(loss) = static_cast<A>(total / static_cast<double>(rows));
  });
  return {loss, score, sums};
}

std::tuple<at::Tensor, at::Tensor> refine_backward(const at::Tensor& grad_loss,
                                                   const std::optional<at::Tensor>& grad_score,
                                                   const at::Tensor& features, const at::Tensor& prediction,
                                                   const at::Tensor& sums, double alpha, double beta,
                                                   double tau, bool need_features, bool need_prediction) {
  check_refine(features, prediction);
  const c10::DeviceGuard guard(prediction.device());
  const int64_t rows = prediction.size(0);
  check_shape(sums.dim() == 2 && sums.size(0) == rows && sums.size(1) == 4 && sums.is_contiguous() &&
                  sums.scalar_type() == accumulate_type(prediction.scalar_type()),
              sums, "sums", "(N, 4) of the accumulation type, as refine returned it");
  check_same_device(sums, "sums", prediction, "prediction");
  check_shape(grad_loss.numel() == 1, grad_loss, "grad_loss", "a scalar");
  check_same_device(grad_loss, "grad_loss", prediction, "prediction");
  const at::Tensor f = with_adjacent_columns(features), p = with_adjacent_columns(prediction);
  const at::Tensor loss_gradient = grad_loss.to(sums.scalar_type());
  at::Tensor score_gradient;
  if (grad_score.has_value()) {
    check_shape(grad_score->dim() == 1 && grad_score->size(0) == rows, *grad_score, "grad_score", "(N,)");
    check_same_device(*grad_score, "grad_score", prediction, "prediction");
    score_gradient = grad_score->to(sums.scalar_type()).contiguous();
  }
  const auto make = [](bool need, const at::Tensor& like) {
    return need ? at::empty(like.sizes(), like.options()) : at::empty({0}, like.options());
  };
  at::Tensor grad_features = make(need_features, features),
             grad_prediction = make(need_prediction, prediction);
  dispatch_refine(f, p, {alpha, beta, tau}, [&](const auto& args) {
    using Args = std::remove_const_t<std::remove_reference_t<decltype(args)>>;
    using A = typename Args::A;
    using T = typename Args::Features;
    using P = typename Args::Prediction;
    T* to_features = need_features ? data<T>(grad_features) : nullptr;
    P* to_prediction = need_prediction ? data<P>(grad_prediction) : nullptr;
    if constexpr (kWithCuda) {
      if (p.is_cuda()) {
        refine_backward_cuda(args, data<A>(sums), data<A>(loss_gradient), data<A>(score_gradient),
                             to_features, to_prediction, rows, current_stream());
        return check_launch();
      }
    }
    const A pixel_loss_gradient = *data<A>(loss_gradient) / static_cast<A>(rows);
    const Partition parts = row_parts(p);
    at::parallel_for(0, parts.count(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) {
        refine_backward_cpu(args, data<A>(sums), pixel_loss_gradient, data<A>(score_gradient), to_features,
                            to_prediction, parts[part]);
      }
    });
  });
  return {grad_features, grad_prediction};
}

at::Tensor refined_map(const at::Tensor& features, const at::Tensor& prediction, double alpha, double beta,
                       double tau) {
  check_refine(features, prediction);
  const c10::DeviceGuard guard(prediction.device());
  const at::Tensor f = with_adjacent_columns(features), p = with_adjacent_columns(prediction);
  at::Tensor refined = at::empty(prediction.sizes(), prediction.options());
  dispatch_refine(f, p, {alpha, beta, tau}, [&](const auto& args) {
    using P = typename std::remove_reference_t<decltype(args)>::Prediction;
    if constexpr (kWithCuda) {
      if (p.is_cuda()) {
        refined_map_cuda(args, data<P>(refined), prediction.size(0), current_stream());
        return check_launch();
      }
    }
    const Partition parts = row_parts(p);
    at::parallel_for(0, parts.count(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) refined_map_cpu(args, data<P>(refined), parts[part]);
    });
  });
  return refined;
}

}  // namespace

namespace {

void register_refine(torch::Library& library) {
  library.impl("refine", &refine);
  library.impl("refine_backward", &refine_backward);
  library.impl("refined_map", &refined_map);
}

}  // namespace

GRAD_REGISTER(register_refine)

}  // namespace grad
