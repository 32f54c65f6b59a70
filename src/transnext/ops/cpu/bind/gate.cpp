// Depthwise convolution, GELU and gate, and their gradient.
#include "tensors.h"

using namespace transnext;

namespace {

Gate describe(const Tensor& x, const GateParameters& p) {
  STD_TORCH_CHECK(x.sizes().size() == 4 && x.size(3) % 2 == 0, "x must be [B, H, W, 2 F]");
  Gate g{};
  g.dtype = dtype_of(x, "x");
  g.B = x.size(0), g.H = x.size(1), g.W = x.size(2), g.F = g.all = x.size(3) / 2;
  g.x = x.const_data_ptr();
  g.x_b = x.stride(0), g.x_y = x.stride(1), g.x_x = x.stride(2);
  g.weight = p.weight.data(), g.bias = p.bias.data();
  return g;
}

Tensor depthwise_conv_gelu_gate(Tensor x, Tensor weight, std::optional<Tensor> bias) {
  x = with_dense_channels(x);
  const GateParameters p(weight, bias, x.size(3) / 2);
  Gate g = describe(x, p);
  Tensor out = new_map(x, {g.B, g.H, g.W, g.F});
  g.out = out.mutable_data_ptr();
  if (out.numel() == 0) return out;
  in_parallel(g.B * g.H, 1, [&](const Kernels& isa, int64_t begin, int64_t end) { isa.gate_forward(g, begin, end); });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> depthwise_conv_gelu_gate_backward(Tensor grad, Tensor x, Tensor weight,
                                                                     std::optional<Tensor> bias) {
  x = with_dense_channels(x);
  const GateParameters p(weight, bias, x.size(3) / 2);
  Gate g = describe(x, p);
  check_like(grad, "grad", {g.B, g.H, g.W, g.F}, x.scalar_type());
  grad = torch::stable::contiguous(grad);
  Tensor grad_x = new_map(x, {g.B, g.H, g.W, 2 * g.F});
  g.grad = grad.const_data_ptr();
  g.grad_x = grad_x.mutable_data_ptr();
  const int64_t count = grad_x.numel() == 0 ? 0 : workers();
  std::vector<float> parts(count * 10 * g.F, 0.0f), grad_weight(g.F * 9, 0.0f), grad_bias(g.F, 0.0f);
  g.grad_parameters = parts.data();
  in_parallel(count, 1, [&](const Kernels& isa, int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker) isa.gate_backward(g, worker, count);
  });
  for (int64_t w = 0; w < count; ++w) {
    const float* part = parts.data() + w * 10 * g.F;
    for (int64_t t = 0; t < 9; ++t)
      for (int64_t c = 0; c < g.F; ++c) grad_weight[c * 9 + t] += part[t * g.F + c];
    for (int64_t c = 0; c < g.F; ++c) grad_bias[c] += part[9 * g.F + c];
  }
  return {grad_x, tensor_of(grad_weight, weight),
          bias ? tensor_of(grad_bias, *bias) : torch::stable::new_empty(weight, {0})};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(transnext, CPU, m) {
  m.impl("depthwise_conv_gelu_gate", TORCH_BOX(&depthwise_conv_gelu_gate));
  m.impl("depthwise_conv_gelu_gate_backward", TORCH_BOX(&depthwise_conv_gelu_gate_backward));
}
