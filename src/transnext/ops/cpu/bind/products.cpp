// Products with packed weights: of inference, of training, and what goes with them.
#include "tensors.h"

using namespace transnext;

namespace {

// Packed weights and a bias as long as the panels are wide. Returns what multiplies them: null for floats.
const Products16* check_panels(const Tensor& panels, const char* name, int64_t N, int64_t K, const Tensor& bias,
                               const char* bias_name) {
  const Products16* products = panels.scalar_type() == ScalarType::BFloat16 ? products16() : nullptr;
  const int64_t panel = products ? PANEL_16 : kernels().panel, count = (N + panel - 1) / panel;
  if (products)
    check_like(panels, name, {count, (K + products->depth - 1) / products->depth * products->depth / 2, panel, 2},
               ScalarType::BFloat16);
  else
    check_like(panels, name, {count, K, panel}, ScalarType::Float);
  check_like(bias, bias_name, {count * panel}, ScalarType::Float);
  STD_TORCH_CHECK(panels.is_contiguous() && bias.is_contiguous(), name, " must be contiguous");
  return products;
}

// Maps that go into products of bfloat16 numbers, and come out of them.
void check_map(const Tensor& x, const Products16* products) {
  STD_TORCH_CHECK(!products || x.scalar_type() != ScalarType::Half, "x is float16, the weights are bfloat16");
}

const float* norm_parameter(const std::optional<Tensor>& t, const char* name, int64_t K) {
  if (!t) return nullptr;
  check_like(*t, name, {K}, ScalarType::Float);
  STD_TORCH_CHECK(t->is_contiguous(), name, " must be contiguous");
  return static_cast<const float*>(t->const_data_ptr());
}

Tensor norm_linear(Tensor x, std::optional<Tensor> norm_weight, std::optional<Tensor> norm_bias, double eps,
                   Tensor panels, Tensor bias, int64_t out_features, int64_t gelu_from,
                   std::optional<Tensor> residual) {
  const int64_t dims = static_cast<int64_t>(x.sizes().size());
  x = torch::stable::contiguous(x);
  NormLinear n{};
  n.dtype = dtype_of(x, "x");
  n.K = x.size(dims - 1), n.N = out_features;
  n.products16 = check_panels(panels, "panels", n.N, n.K, bias, "bias");
  check_map(x, n.products16);
  STD_TORCH_CHECK(!residual || gelu_from >= out_features, "GELU and residual do not go together");
  STD_TORCH_CHECK(norm_weight.has_value() == norm_bias.has_value(), "norm_weight and norm_bias come together");
  Shape shape(x.sizes().begin(), x.sizes().end());
  shape.back() = n.N;
  if (residual) {
    check_like(*residual, "residual", shape, x.scalar_type());
    residual = torch::stable::contiguous(*residual);
  }
  Tensor out = new_map(x, shape);
  if (out.numel() == 0) return out;
  n.rows = out.numel() / n.N;
  n.x = x.const_data_ptr(), n.x_row = n.K;
  n.norm_weight = norm_parameter(norm_weight, "norm_weight", n.K);
  n.norm_bias = norm_parameter(norm_bias, "norm_bias", n.K);
  n.eps = static_cast<float>(eps);
  n.panels = panels.const_data_ptr();
  n.bias = static_cast<const float*>(bias.const_data_ptr());
  n.gelu_from = gelu_from;
  n.residual = residual ? residual->const_data_ptr() : nullptr;
  n.out = out.mutable_data_ptr();
  in_parallel(n.rows, 16, [&](const Kernels& isa, int64_t begin, int64_t end) { isa.norm_linear(n, begin, end); });
  return out;
}

Tensor adaptive_average_pool(Tensor x, int64_t P_h, int64_t P_w) {
  STD_TORCH_CHECK(x.sizes().size() == 4 && P_h > 0 && P_w > 0, "x must be [B, H, W, C], the pooled grid not empty");
  x = with_dense_channels(x);
  Pool p{dtype_of(x, "x"),   x.size(0),   x.size(1),   x.size(2),   x.size(3), P_h, P_w,
         x.const_data_ptr(), x.stride(0), x.stride(1), x.stride(2), nullptr};
  Tensor out = torch::stable::new_empty(x, {p.B, P_h, P_w, p.C});
  if (out.numel() == 0) return out;
  STD_TORCH_CHECK(p.H > 0 && p.W > 0, "x has no pixels to pool");
  p.out = out.mutable_data_ptr();
  in_parallel(p.B * P_h, 1, [&](const Kernels& isa, int64_t begin, int64_t end) { isa.pool(p, begin, end); });
  return out;
}

// Images at a time whose convolutional GLU threads share out by channels, 0 to share out rows. It is by channels where
// threads have few rows each, or images are so small that rows would read the weights too often; and each thread must
// be able to keep the maps.
int64_t images_by_channels(const ConvGlu& g) {
  constexpr int64_t FEW_ROWS = 12, FEW_PIXELS = 96, MOST_FLOATS = 256 * 1024;
  const int64_t panel = kernels().panel, threads = workers();
  if (g.products16 || g.dtype != Dtype::Float || g.F % panel != 0 || g.F < panel * threads) return 0;
  const bool few_rows = threads > 1 && g.B * g.H < FEW_ROWS * threads, small = g.B > 1 && g.H * g.W <= FEW_PIXELS;
  return few_rows || small ? std::min(g.B, MOST_FLOATS / (g.H * g.W * g.C)) : 0;
}

// Of floats, `images` at a time.
void conv_glu_by_channels(ConvGlu g, int64_t images, float* gated) {
  const int64_t B = g.B, image = g.H * g.W * g.C;
  g.gated = gated;
  for (int64_t b = 0; b < B; b += images, g.x = static_cast<const float*>(g.x) + images * image) {
    g.B = std::min(images, B - b);
    in_parallel(g.F / kernels().panel, 1,
                [&](const Kernels& isa, int64_t begin, int64_t end) { isa.conv_glu_gated(g, begin, end); });
    NormLinear n{};
    n.dtype = g.dtype, n.rows = g.B * g.H * g.W, n.K = n.x_row = g.F, n.N = n.gelu_from = g.C;
    n.x = g.gated, n.residual = g.x, n.out = static_cast<float*>(g.out) + b * image;
    n.panels = g.panels_out, n.bias = g.bias_out;
    in_parallel(n.rows, 16, [&](const Kernels& isa, int64_t begin, int64_t end) { isa.norm_linear(n, begin, end); });
  }
}

Tensor conv_glu(Tensor x, Tensor norm_weight, Tensor norm_bias, double eps, Tensor panels_in, Tensor bias_in,
                Tensor weight, std::optional<Tensor> bias, Tensor panels_out, Tensor bias_out) {
  STD_TORCH_CHECK(x.sizes().size() == 4, "x must be [B, H, W, C]");
  x = torch::stable::contiguous(x);
  ConvGlu g{};
  g.dtype = dtype_of(x, "x");
  g.B = x.size(0), g.H = x.size(1), g.W = x.size(2), g.C = x.size(3), g.F = weight.size(0);
  STD_TORCH_CHECK(g.F > 0, "the depthwise kernel must have channels");
  const GateParameters p(weight, bias, g.F);
  g.products16 = check_panels(panels_in, "panels_in", 2 * g.F, g.C, bias_in, "bias_in");
  STD_TORCH_CHECK(check_panels(panels_out, "panels_out", g.C, g.F, bias_out, "bias_out") == g.products16,
                  "panels_in and panels_out differ in dtype");
  check_map(x, g.products16);
  Tensor out = new_map(x, {g.B, g.H, g.W, g.C});
  if (out.numel() == 0) return out;
  g.x = x.const_data_ptr();
  g.norm_weight = norm_parameter(norm_weight, "norm_weight", g.C);
  g.norm_bias = norm_parameter(norm_bias, "norm_bias", g.C);
  g.eps = static_cast<float>(eps);
  g.panels_in = panels_in.const_data_ptr();
  g.bias_in = static_cast<const float*>(bias_in.const_data_ptr());
  g.weight = p.weight.data(), g.bias = p.bias.data();
  g.panels_out = panels_out.const_data_ptr();
  g.bias_out = static_cast<const float*>(bias_out.const_data_ptr());
  g.out = out.mutable_data_ptr();
  const int64_t images = images_by_channels(g);
  if (images == 0) {
    in_parallel(g.B * g.H, 1, [&](const Kernels& isa, int64_t begin, int64_t end) { isa.conv_glu(g, begin, end); });
    return out;
  }
  Tensor gated = torch::stable::new_empty(x, {images * g.H * g.W, g.F});
  conv_glu_by_channels(g, images, static_cast<float*>(gated.mutable_data_ptr()));
  return out;
}

// What multiplies maps in training: null for floats.
const Products16* products_of(const Tensor& x) {
  if (x.scalar_type() == ScalarType::Float) return nullptr;
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::BFloat16 && products16(), "x must be float32",
                  products16() ? " or bfloat16" : ": this processor does not multiply other dtypes");
  return products16();
}

// A weight or bias of a Linear: floats, or bfloat16 numbers where those are multiplied.
void check_parameter(const Tensor& t, const char* name, const Shape& shape, const Products16* products) {
  const bool of_map = products && t.scalar_type() == ScalarType::BFloat16;
  check_like(t, name, shape, of_map ? ScalarType::BFloat16 : ScalarType::Float);
}

// Columns of a panel.
int64_t panel_of(const Products16* products) { return products ? PANEL_16 : kernels().panel; }

// Weights `[N, K]` of any strides as panels. Where `transposed` they are taken for `[K, N]`.
Tensor packed(Tensor weight, bool transposed, const Products16* products) {
  const Kernels& isa = kernels();
  if (products) weight = torch::stable::contiguous(weight);
  const int64_t N = weight.size(transposed ? 1 : 0), K = weight.size(transposed ? 0 : 1),
                n_step = weight.stride(transposed ? 1 : 0), k_step = weight.stride(transposed ? 0 : 1),
                panel = panel_of(products), count = (N + panel - 1) / panel;
  if (products) {
    const int64_t depth = (K + products->depth - 1) / products->depth * products->depth;
    Tensor panels = torch::stable::new_empty(weight, {count, depth / 2, panel, 2}, ScalarType::BFloat16);
    // Strides of axes of one element may be any.
    const PackPanels16 p{N,
                         K,
                         dtype_of(weight, "weight"),
                         weight.const_data_ptr(),
                         transposed ? 1 : K,
                         transposed ? N : 1,
                         static_cast<uint16_t*>(panels.mutable_data_ptr())};
    torch::stable::parallel_for(0, count, 4, [&](int64_t begin, int64_t end) { products->pack(p, begin, end); });
    return panels;
  }
  Tensor panels = torch::stable::new_empty(weight, {count, K, panel});
  const PackPanels p{N,      K,      static_cast<const float*>(weight.const_data_ptr()),
                     n_step, k_step, static_cast<float*>(panels.mutable_data_ptr())};
  torch::stable::parallel_for(0, count, 4, [&](int64_t begin, int64_t end) { isa.pack_panels(p, begin, end); });
  return panels;
}

// x [rows, K] by packed weights, to [..., N].
Tensor product(const Tensor& x, const Tensor& panels, const std::vector<float>& bias, int64_t N,
               const Products16* products) {
  Shape shape(x.sizes().begin(), x.sizes().end());
  NormLinear n{};
  n.dtype = dtype_of(x, "x");
  n.products16 = products;
  n.K = n.x_row = shape.back(), n.N = n.gelu_from = shape.back() = N;
  Tensor out = new_map(x, shape);
  if (out.numel() == 0) return out;
  n.rows = out.numel() / N;
  n.x = x.const_data_ptr(), n.out = out.mutable_data_ptr();
  n.panels = panels.const_data_ptr(), n.bias = bias.data();
  in_parallel(n.rows, 16, [&](const Kernels& isa, int64_t begin, int64_t end) { isa.norm_linear(n, begin, end); });
  return out;
}

// A bias of a Linear, or zeros, as long as its panels are wide.
std::vector<float> padded_bias(const std::optional<Tensor>& bias, int64_t N, const Products16* products) {
  const int64_t panel = panel_of(products);
  if (bias) check_parameter(*bias, "bias", {N}, products);
  std::vector<float> padded = bias ? floats_of(*bias) : std::vector<float>();
  padded.resize((N + panel - 1) / panel * panel, 0.0f);
  return padded;
}

const Products16* check_linear(const Tensor& x, const Tensor& weight) {
  STD_TORCH_CHECK(weight.sizes().size() == 2 && x.sizes().size() > 0, "weight must have two axes, x at least one");
  const Products16* products = products_of(x);
  const int64_t K = weight.size(1), last = static_cast<int64_t>(x.sizes().size()) - 1;
  check_parameter(weight, "weight", {weight.size(0), K}, products);
  STD_TORCH_CHECK(x.is_cpu() && x.size(last) == K, "x must be [..., K]");
  return products;
}

Tensor linear(Tensor x, Tensor weight, std::optional<Tensor> bias) {
  const Products16* products = check_linear(x, weight);
  const int64_t N = weight.size(0);
  return product(torch::stable::contiguous(x), packed(weight, false, products), padded_bias(bias, N, products), N,
                 products);
}

// A gradient that was summed in floats, in the dtype of its parameter.
Tensor in_dtype_of(const Tensor& parameter, const Tensor& gradient) {
  return parameter.scalar_type() == ScalarType::Float ? gradient : torch::stable::to(gradient, parameter.scalar_type());
}

Tensor tensor_of_vector(const std::vector<float>& values, const Tensor& like) {
  Tensor result = torch::stable::new_empty(like, {static_cast<int64_t>(values.size())}, ScalarType::Float);
  std::copy(values.begin(), values.end(), static_cast<float*>(result.mutable_data_ptr()));
  return in_dtype_of(like, result);
}

// Gradients of x, weight and bias; empty where not wanted.
std::tuple<Tensor, Tensor, Tensor> linear_backward(Tensor grad, Tensor x, Tensor weight, bool want_x, bool want_weight,
                                                   bool want_bias) {
  const Products16* products = check_linear(x, weight);
  const int64_t N = weight.size(0), K = weight.size(1), panel = panel_of(products);
  Shape shape(x.sizes().begin(), x.sizes().end());
  shape.back() = N;
  check_like(grad, "grad", shape, x.scalar_type());
  x = torch::stable::contiguous(x), grad = torch::stable::contiguous(grad);
  Tensor grad_x = torch::stable::new_empty(x, {0}), grad_weight = torch::stable::new_empty(weight, {0});
  if (want_x)
    grad_x = product(grad, packed(weight, true, products), padded_bias(std::nullopt, K, products), K, products);
  std::vector<float> sums(want_bias ? N : 0, 0.0f);
  if (want_weight || want_bias) {
    Tensor total = torch::stable::new_empty(weight, {N, K}, ScalarType::Float);
    OuterProduct p{};
    p.products16 = products;
    p.rows = 1;
    for (size_t i = 0; i + 1 < shape.size(); ++i) p.rows *= shape[i];
    // The wider matrix is cut into panels, which are what workers share out.
    p.transposed = N > K;
    p.M = p.transposed ? K : N, p.N = p.transposed ? N : K;
    const Rows of_grad{dtype_of(grad, "grad"), grad.const_data_ptr(), N}, of_x{dtype_of(x, "x"), x.const_data_ptr(), K};
    p.left = p.transposed ? of_x : of_grad, p.right = p.transposed ? of_grad : of_x;
    (p.transposed ? p.right_sums : p.left_sums) = want_bias ? sums.data() : nullptr;
    p.out = static_cast<float*>(total.mutable_data_ptr());
    in_parallel((p.N + panel - 1) / panel, 1,
                [&](const Kernels& isa, int64_t begin, int64_t end) { isa.outer_product(p, begin, end); });
    grad_weight = in_dtype_of(weight, total);
  }
  return {grad_x, grad_weight, tensor_of_vector(sums, weight)};
}

ConvGluTraining describe_training(const Tensor& x, const Tensor& fc1_weight, const Tensor& weight,
                                  const Tensor& fc2_weight, const GateParameters& p) {
  ConvGluTraining t{};
  STD_TORCH_CHECK(x.sizes().size() == 4, "x must be [B, H, W, C]");
  t.products16 = products_of(x);
  t.dtype = dtype_of(x, "x");
  t.B = x.size(0), t.H = x.size(1), t.W = x.size(2), t.C = x.size(3), t.F = weight.size(0);
  check(x, "x", {t.B, t.H, t.W, t.C});
  check_parameter(fc1_weight, "fc1_weight", {2 * t.F, t.C}, t.products16);
  check_parameter(fc2_weight, "fc2_weight", {t.C, t.F}, t.products16);
  t.x = x.const_data_ptr();
  t.weight = p.weight.data(), t.bias = p.bias.data();
  return t;
}

std::tuple<Tensor, Tensor> conv_glu_training(Tensor x, Tensor fc1_weight, std::optional<Tensor> fc1_bias, Tensor weight,
                                             std::optional<Tensor> bias, Tensor fc2_weight,
                                             std::optional<Tensor> fc2_bias) {
  x = torch::stable::contiguous(x);
  const GateParameters p(weight, bias, weight.size(0));
  ConvGluTraining t = describe_training(x, fc1_weight, weight, fc2_weight, p);
  const std::vector<float> bias_in = padded_bias(fc1_bias, 2 * t.F, t.products16),
                           bias_out = padded_bias(fc2_bias, t.C, t.products16);
  const Tensor panels_in = packed(fc1_weight, false, t.products16),
               panels_out = packed(fc2_weight, false, t.products16);
  Tensor out = new_map(x, {t.B, t.H, t.W, t.C}), hidden = new_map(x, {t.B, t.H, t.W, 2 * t.F});
  if (out.numel() == 0) return {out, hidden};
  t.panels_in = panels_in.const_data_ptr(), t.bias_in = bias_in.data();
  t.panels_out = panels_out.const_data_ptr(), t.bias_out = bias_out.data();
  t.out = out.mutable_data_ptr(), t.hidden = hidden.mutable_data_ptr();
  in_parallel(t.B, 1, [&](const Kernels& isa, int64_t begin, int64_t end) { isa.conv_glu_training(t, begin, end); });
  return {out, hidden};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> conv_glu_training_backward(
    Tensor grad, Tensor x, Tensor hidden, Tensor fc1_weight, Tensor weight, std::optional<Tensor> bias,
    Tensor fc2_weight) {
  x = torch::stable::contiguous(x), grad = torch::stable::contiguous(grad), hidden = torch::stable::contiguous(hidden);
  const GateParameters p(weight, bias, weight.size(0));
  ConvGluTraining t = describe_training(x, fc1_weight, weight, fc2_weight, p);
  check_like(grad, "grad", {t.B, t.H, t.W, t.C}, x.scalar_type());
  check_like(hidden, "hidden", {t.B, t.H, t.W, 2 * t.F}, x.scalar_type());
  const Tensor panels_in = packed(fc1_weight, true, t.products16), panels_out = packed(fc2_weight, true, t.products16);
  Tensor grad_x = new_map(x, {t.B, t.H, t.W, t.C}),
         grad_in = torch::stable::new_empty(fc1_weight, {2 * t.F, t.C}, ScalarType::Float),
         grad_out = torch::stable::new_empty(fc2_weight, {t.C, t.F}, ScalarType::Float);
  t.panels_in = panels_in.const_data_ptr();
  t.panels_out = panels_out.const_data_ptr();
  t.hidden = const_cast<void*>(hidden.const_data_ptr());  // only read from here on
  t.grad = grad.const_data_ptr();
  t.grad_x = grad_x.mutable_data_ptr();
  t.grad_weight_in = static_cast<float*>(grad_in.mutable_data_ptr());
  t.grad_weight_out = static_cast<float*>(grad_out.mutable_data_ptr());
  const Kernels& isa = kernels();
  const int64_t count = std::max<int64_t>(1, std::min(workers(), t.B)), floats = isa.conv_glu_totals(t);
  std::vector<float> totals(count * floats, 0.0f);
  t.totals = totals.data();
  if (grad_x.numel() > 0)
    torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t worker = begin; worker < end; ++worker) isa.conv_glu_training_backward(t, worker, count);
    });
  torch::stable::parallel_for(0, floats, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t w = 1; w < count; ++w)
      for (int64_t i = begin; i < end; ++i) totals[i] += totals[w * floats + i];
  });
  const int64_t panel = panel_of(t.products16), panels = (2 * t.F + panel - 1) / panel + (t.F + panel - 1) / panel;
  torch::stable::parallel_for(0, panels, 4, [&](int64_t begin, int64_t end) { isa.conv_glu_weights(t, begin, end); });
  const float* rest = totals.data() + floats - (12 * t.F + t.C);
  const std::vector<float> bias_in(rest, rest + 2 * t.F), bias_out(rest + 2 * t.F, rest + 2 * t.F + t.C);
  const float* taps = rest + 2 * t.F + t.C;
  std::vector<float> depthwise(9 * t.F), depthwise_bias(taps + 9 * t.F, taps + 10 * t.F);
  for (int64_t n = 0; n < 9; ++n)
    for (int64_t c = 0; c < t.F; ++c) depthwise[c * 9 + n] = taps[n * t.F + c];
  return {grad_x,
          in_dtype_of(fc1_weight, grad_in),
          tensor_of_vector(bias_in, fc1_weight),
          tensor_of(depthwise, weight),
          tensor_of_vector(depthwise_bias, weight),
          in_dtype_of(fc2_weight, grad_out),
          tensor_of_vector(bias_out, fc2_weight)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(transnext, CPU, m) {
  m.impl("norm_linear", TORCH_BOX(&norm_linear));
  m.impl("conv_glu", TORCH_BOX(&conv_glu));
  m.impl("adaptive_average_pool", TORCH_BOX(&adaptive_average_pool));
  m.impl("linear", TORCH_BOX(&linear));
  m.impl("linear_backward", TORCH_BOX(&linear_backward));
  m.impl("conv_glu_training", TORCH_BOX(&conv_glu_training));
  m.impl("conv_glu_training_backward", TORCH_BOX(&conv_glu_training_backward));
}
