// The Python module grad._C. Importing it registers the operators; all it offers itself is build_info().
// Tensors go through the dispatcher, so nothing else in csrc uses pybind11.

#include <pybind11/pybind11.h>
#include <torch/library.h>

// Every macro GRAD_BUILT_* comes from setup.py.

namespace {

const char* compiler() {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "gcc " __VERSION__;
#else
  return "unknown";
#endif
}

pybind11::dict build_info() {
  pybind11::dict info;
  info["torch"] = GRAD_BUILT_TORCH;
  info["cuda"] = GRAD_BUILT_CUDA;  // empty: C++ only
  info["architectures"] = GRAD_BUILT_ARCHITECTURES;
  info["compiler"] = compiler();
  info["cpp_standard"] = static_cast<long>(__cplusplus);
  return info;
}

}  // namespace

// Each operator is implemented beside its kernels; grad/ops/NAME.py joins forward and backward.
TORCH_LIBRARY(grad_anomaly, m) {
  m.def("interpolate(Tensor coords, Tensor grid, bool align_corners, bool border) -> Tensor");
  m.def(
      "interpolate_backward(Tensor grad_out, Tensor coords, Tensor grid, bool align_corners, bool border, "
      "bool need_coords, bool need_grid, bool deterministic) -> (Tensor, Tensor)");
  m.def(
      "project(Tensor hidden, Tensor weight, Tensor bias, Tensor grid, Tensor? jitter_state, "
      "float jitter_probability, float jitter_std, bool jitter_per_batch, bool align_corners, bool border) "
      "-> (Tensor, Tensor)");
  m.def(
      "project_backward(Tensor grad_out, Tensor hidden, Tensor weight, Tensor bias, Tensor grid, "
      "Tensor activations, Tensor? jitter_state, float jitter_probability, float jitter_std, "
      "bool jitter_per_batch, bool align_corners, bool border, bool need_hidden, bool need_weight, "
      "bool need_bias, bool need_grid, bool deterministic) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "lookup(Tensor global_coords, Tensor global_grid, Tensor hidden, Tensor weight, Tensor bias, "
      "Tensor grid, Tensor? jitter_state, float jitter_probability, float jitter_std, "
      "bool jitter_per_batch, bool align_corners, bool border) -> (Tensor, Tensor)");
  m.def(
      "refine(Tensor features, Tensor prediction, float alpha, float beta, float tau) "
      "-> (Tensor, Tensor, Tensor)");
  m.def(
      "refine_backward(Tensor grad_loss, Tensor? grad_score, Tensor features, Tensor prediction, "
      "Tensor sums, float alpha, float beta, float tau, bool need_features, bool need_prediction) "
      "-> (Tensor, Tensor)");
  m.def("refined_map(Tensor features, Tensor prediction, float alpha, float beta, float tau) -> Tensor");
  m.def(
      "jitter_noise(Tensor state, int rows, int dims, float probability, float std, bool per_batch) "
      "-> Tensor");
}

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled operators of GRAD, registered as torch.ops.grad_anomaly.*";
  m.def("build_info", &build_info,
        "What this library was built for: torch, cuda, architectures, compiler, cpp_standard.");
}
