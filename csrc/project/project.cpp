// project: argument checks, allocation, and who computes which part.
#include "project/project.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>

#include <algorithm>
#include <memory>
#include <tuple>

#include "common/checks.h"
#include "common/device.h"
#include "common/partition.h"
#include "common/write_past_caches.h"
#include "interpolate/interpolate_host.h"
#include "jitter/jitter_host.h"
#include "project/project_host.h"

namespace grad {

void check_project(const ProjectInputs& inputs) {
  const at::Tensor &hidden = inputs.hidden, &weight = inputs.weight, &bias = inputs.bias, &grid = inputs.grid;
  make_lattice(grid, inputs.align_corners, inputs.border, inputs.grid_name);
  const int64_t dims = grid.dim() - 1;
  check_shape(hidden.dim() == 2, hidden, "hidden", "(N, Ch)");
  check_shape(weight.dim() == 2 && weight.size(0) == dims && weight.size(1) == hidden.size(1), weight,
              "weight", "(D, Ch) = (" + std::to_string(dims) + ", " + std::to_string(hidden.size(1)) + ")");
  check_shape(bias.dim() == 1 && bias.size(0) == dims, bias, "bias",
              "(D,) = (" + std::to_string(dims) + ",)");
  check_type_pair(hidden, "hidden", grid, inputs.grid_name);
  check_floating(weight, "weight");
  check_floating(bias, "bias");
  check_same_device(weight, "weight", hidden, "hidden");
  check_same_device(bias, "bias", hidden, "hidden");
  check_same_device(grid, inputs.grid_name, hidden, "hidden");
  if (inputs.jitter_state.has_value()) {
    const at::Tensor& state = *inputs.jitter_state;
    check_jitter_state(state, "jitter_state");
    check_same_device(state, "jitter_state", hidden, "hidden");
  }
}

namespace {

// Contiguous copies where an input needs one, in the types that the kernels read.
struct ProjectTensors {
  at::Tensor hidden, weight, bias, grid, state;

  explicit ProjectTensors(const ProjectInputs& inputs)
      : hidden(with_adjacent_columns(inputs.hidden)), grid(inputs.grid.contiguous()) {
    const at::ScalarType accumulate = accumulate_type(hidden.scalar_type());
    weight = inputs.weight.to(accumulate).contiguous();
    bias = inputs.bias.to(accumulate).contiguous();
    if (inputs.jitter_state.has_value()) state = inputs.jitter_state->contiguous();
  }

  template <typename T, typename G>
  ProjectArgs<T, G> args(const ProjectInputs& inputs) const {
    using A = Accumulate<T>;
    return {data<T>(hidden),
            hidden.stride(0),
            data<A>(weight),
            data<A>(bias),
            data<G>(grid),
            hidden.size(1),
            grid.size(-1),
            make_lattice(grid, inputs.align_corners, inputs.border),
            jitter_args(state, inputs.jitter_probability, inputs.jitter_std, inputs.jitter_per_batch)};
  }
};

// Calls body(args, std::integral_constant<int, D>) with the template arguments of these inputs.
template <typename Body>
void dispatch_project(const ProjectInputs& inputs, const ProjectTensors& tensors, Body&& body) {
  dispatch_types(tensors.hidden.scalar_type(), tensors.grid.scalar_type(), [&](auto* value, auto* cell) {
    using T = std::remove_pointer_t<decltype(value)>;
    using G = std::remove_pointer_t<decltype(cell)>;
    dispatch_dims(inputs.grid.dim() - 1, [&](auto dims) { body(tensors.args<T, G>(inputs), dims); });
  });
}

// Where the operator's results go; undefined where not needed.
struct ProjectOutputs {
  at::Tensor grad_hidden, grad_weight, grad_bias, grad_grid;
};

// A fused backward pass needs private copies of the grid's gradient; beyond this size a copy leaves a
// processor's second-level cache, and the two halves run one after the other.
constexpr int64_t kFusedGridValues = 1 << 18;

// Parts of the rows, each with sums of its own for grid, weight and bias, added up in order at the end.
// With grad_coords given, only the head's half is done. The grid's sums are made in any case: both halves
// are needed nearly always, and a kernel for each would take a third more time to compile.
template <int D, typename T, typename G>
void backward_cpu(const ProjectArgs<T, G>& args, const Accumulate<T>* activations, const at::Tensor& grad_out,
                  const Accumulate<T>* grad_coords, const ProjectOutputs& outputs) {
  using A = Accumulate<T>;
  const auto numel = [](const at::Tensor& tensor) { return tensor.defined() ? tensor.numel() : 0; };
  const int64_t grid_size = grad_coords ? 0 : args.lattice.cells(D) * args.columns;
  const int64_t weight_size = numel(outputs.grad_weight), bias_size = numel(outputs.grad_bias);
  const int64_t size = grid_size + weight_size + bias_size;
  const Partition parts = backward_rows(grad_out.size(0), args.lattice.cells(D));
  const std::unique_ptr<A[]> sums(new A[parts.count() * size]);
  const bool past_caches = goes_past_caches(numel(outputs.grad_hidden) * sizeof(T));
  at::parallel_for(0, parts.count(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      A* grid = &sums[part * size];
      A* weight = grid + grid_size;
      std::fill_n(grid, size, A{0});  // here, so that they are in this thread's cache
      const ProjectGradients<T> gradients{data<T>(outputs.grad_hidden), weight_size ? weight : nullptr,
                                          bias_size ? weight + weight_size : nullptr,
                                          grid_size ? grid : nullptr, past_caches};
      if (grad_coords) {
        project_head_backward_cpu<D>(args, activations, grad_coords, parts[part], gradients);
      } else {
        project_backward_cpu<D>(args, activations, data<T>(grad_out), grad_out.stride(0), parts[part],
                                gradients);
      }
    }
  });
  const auto total = [&](int64_t first, int64_t count, auto* out) {
    at::parallel_for(0, count, 4096, [&](int64_t begin, int64_t end) {
      sum_parts(sums.get() + first, parts.count(), size, {begin, end}, out);
    });
  };
  if (outputs.grad_grid.defined()) total(0, grid_size, data<G>(outputs.grad_grid));
  total(grid_size, weight_size, data<A>(outputs.grad_weight));
  total(grid_size + weight_size, bias_size, data<A>(outputs.grad_bias));
}

// The same on the GPU. Returns false, and does nothing, where a block can't hold what it needs.
template <int D, typename T, typename G>
bool backward_cuda(const ProjectArgs<T, G>& args, const Accumulate<T>* activations,
                   const at::Tensor& grad_out, const Accumulate<T>* grad_coords,
                   const ProjectOutputs& outputs) {
  using A = Accumulate<T>;
  const int64_t rows = grad_out.size(0);
  G* grad_grid = grad_coords ? nullptr : data<G>(outputs.grad_grid);
  const ProjectPlan plan = plan_project_cuda<D>(args, data<T>(grad_out), grad_out.stride(0),
                                                data<T>(outputs.grad_hidden), rows, grad_grid != nullptr);
  if (!plan.fits) return false;
  const int64_t grid_size = grad_grid ? args.lattice.cells(D) * args.columns : 0;
  const int64_t size = grid_size + D * (args.hidden_columns + 1);
  const at::Tensor workspace =
      at::empty({plan.parts * size}, grad_out.options().dtype(accumulate_type(grad_out.scalar_type())));
  project_backward_cuda<D>(
      args, plan, activations, data<T>(grad_out), grad_out.stride(0), grad_coords, rows,
      {data<T>(outputs.grad_hidden), data<A>(outputs.grad_weight), data<A>(outputs.grad_bias), nullptr},
      grad_grid, data<A>(workspace), current_stream());
  check_launch();
  return true;
}

// u = a + jitter, (N, D).
at::Tensor coordinates(const ProjectInputs& inputs, const at::Tensor& activations) {
  if (!inputs.jitter_state.has_value()) return activations;
  return activations + drawn_noise(*inputs.jitter_state, activations.size(0), activations.size(1),
                                   inputs.jitter_probability, inputs.jitter_std, inputs.jitter_per_batch);
}

// The head's half for rows that are too wide for one block of the GPU: matrix products.
void head_backward_wide(const ProjectTensors& tensors, const at::Tensor& activations,
                        const at::Tensor& grad_coords, ProjectOutputs& outputs) {
  const at::Tensor d = grad_coords * (1 - activations * activations);
  if (outputs.grad_hidden.defined())
    outputs.grad_hidden = at::matmul(d, tensors.weight).to(tensors.hidden.scalar_type());
  if (outputs.grad_weight.defined())
    outputs.grad_weight = at::matmul(d.t(), tensors.hidden.to(d.scalar_type()));
  if (outputs.grad_bias.defined()) outputs.grad_bias = d.sum(0);
}

}  // namespace

at::Tensor project_into(const ProjectInputs& inputs, const at::Tensor& out) {
  const ProjectTensors tensors(inputs);
  const int64_t rows = inputs.hidden.size(0);
  const at::Tensor activations = at::empty({rows, inputs.grid.dim() - 1}, tensors.weight.options());
  dispatch_project(inputs, tensors, [&](const auto& args, auto dims) {
    constexpr int D = decltype(dims)::value;
    using T = std::remove_const_t<std::remove_pointer_t<decltype(args.hidden)>>;
    Accumulate<T>* a = data<Accumulate<T>>(activations);
    if constexpr (kWithCuda) {
      if (out.is_cuda()) {
        project_forward_cuda<D>(args, data<T>(out), out.stride(0), a, rows, current_stream());
        return check_launch();
      }
    }
    const Partition parts = forward_tiles(rows);
    const bool past_caches = goes_past_caches(out.numel() * out.element_size());
    at::parallel_for(0, parts.count(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) {
        project_forward_cpu<D>(args, data<T>(out), out.stride(0), a, parts[part], past_caches);
      }
    });
  });
  return activations;
}

namespace {

std::tuple<at::Tensor, at::Tensor> project(const at::Tensor& hidden, const at::Tensor& weight,
                                           const at::Tensor& bias, const at::Tensor& grid,
                                           const std::optional<at::Tensor>& jitter_state,
                                           double jitter_probability, double jitter_std,
                                           bool jitter_per_batch, bool align_corners, bool border) {
  const ProjectInputs inputs{
      hidden,     weight,           bias,          grid,  jitter_state, jitter_probability,
      jitter_std, jitter_per_batch, align_corners, border};
  check_project(inputs);
  const c10::DeviceGuard guard(hidden.device());
  const at::Tensor out = at::empty({hidden.size(0), grid.size(-1)}, hidden.options());
  return {out, project_into(inputs, out)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> project_backward(
    const at::Tensor& grad_out, const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& bias,
    const at::Tensor& grid, const at::Tensor& activations, const std::optional<at::Tensor>& jitter_state,
    double jitter_probability, double jitter_std, bool jitter_per_batch, bool align_corners, bool border,
    bool need_hidden, bool need_weight, bool need_bias, bool need_grid, bool deterministic) {
  const ProjectInputs inputs{
      hidden,     weight,           bias,          grid,  jitter_state, jitter_probability,
      jitter_std, jitter_per_batch, align_corners, border};
  check_project(inputs);
  const int64_t rows = hidden.size(0), columns = grid.size(-1);
  check_shape(grad_out.dim() == 2 && grad_out.size(0) == rows && grad_out.size(1) == columns, grad_out,
              "grad_out", "(N, C) like the values that were looked up");
  check_same_device(grad_out, "grad_out", hidden, "hidden");
  TORCH_CHECK_TYPE(grad_out.scalar_type() == hidden.scalar_type(), "grad_out must have the type of hidden, ",
                   name_of(hidden.scalar_type()), ", got ", describe(grad_out));
  const at::ScalarType accumulate = accumulate_type(hidden.scalar_type());
  check_shape(activations.sizes() == at::IntArrayRef{rows, weight.size(0)} && activations.is_contiguous() &&
                  activations.scalar_type() == accumulate,
              activations, "activations",
              std::string("what project returned, (N, D) ") + name_of(accumulate) + ", contiguous");
  check_same_device(activations, "activations", hidden, "hidden");
  const c10::DeviceGuard guard(hidden.device());
  const ProjectTensors tensors(inputs);
  const at::Tensor values = with_adjacent_columns(grad_out);
  ProjectOutputs outputs;
  if (need_hidden) outputs.grad_hidden = at::empty(hidden.sizes(), hidden.options());
  if (need_weight) outputs.grad_weight = at::empty(weight.sizes(), tensors.weight.options());
  if (need_bias) outputs.grad_bias = at::empty(bias.sizes(), tensors.bias.options());
  if (need_grid) outputs.grad_grid = at::empty(grid.sizes(), grid.options());
  const bool need_head = need_hidden || need_weight || need_bias;

  dispatch_project(inputs, tensors, [&](const auto& args, auto dims) {
    constexpr int D = decltype(dims)::value;
    using A = typename std::remove_reference_t<decltype(args)>::A;
    if (!need_head && !need_grid) return;
    const A* a = data<A>(activations);
    const bool on_cuda = kWithCuda && values.is_cuda();
    if constexpr (kWithCuda) {
      if (on_cuda && backward_cuda<D>(args, a, values, nullptr, outputs)) return;
    }
    if (!on_cuda && grid.numel() <= kFusedGridValues) {
      return backward_cpu<D>(args, a, values, nullptr, outputs);
    }
    const at::Tensor coords = coordinates(inputs, activations);
    const auto [grad_coords, grad_grid] = interpolate_backward(values, coords, tensors.grid, align_corners,
                                                               border, need_head, need_grid, deterministic);
    if (need_grid) outputs.grad_grid = grad_grid;
    if (!need_head) return;
    if constexpr (kWithCuda) {
      if (on_cuda && backward_cuda<D>(args, a, values, data<A>(grad_coords), outputs)) return;
      if (on_cuda) return head_backward_wide(tensors, activations, grad_coords, outputs);
    }
    backward_cpu<D>(args, a, values, data<A>(grad_coords), outputs);
  });
  const auto result = [](const at::Tensor& gradient, const at::Tensor& of) {
    return gradient.defined() ? gradient.to(of.scalar_type()) : at::empty({0}, of.options());
  };
  return {result(outputs.grad_hidden, hidden), result(outputs.grad_weight, weight),
          result(outputs.grad_bias, bias), result(outputs.grad_grid, grid)};
}

}  // namespace

namespace {

void register_project(torch::Library& library) {
  library.impl("project", &project);
  library.impl("project_backward", &project_backward);
}

}  // namespace

GRAD_REGISTER(register_project)

}  // namespace grad
