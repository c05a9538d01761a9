// One call of an operator, forward and backward, at a stated size, as csrc's host code launches its kernels:
// for the mode that counts.
//
//   workloads project|lookup|refine NAME=NUMBER...
//
//   images, pixels (784), channels (216)   N = images * pixels rows
//   dims (2), cells (8, of lookup 4)       axes of the grid, and cells along each
//   blocks (0)                             of each launch run, evenly spaced; 0: all
//   multiprocessors (132), shared (227)    of the device that is planned for: how many, and KiB of a block
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "device.h"
#include "interpolate/interpolate.h"
#include "project/project.h"
#include "refine/refine.h"
#include "shapes.h"

namespace {

using T = EMULATE_VALUES;
using G = EMULATE_PARAMETERS;
using A = grad::Accumulate<T>;
template <typename X>
using Device = Buffer<DeviceMemory, X>;

std::map<std::string, int64_t> numbers = {
    {"images", 16}, {"pixels", 784}, {"channels", 216},        {"dims", 2},
    {"cells", 0},   {"blocks", 0},   {"multiprocessors", 132}, {"shared", 227}};

grad::Lattice lattice_of(int dims, int64_t cells) {
  grad::Lattice lattice{{1, 1, 1, 1}, false, false};
  for (int j = 0; j < dims; ++j) lattice.size[j] = static_cast<int>(cells);
  return lattice;
}

template <typename X>
void fill(Device<X>& values, double scale) {
  Random random(1);
  values.fill_random(random, scale);
}

void launch(const char* what, const std::string& sizes) {
  emulate::set_case(std::string(what) + ", " + Type<T>::name + ", " + sizes);
}

template <int D>
void project(const std::string& sizes) {
  const int64_t rows = numbers["images"] * numbers["pixels"], columns = numbers["channels"];
  const grad::Lattice lattice = lattice_of(D, numbers["cells"]);
  const int64_t values = lattice.cells(D) * columns;
  Device<T> hidden(rows * columns), out(rows * columns), grad_hidden(rows * columns);
  Device<A> weight(D * columns), bias(D), activations(rows * D), grad_weight(D * columns), grad_bias(D);
  Device<G> grid(values), grad_grid(values);
  Device<int64_t> state(2);
  fill(hidden, 1);
  fill(weight, 0.2);
  fill(bias, 0.1);
  fill(grid, 1);
  state.put(0, 1);
  state.put(1, 0);
  const grad::ProjectArgs<T, G> args{hidden.get(), columns,    weight.get(),
                                     bias.get(),   grid.get(), columns,
                                     columns,      lattice,    {state.get(), 0.5f, 0.05f, false, nullptr}};
  launch("project forward", sizes);
  grad::project_forward_cuda<D>(args, out.get(), columns, activations.get(), rows, nullptr);

  // Backward needs the coordinates of all rows, whose cells decide how often a thread changes its corners.
  if (numbers["blocks"] != 0) {
    for (int64_t n = 0; n < rows; ++n) {
      for (int j = 0; j < D; ++j) {
        A sum = bias[j];
        for (int64_t c = 0; c < columns; ++c) {
          sum += weight[j * columns + c] * grad::load(hidden.get()[n * columns + c]);
        }
        activations.put(n * D + j, std::tanh(sum));
      }
    }
  }
  launch("project backward", sizes);
  const grad::ProjectPlan plan =
      grad::plan_project_cuda<D>(args, out.get(), columns, grad_hidden.get(), rows, true);
  if (!plan.fits) {
    std::fprintf(stderr, "workloads: the grid does not fit\n");
    std::exit(2);
  }
  Device<A> workspace(plan.parts * (values + D * (columns + 1)));
  grad::project_backward_cuda<D>(args, plan, activations.get(), out.get(), columns,
                                 static_cast<const A*>(nullptr), rows,
                                 {grad_hidden.get(), grad_weight.get(), grad_bias.get(), nullptr},
                                 grad_grid.get(), workspace.get(), nullptr);
}

// Of whole images into half of the channels of each pixel, as the model does it.
template <int D>
void lookup(const std::string& sizes) {
  const int64_t rows = numbers["images"], channels = numbers["channels"];
  const int64_t columns = numbers["pixels"] * channels;
  const grad::Lattice lattice = lattice_of(D, numbers["cells"]);
  const RowLayout layout{2 * columns, channels, 2 * channels};
  const int64_t values = lattice.cells(D) * columns;
  Device<A> coords(rows * D), grad_coords(rows * D);
  Device<G> grid(values), grad_grid(values);
  Device<T> out(rows * 2 * columns);
  fill(coords, 1);
  fill(grid, 1);
  launch("lookup forward", sizes);
  grad::interpolate_forward_cuda<D>(
      grad::InterpolateForward<T, G>{coords.get(), grid.get(), out.get(), layout, columns, lattice}, rows,
      nullptr);

  launch("lookup backward", sizes);
  const grad::InterpolateBackward<T, G> args{coords.get(), grid.get(), out.get(), layout, columns, lattice};
  const grad::ColumnPlan plan = grad::plan_columns_cuda<D>(args, rows);
  if (!plan.fits) {
    Device<A> sums(values);
    grad::interpolate_backward_atomic_cuda<D>(args, rows, sums.get(), grad_coords.get(), nullptr);
    return;
  }
  Device<A> of_grid(plan.grid_workspace(values)), of_coords(plan.coords_workspace(rows * D));
  grad::interpolate_backward_columns_cuda<D>(args, plan, rows, grad_grid.get(), grad_coords.get(),
                                             of_grid.get(), of_coords.get(), nullptr);
}

void refine(const std::string& sizes) {
  const int64_t rows = numbers["images"] * numbers["pixels"], columns = numbers["channels"];
  Device<G> features(rows * columns);
  Device<T> prediction(rows * columns), grad_prediction(rows * columns);
  Device<A> loss(1), score(rows), sums(rows * 4), shares(grad::refine_blocks_cuda(rows)), grad_loss(1);
  fill(features, 1);
  fill(prediction, 1);
  grad_loss.put(0, 1);
  const grad::RefineArgs<G, T> args{features.get(), prediction.get(), columns,
                                    columns,        columns,          {0.3, 0.7, 10}};
  launch("refine forward", sizes);
  grad::refine_forward_cuda(args, loss.get(), score.get(), sums.get(), shares.get(), rows, nullptr);
  launch("refine backward", sizes);
  grad::refine_backward_cuda(args, sums.get(), grad_loss.get(), static_cast<const A*>(nullptr),
                             static_cast<G*>(nullptr), grad_prediction.get(), rows, nullptr);
}

}  // namespace

int main(int count, char** arguments) {
  emulate::report_crashes();
  const std::string work = count > 1 ? arguments[1] : "";
  for (int i = 2; i < count; ++i) {
    const std::string text = arguments[i];
    const size_t equals = text.find('=');
    if (equals == std::string::npos || !numbers.count(text.substr(0, equals))) {
      std::fprintf(stderr, "workloads: %s is not one of the numbers\n", arguments[i]);
      return 2;
    }
    numbers[text.substr(0, equals)] = std::atoll(text.c_str() + equals + 1);
  }
  if (numbers["cells"] == 0) numbers["cells"] = work == "lookup" ? 4 : 8;
  emulate::set_block_limit(numbers["blocks"]);
  emulate::limits = {static_cast<int>(numbers["multiprocessors"]),
                     static_cast<size_t>(numbers["shared"]) * 1024};
  const std::string sizes =
      std::to_string(numbers["images"]) + " images, " + std::to_string(numbers["pixels"]) + " pixels, " +
      std::to_string(numbers["channels"]) + " channels, " + std::to_string(numbers["cells"]) +
      " cells along " + std::to_string(numbers["dims"]) + " axes";
  if (work == "refine") {
    refine(sizes);
  } else if (work == "project") {
    grad::dispatch_dims(static_cast<int>(numbers["dims"]), [&](auto dims) { project<dims()>(sizes); });
  } else if (work == "lookup") {
    grad::dispatch_dims(static_cast<int>(numbers["dims"]), [&](auto dims) { lookup<dims()>(sizes); });
  } else {
    std::fprintf(stderr, "workloads: project, lookup or refine\n");
    return 2;
  }
  return 0;
}
