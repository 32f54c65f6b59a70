// The ops of the library `transnext` on the CPU, through PyTorch's stable ABI. Schemas are defined in Python, ops/library.py.
// What users can get wrong is checked there too, in their words; the checks here keep memory safe.

#include <Python.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#if __has_include(<sys/mman.h>)
#include <sys/mman.h>
#endif

#include <cmath>
#include <optional>
#include <tuple>

#include "dispatch.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using namespace transnext;

using Shape = std::vector<int64_t>;

Dtype dtype_of(const Tensor& t, const char* name) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return Dtype::Float;
    case ScalarType::BFloat16: return Dtype::BFloat16;
    case ScalarType::Half: return Dtype::Half;
    default: STD_TORCH_CHECK(false, name, " must be float32, bfloat16 or float16");
  }
}

void check(const Tensor& t, const char* name, const Shape& shape) {
  const auto sizes = t.sizes();
  bool same = sizes.size() == shape.size() && t.is_cpu();
  for (size_t i = 0; same && i < shape.size(); ++i) same = sizes[i] == shape[i];
  STD_TORCH_CHECK(same, name, " has another shape or device than the other arguments ask for");
}

void check_like(const Tensor& t, const char* name, const Shape& shape, ScalarType type) {
  check(t, name, shape);
  STD_TORCH_CHECK(t.scalar_type() == type, name, " has another dtype than the first argument");
}

// The elements of a small tensor of any strides as floats, in order. Every axis is copied by the row.
void append(const char* data, ScalarType type, const Shape& sizes, const Shape& strides, size_t dim, std::vector<float>& to) {
  const auto rows = [&](auto* typed) {
    for (int64_t i = 0; i < sizes[dim]; ++i) to.push_back(static_cast<float>(typed[i * strides[dim]]));
  };
  if (dim + 1 < sizes.size()) {
    const int64_t bytes = (type == ScalarType::Float ? 4 : type == ScalarType::Double ? 8 : 2) * strides[dim];
    for (int64_t i = 0; i < sizes[dim]; ++i) append(data + i * bytes, type, sizes, strides, dim + 1, to);
    return;
  }
  switch (type) {
    case ScalarType::Float: return rows(reinterpret_cast<const float*>(data));
    case ScalarType::Double: return rows(reinterpret_cast<const double*>(data));
    case ScalarType::BFloat16: return rows(reinterpret_cast<const c10::BFloat16*>(data));
    case ScalarType::Half: return rows(reinterpret_cast<const c10::Half*>(data));
    default: STD_TORCH_CHECK(false, "parameters must be of a floating-point dtype");
  }
}

std::vector<float> floats_of(const Tensor& t) {
  std::vector<float> result;
  result.reserve(t.numel());
  const auto sizes = t.sizes(), strides = t.strides();
  const char* data = static_cast<const char*>(t.const_data_ptr());
  if (t.numel() > 0 && t.scalar_type() == ScalarType::Float && t.is_contiguous())
    result.assign(reinterpret_cast<const float*>(data), reinterpret_cast<const float*>(data) + t.numel());
  else if (t.numel() > 0)
    append(data, t.scalar_type(), {sizes.begin(), sizes.end()}, {strides.begin(), strides.end()}, 0, result);
  return result;
}

// A map whose channels lie side by side, copied if they do not.
Tensor with_dense_channels(const Tensor& t) {
  const int64_t last = static_cast<int64_t>(t.sizes().size()) - 1;
  return t.size(last) <= 1 || t.stride(last) == 1 ? t : torch::stable::contiguous(t);
}

Map map_of(const Tensor& t) { return {t.const_data_ptr(), t.stride(0), t.stride(1), t.stride(2), t.stride(3)}; }

// A new tensor like `t`, not initialised. Large ones ask for huge pages: to fault in each small page of a map costs as much as
// a matrix product that fills it.
Tensor new_map(const Tensor& t, const Shape& shape) {
  Tensor result = torch::stable::new_empty(t, shape);
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t HUGE_PAGE = 2 << 20;
  const auto start = reinterpret_cast<uintptr_t>(result.mutable_data_ptr());
  const uintptr_t end = start + result.numel() * (result.scalar_type() == ScalarType::Float ? 4 : 2);
  const uintptr_t first = (start + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE, last = end / HUGE_PAGE * HUGE_PAGE;
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
  return result;
}

// The tensors of one call, kept alive while kernels read them.
struct AttentionInputs {
  Tensor q, k, v, k_pool, v_pool;
};

Attention describe(AttentionInputs& t, const Tensor& query_embedding, const Tensor& temperature,
                   const Tensor& relative_pos_bias_local, const Tensor& learnable_tokens, const Tensor& learnable_bias,
                   const Tensor& bias_table, int64_t trained_H, int64_t trained_W, int64_t trained_P_h, int64_t trained_P_w) {
  Attention a;
  STD_TORCH_CHECK(t.q.sizes().size() == 5 && t.k_pool.sizes().size() == 5, "q and k_pool must have five axes");
  a.dtype = dtype_of(t.q, "q");
  const ScalarType type = t.q.scalar_type();
  a.B = t.q.size(0), a.H = t.q.size(1), a.W = t.q.size(2), a.M = t.q.size(3), a.D = t.q.size(4);
  a.P_h = t.k_pool.size(1), a.P_w = t.k_pool.size(2);
  const int64_t K = relative_pos_bias_local.size(1);
  a.window = std::llround(std::sqrt(static_cast<double>(K)));
  STD_TORCH_CHECK(a.window * a.window == K && a.window % 2 == 1, "relative_pos_bias_local is not of an odd window");
  STD_TORCH_CHECK(a.P_h > 0 && a.P_w > 0 && trained_H > 0 && trained_W > 0 && trained_P_h > 0 && trained_P_w > 0,
                  "sizes must be positive");
  check(t.q, "q", {a.B, a.H, a.W, a.M, a.D});
  check_like(t.k, "k", {a.B, a.H, a.W, a.M, a.D}, type);
  check_like(t.v, "v", {a.B, a.H, a.W, a.M, a.D}, type);
  check_like(t.k_pool, "k_pool", {a.B, a.P_h, a.P_w, a.M, a.D}, type);
  check_like(t.v_pool, "v_pool", {a.B, a.P_h, a.P_w, a.M, a.D}, type);
  check(query_embedding, "query_embedding", {a.M, 1, a.D});
  check(temperature, "temperature", {a.M, 1, 1});
  check(relative_pos_bias_local, "relative_pos_bias_local", {a.M, K});
  check(learnable_tokens, "learnable_tokens", {a.M, a.D, K});
  check(learnable_bias, "learnable_bias", {a.M, 1, K});
  a.rows = make_axis(a.H, a.P_h, trained_H, trained_P_h);
  a.cols = make_axis(a.W, a.P_w, trained_W, trained_P_w);
  check(bias_table, "bias_table", {a.M, a.rows.entries, a.cols.entries});

  for (Tensor* map : {&t.q, &t.k, &t.v, &t.k_pool, &t.v_pool}) *map = with_dense_channels(*map);
  a.q = map_of(t.q), a.k = map_of(t.k), a.v = map_of(t.v), a.k_pool = map_of(t.k_pool), a.v_pool = map_of(t.v_pool);

  a.query_embedding = floats_of(query_embedding);
  a.local_bias = floats_of(relative_pos_bias_local);
  a.tokens_bias = floats_of(learnable_bias);
  for (const float x : floats_of(temperature)) {
    a.softplus.push_back(static_cast<float>(x > 20 ? x : std::log1p(std::exp(static_cast<double>(x)))));
    a.sigmoid.push_back(static_cast<float>(1 / (1 + std::exp(-static_cast<double>(x)))));
  }
  const std::vector<float> tokens = floats_of(learnable_tokens);
  a.tokens.resize(tokens.size());
  for (int64_t m = 0; m < a.M; ++m)
    for (int64_t d = 0; d < a.D; ++d)
      for (int64_t n = 0; n < K; ++n) a.tokens[(m * K + n) * a.D + d] = tokens[(m * a.D + d) * K + n];
  for (int64_t y = 0; y <= a.window; ++y)
    for (int64_t x = 0; x <= a.window; ++x)
      a.log_length.push_back(static_cast<float>(std::log(static_cast<double>(y * x + a.P()))));

  // Where queries step by two entries, even entries come before odd ones, so that a row of queries reads side by side.
  const std::vector<float> table = floats_of(bias_table);
  const int64_t entries = a.cols.entries;
  const bool split = a.cols.step == 2 && !a.cols.resized;
  a.odd_start = split ? (entries + 1) / 2 : 0;
  a.row_length = entries + TABLE_SLACK;
  a.table.assign(a.M * a.rows.entries * a.row_length, 0.0f);
  for (size_t i = 0; i < table.size(); ++i) {
    const int64_t row = static_cast<int64_t>(i) / entries, u = static_cast<int64_t>(i) % entries;
    a.table[row * a.row_length + (split ? (u % 2) * a.odd_start + u / 2 : u)] = table[i];
  }
  return a;
}

int64_t workers() { return std::max<int64_t>(1, torch::stable::get_num_threads()); }

Tensor aggregated_attention(Tensor q, Tensor k, Tensor v, Tensor k_pool, Tensor v_pool, Tensor query_embedding,
                            Tensor temperature, Tensor relative_pos_bias_local, Tensor learnable_tokens,
                            Tensor learnable_bias, Tensor bias_table, int64_t trained_H, int64_t trained_W,
                            int64_t trained_P_h, int64_t trained_P_w) {
  AttentionInputs inputs{q, k, v, k_pool, v_pool};
  const Attention a = describe(inputs, query_embedding, temperature, relative_pos_bias_local, learnable_tokens,
                               learnable_bias, bias_table, trained_H, trained_W, trained_P_h, trained_P_w);
  Tensor out = new_map(q, {a.B, a.H, a.W, a.M, a.D});
  if (out.numel() == 0) return out;
  void* data = out.mutable_data_ptr();
  const Kernels& isa = kernels();
  torch::stable::parallel_for(0, a.B * a.M * a.H, 1,
                              [&](int64_t begin, int64_t end) { isa.attention_forward(a, data, begin, end); });
  return out;
}

// Writes `values`, in order, to a new tensor of a parameter's dtype.
Tensor tensor_of(const std::vector<float>& values, const Tensor& like) {
  const auto sizes = like.sizes();
  Tensor result = torch::stable::new_empty(like, sizes);
  const auto fill = [&](auto* to) {
    for (size_t i = 0; i < values.size(); ++i) to[i] = static_cast<std::remove_pointer_t<decltype(to)>>(values[i]);
  };
  switch (like.scalar_type()) {
    case ScalarType::Float: fill(static_cast<float*>(result.mutable_data_ptr())); break;
    case ScalarType::Double: fill(static_cast<double*>(result.mutable_data_ptr())); break;
    case ScalarType::BFloat16: fill(static_cast<c10::BFloat16*>(result.mutable_data_ptr())); break;
    case ScalarType::Half: fill(static_cast<c10::Half*>(result.mutable_data_ptr())); break;
    default: STD_TORCH_CHECK(false, "parameters must be of a floating-point dtype");
  }
  return result;
}

// Adds up what strips found for the pooled keys and values, and undoes the normalisation of the keys.
void finish_pool(const Attention& a, const AttentionGradient& g, const Tensor& k_pool, std::vector<float>& grad_k,
                 std::vector<float>& grad_v) {
  const std::vector<float> keys = floats_of(k_pool);  // [B, P, M, D]
  const int64_t P = a.P(), D = a.D;
  grad_k.assign(keys.size(), 0.0f);
  grad_v.assign(keys.size(), 0.0f);
  for (int64_t m = 0; m < a.M; ++m)
    for (int64_t b = 0; b < a.B; ++b)
      for (int64_t p = 0; p < P; ++p) {
        const int64_t place = ((b * P + p) * a.M + m) * D;
        for (int64_t s = 0; s < g.strips; ++s) {
          const float* part = g.pool.data() + ((m * a.B + b) * g.strips + s) * 2 * P * D;
          for (int64_t d = 0; d < D; ++d) {
            grad_k[place + d] += part[p * D + d];
            grad_v[place + d] += part[(P + p) * D + d];
          }
        }
        float square = 0, along = 0;
        for (int64_t d = 0; d < D; ++d) square += keys[place + d] * keys[place + d];
        const float length = std::sqrt(square), divisor = 1e-12f > length ? 1e-12f : length;
        if (!(length < 1e-12f))
          for (int64_t d = 0; d < D; ++d) along += keys[place + d] / divisor * grad_k[place + d];
        for (int64_t d = 0; d < D; ++d)
          grad_k[place + d] = (grad_k[place + d] - keys[place + d] / divisor * along) / divisor;
      }
}

using ElevenTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

ElevenTensors aggregated_attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor k_pool, Tensor v_pool,
                                            Tensor query_embedding, Tensor temperature, Tensor relative_pos_bias_local,
                                            Tensor learnable_tokens, Tensor learnable_bias, Tensor bias_table,
                                            int64_t trained_H, int64_t trained_W, int64_t trained_P_h, int64_t trained_P_w) {
  AttentionInputs inputs{q, k, v, k_pool, v_pool};
  const Attention a = describe(inputs, query_embedding, temperature, relative_pos_bias_local, learnable_tokens,
                               learnable_bias, bias_table, trained_H, trained_W, trained_P_h, trained_P_w);
  const Shape shape{a.B, a.H, a.W, a.M, a.D};
  check_like(grad, "grad", shape, q.scalar_type());
  grad = with_dense_channels(grad);
  Tensor grad_q = new_map(q, shape), grad_k = new_map(q, shape), grad_v = new_map(q, shape);

  AttentionGradient g;
  g.grad = map_of(grad);
  g.q = grad_q.mutable_data_ptr(), g.k = grad_k.mutable_data_ptr(), g.v = grad_v.mutable_data_ptr();
  const bool empty = grad_q.numel() == 0;
  g.workers = empty ? 0 : workers();
  // A few strips for each worker, so that none waits long; a strip is cut only where images and heads are too few.
  const int64_t images = std::max<int64_t>(1, a.B * a.M), wanted = (4 * g.workers + images - 1) / images;
  g.strips = std::max<int64_t>(1, std::min(wanted, a.H / std::max<int64_t>(a.window - 1, 4)));
  const int64_t slots = a.M + std::max<int64_t>(g.workers, 1) - 1, table_floats = a.rows.entries * a.row_length;
  const int64_t per_slot = g.parameters_of_slot(a);
  if (g.strips > 1) g.seams.resize(a.B * a.M * g.strips * g.seam_floats(a));
  g.pool.assign(a.B * a.M * g.strips * 2 * a.P() * a.D, 0.0f);
  g.table.assign(slots * table_floats, 0.0f);
  g.parameters.assign(slots * per_slot, 0.0);
  if (!empty) {
    const Kernels& isa = kernels();
    torch::stable::parallel_for(0, g.workers, 1, [&](int64_t begin, int64_t end) {
      for (int64_t worker = begin; worker < end; ++worker) isa.attention_backward(a, g, worker);
    });
    if (g.strips > 1)
      torch::stable::parallel_for(0, a.B * a.M * (g.strips - 1), 1,
                                  [&](int64_t begin, int64_t end) { isa.attention_backward_seams(a, g, begin, end); });
  }

  std::vector<float> grad_k_pool, grad_v_pool;
  finish_pool(a, g, inputs.k_pool, grad_k_pool, grad_v_pool);
  const int64_t M = a.M, K = a.K(), D = a.D;
  std::vector<float> table(M * a.rows.entries * a.cols.entries), tokens(M * D * K), tokens_bias(M * K), local_bias(M * K),
      embedding(M * D), temperature_gradient(M);
  // Worker w's share of head m is in slot m + w; a slot holds one head's.
  for (int64_t m = 0; m < M; ++m)
    for (int64_t w = 0; w < g.workers; ++w) {
      const int64_t units = M * a.B * g.strips, first = units * w / g.workers, last = units * (w + 1) / g.workers;
      if (first >= last || m < first / (a.B * g.strips) || m > (last - 1) / (a.B * g.strips)) continue;
      const float* part = g.table.data() + (m + w) * table_floats;
      for (int64_t u = 0; u < a.rows.entries; ++u)
        for (int64_t c = 0; c < a.cols.entries; ++c) {
          const int64_t place = a.odd_start ? (c % 2) * a.odd_start + c / 2 : c;
          table[(m * a.rows.entries + u) * a.cols.entries + c] += part[u * a.row_length + place];
        }
      const double* p = g.parameters.data() + (m + w) * per_slot;
      for (int64_t n = 0; n < K; ++n)
        for (int64_t d = 0; d < D; ++d) tokens[(m * D + d) * K + n] += *p++;
      for (int64_t n = 0; n < K; ++n) tokens_bias[m * K + n] += *p++;
      for (int64_t n = 0; n < K; ++n) local_bias[m * K + n] += *p++;
      for (int64_t d = 0; d < D; ++d) embedding[m * D + d] += *p++;
      temperature_gradient[m] += *p;
    }
  return {grad_q,
          grad_k,
          grad_v,
          tensor_of(grad_k_pool, k_pool),
          tensor_of(grad_v_pool, v_pool),
          tensor_of(embedding, query_embedding),
          tensor_of(temperature_gradient, temperature),
          tensor_of(local_bias, relative_pos_bias_local),
          tensor_of(tokens, learnable_tokens),
          tensor_of(tokens_bias, learnable_bias),
          tensor_of(table, bias_table)};
}

// Depthwise weights `[F, 1, k, k]` as `[k * k, F]`, and a bias that is there.
struct GateParameters {
  std::vector<float> weight, bias;
  int64_t window;
};

GateParameters gate_parameters(const Tensor& weight, const std::optional<Tensor>& bias, int64_t F) {
  GateParameters p;
  p.window = weight.size(3);
  STD_TORCH_CHECK(p.window % 2 == 1 && p.window < 64, "the depthwise kernel must be odd and below 64");
  check(weight, "weight", {F, 1, p.window, p.window});
  const std::vector<float> source = floats_of(weight);
  const int64_t taps = p.window * p.window;
  p.weight.resize(source.size());
  for (int64_t c = 0; c < F; ++c)
    for (int64_t t = 0; t < taps; ++t) p.weight[t * F + c] = source[c * taps + t];
  if (bias) check(*bias, "bias", {F});
  p.bias = bias ? floats_of(*bias) : std::vector<float>(F, 0.0f);
  return p;
}

Gate describe(const Tensor& x, const GateParameters& p) {
  STD_TORCH_CHECK(x.sizes().size() == 4 && x.size(3) % 2 == 0, "x must be [B, H, W, 2 F]");
  Gate g{};
  g.dtype = dtype_of(x, "x");
  g.B = x.size(0), g.H = x.size(1), g.W = x.size(2), g.F = g.all = x.size(3) / 2, g.window = p.window;
  g.x = x.const_data_ptr();
  g.x_b = x.stride(0), g.x_y = x.stride(1), g.x_x = x.stride(2);
  g.weight = p.weight.data(), g.bias = p.bias.data();
  return g;
}

Tensor depthwise_conv_gelu_gate(Tensor x, Tensor weight, std::optional<Tensor> bias) {
  x = with_dense_channels(x);
  const GateParameters p = gate_parameters(weight, bias, x.size(3) / 2);
  Gate g = describe(x, p);
  Tensor out = new_map(x, {g.B, g.H, g.W, g.F});
  g.out = out.mutable_data_ptr();
  if (out.numel() == 0) return out;
  const Kernels& isa = kernels();
  torch::stable::parallel_for(0, g.B * g.H, 1, [&](int64_t begin, int64_t end) { isa.gate_forward(g, begin, end); });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> depthwise_conv_gelu_gate_backward(Tensor grad, Tensor x, Tensor weight,
                                                                     std::optional<Tensor> bias) {
  x = with_dense_channels(x);
  const GateParameters p = gate_parameters(weight, bias, x.size(3) / 2);
  Gate g = describe(x, p);
  check_like(grad, "grad", {g.B, g.H, g.W, g.F}, x.scalar_type());
  grad = torch::stable::contiguous(grad);
  Tensor grad_x = new_map(x, {g.B, g.H, g.W, 2 * g.F});
  g.grad = grad.const_data_ptr();
  g.grad_x = grad_x.mutable_data_ptr();
  const int64_t count = grad_x.numel() == 0 ? 0 : workers(), taps = g.window * g.window;
  std::vector<float> parts(count * (taps + 1) * g.F, 0.0f), grad_weight(g.F * taps, 0.0f), grad_bias(g.F, 0.0f);
  g.grad_parameters = parts.data();
  if (count > 0) {
    const Kernels& isa = kernels();
    torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t worker = begin; worker < end; ++worker) isa.gate_backward(g, worker, count);
    });
  }
  for (int64_t w = 0; w < count; ++w) {
    const float* part = parts.data() + w * (taps + 1) * g.F;
    for (int64_t t = 0; t < taps; ++t)
      for (int64_t c = 0; c < g.F; ++c) grad_weight[c * taps + t] += part[t * g.F + c];
    for (int64_t c = 0; c < g.F; ++c) grad_bias[c] += part[taps * g.F + c];
  }
  return {grad_x, tensor_of(grad_weight, weight),
          bias ? tensor_of(grad_bias, *bias) : torch::stable::new_empty(weight, {0})};
}

// The tensors of a bias table as floats, and what the kernels make of them.
struct BiasTableInputs {
  std::vector<float> rows, columns, row_weight, column_weight, bias, out_weight, out_bias;
  BiasTable table;

  BiasTableInputs(const Tensor& row_coordinates, const Tensor& column_coordinates, const Tensor& fc1_weight,
                  const Tensor& fc1_bias, const Tensor& fc2_weight, const Tensor& fc2_bias) {
    STD_TORCH_CHECK(row_coordinates.sizes().size() == 1 && column_coordinates.sizes().size() == 1 &&
                        fc2_weight.sizes().size() == 2,
                    "coordinates must have one axis, fc2_weight two");
    const int64_t M = fc2_weight.size(0), hidden = fc2_weight.size(1), U = row_coordinates.size(0),
                  V = column_coordinates.size(0);
    check(row_coordinates, "row_coordinates", {U});
    check(column_coordinates, "column_coordinates", {V});
    check(fc1_weight, "fc1_weight", {hidden, 2});
    check(fc1_bias, "fc1_bias", {hidden});
    check(fc2_weight, "fc2_weight", {M, hidden});
    check(fc2_bias, "fc2_bias", {M});
    rows = floats_of(row_coordinates), columns = floats_of(column_coordinates);
    bias = floats_of(fc1_bias), out_weight = floats_of(fc2_weight), out_bias = floats_of(fc2_bias);
    const std::vector<float> in = floats_of(fc1_weight);
    row_weight.resize(hidden), column_weight.resize(hidden);
    for (int64_t k = 0; k < hidden; ++k) row_weight[k] = in[2 * k], column_weight[k] = in[2 * k + 1];
    table = {M,           hidden,            U,
             V,           rows.data(),       columns.data(),
             row_weight.data(), column_weight.data(), bias.data(),
             out_weight.data(), out_bias.data(), nullptr};
  }
};

Tensor position_bias_table(Tensor row_coordinates, Tensor column_coordinates, Tensor fc1_weight, Tensor fc1_bias,
                           Tensor fc2_weight, Tensor fc2_bias) {
  BiasTableInputs inputs(row_coordinates, column_coordinates, fc1_weight, fc1_bias, fc2_weight, fc2_bias);
  BiasTable& t = inputs.table;
  Tensor out = torch::stable::new_empty(row_coordinates, {t.M, t.rows, t.columns}, ScalarType::Float);
  if (out.numel() == 0) return out;
  t.out = static_cast<float*>(out.mutable_data_ptr());
  const Kernels& isa = kernels();
  torch::stable::parallel_for(0, t.rows, 1, [&](int64_t begin, int64_t end) { isa.bias_table(t, begin, end); });
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> position_bias_table_backward(Tensor grad, Tensor row_coordinates,
                                                                        Tensor column_coordinates, Tensor fc1_weight,
                                                                        Tensor fc1_bias, Tensor fc2_weight, Tensor fc2_bias) {
  BiasTableInputs inputs(row_coordinates, column_coordinates, fc1_weight, fc1_bias, fc2_weight, fc2_bias);
  const BiasTable& t = inputs.table;
  check_like(grad, "grad", {t.M, t.rows, t.columns}, ScalarType::Float);
  const std::vector<float> gradient = floats_of(grad);
  std::vector<float> row_weight(t.hidden), column_weight(t.hidden), bias(t.hidden), out_weight(t.M * t.hidden), out_bias(t.M),
      in(2 * t.hidden);
  const BiasTableGradient g{gradient.data(), row_weight.data(), column_weight.data(), bias.data(), out_weight.data()};
  const Kernels& isa = kernels();
  const int64_t lanes = isa.panel / 2, blocks = (t.hidden + lanes - 1) / lanes;
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) { isa.bias_table_backward(t, g, begin, end); });
  for (int64_t k = 0; k < t.hidden; ++k) in[2 * k] = row_weight[k], in[2 * k + 1] = column_weight[k];
  for (int64_t m = 0; m < t.M; ++m) {
    double total = 0;
    for (int64_t i = 0; i < t.rows * t.columns; ++i) total += gradient[m * t.rows * t.columns + i];
    out_bias[m] = static_cast<float>(total);
  }
  return {tensor_of(in, fc1_weight), tensor_of(bias, fc1_bias), tensor_of(out_weight, fc2_weight),
          tensor_of(out_bias, fc2_bias)};
}

// Packed weights `[ceil(N / panel), K, panel]` and a bias as long as the panels are wide.
void check_panels(const Tensor& panels, const char* name, int64_t N, int64_t K, const Tensor& bias, const char* bias_name) {
  const int64_t panel = kernels().panel, count = (N + panel - 1) / panel;
  check_like(panels, name, {count, K, panel}, ScalarType::Float);
  check_like(bias, bias_name, {count * panel}, ScalarType::Float);
  STD_TORCH_CHECK(panels.is_contiguous() && bias.is_contiguous(), name, " must be contiguous");
}

const float* norm_parameter(const std::optional<Tensor>& t, const char* name, int64_t K) {
  if (!t) return nullptr;
  check_like(*t, name, {K}, ScalarType::Float);
  STD_TORCH_CHECK(t->is_contiguous(), name, " must be contiguous");
  return static_cast<const float*>(t->const_data_ptr());
}

Tensor norm_linear(Tensor x, std::optional<Tensor> norm_weight, std::optional<Tensor> norm_bias, double eps, Tensor panels,
                   Tensor bias, int64_t out_features, int64_t gelu_from, std::optional<Tensor> residual) {
  const int64_t dims = static_cast<int64_t>(x.sizes().size());
  x = torch::stable::contiguous(x);
  NormLinear n{};
  n.dtype = dtype_of(x, "x");
  n.K = x.size(dims - 1), n.N = out_features;
  check_panels(panels, "panels", n.N, n.K, bias, "bias");
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
  n.panels = static_cast<const float*>(panels.const_data_ptr());
  n.bias = static_cast<const float*>(bias.const_data_ptr());
  n.gelu_from = gelu_from;
  n.residual = residual ? residual->const_data_ptr() : nullptr;
  n.out = out.mutable_data_ptr();
  const Kernels& isa = kernels();
  torch::stable::parallel_for(0, n.rows, 16, [&](int64_t begin, int64_t end) { isa.norm_linear(n, begin, end); });
  return out;
}

Tensor adaptive_average_pool(Tensor x, int64_t P_h, int64_t P_w) {
  STD_TORCH_CHECK(x.sizes().size() == 4 && P_h > 0 && P_w > 0, "x must be [B, H, W, C], the pooled grid not empty");
  x = with_dense_channels(x);
  Pool p{dtype_of(x, "x"), x.size(0), x.size(1), x.size(2), x.size(3), P_h, P_w, x.const_data_ptr(),
         x.stride(0), x.stride(1), x.stride(2), nullptr};
  Tensor out = torch::stable::new_empty(x, {p.B, P_h, P_w, p.C});
  if (out.numel() == 0) return out;
  STD_TORCH_CHECK(p.H > 0 && p.W > 0, "x has no pixels to pool");
  p.out = out.mutable_data_ptr();
  const Kernels& isa = kernels();
  torch::stable::parallel_for(0, p.B * P_h, 1, [&](int64_t begin, int64_t end) { isa.pool(p, begin, end); });
  return out;
}

Tensor conv_glu(Tensor x, Tensor norm_weight, Tensor norm_bias, double eps, Tensor panels_in, Tensor bias_in, Tensor weight,
                std::optional<Tensor> bias, Tensor panels_out, Tensor bias_out) {
  STD_TORCH_CHECK(x.sizes().size() == 4, "x must be [B, H, W, C]");
  x = torch::stable::contiguous(x);
  ConvGlu g{};
  g.dtype = dtype_of(x, "x");
  g.B = x.size(0), g.H = x.size(1), g.W = x.size(2), g.C = x.size(3), g.F = weight.size(0);
  STD_TORCH_CHECK(weight.size(3) == 3 && g.F > 0, "the depthwise kernel must be 3x3 and have channels");
  const GateParameters p = gate_parameters(weight, bias, g.F);
  check_panels(panels_in, "panels_in", 2 * g.F, g.C, bias_in, "bias_in");
  check_panels(panels_out, "panels_out", g.C, g.F, bias_out, "bias_out");
  Tensor out = new_map(x, {g.B, g.H, g.W, g.C});
  if (out.numel() == 0) return out;
  g.x = x.const_data_ptr();
  g.norm_weight = norm_parameter(norm_weight, "norm_weight", g.C);
  g.norm_bias = norm_parameter(norm_bias, "norm_bias", g.C);
  g.eps = static_cast<float>(eps);
  g.panels_in = static_cast<const float*>(panels_in.const_data_ptr());
  g.bias_in = static_cast<const float*>(bias_in.const_data_ptr());
  g.weight = p.weight.data(), g.bias = p.bias.data();
  g.panels_out = static_cast<const float*>(panels_out.const_data_ptr());
  g.bias_out = static_cast<const float*>(bias_out.const_data_ptr());
  g.out = out.mutable_data_ptr();
  const Kernels& isa = kernels();
  torch::stable::parallel_for(0, g.B * g.H, 1, [&](int64_t begin, int64_t end) { isa.conv_glu(g, begin, end); });
  return out;
}

// Weights `[N, K]` of any strides as panels. Where `transposed` they are taken for `[K, N]`.
Tensor packed(const Tensor& weight, bool transposed) {
  const Kernels& isa = kernels();
  const int64_t N = weight.size(transposed ? 1 : 0), K = weight.size(transposed ? 0 : 1), count = (N + isa.panel - 1) / isa.panel;
  Tensor panels = torch::stable::new_empty(weight, {count, K, isa.panel});
  const PackPanels p{N, K, static_cast<const float*>(weight.const_data_ptr()), weight.stride(transposed ? 1 : 0),
                     weight.stride(transposed ? 0 : 1), static_cast<float*>(panels.mutable_data_ptr())};
  torch::stable::parallel_for(0, count, 4, [&](int64_t begin, int64_t end) { isa.pack_panels(p, begin, end); });
  return panels;
}

// x [rows, K] by packed weights, to [..., N].
Tensor product(const Tensor& x, const Tensor& panels, const std::vector<float>& bias, int64_t N) {
  Shape shape(x.sizes().begin(), x.sizes().end());
  NormLinear n{};
  n.dtype = Dtype::Float;
  n.K = n.x_row = shape.back(), n.N = n.gelu_from = shape.back() = N;
  Tensor out = new_map(x, shape);
  if (out.numel() == 0) return out;
  n.rows = out.numel() / N;
  n.x = x.const_data_ptr(), n.out = out.mutable_data_ptr();
  n.panels = static_cast<const float*>(panels.const_data_ptr()), n.bias = bias.data();
  const Kernels& isa = kernels();
  torch::stable::parallel_for(0, n.rows, 16, [&](int64_t begin, int64_t end) { isa.norm_linear(n, begin, end); });
  return out;
}

// A bias of a Linear, or zeros, as long as its panels are wide.
std::vector<float> padded_bias(const std::optional<Tensor>& bias, int64_t N) {
  const int64_t panel = kernels().panel;
  if (bias) check_like(*bias, "bias", {N}, ScalarType::Float);
  std::vector<float> padded = bias ? floats_of(*bias) : std::vector<float>();
  padded.resize((N + panel - 1) / panel * panel, 0.0f);
  return padded;
}

void check_linear(const Tensor& x, const Tensor& weight) {
  STD_TORCH_CHECK(weight.sizes().size() == 2 && x.sizes().size() > 0, "weight must have two axes, x at least one");
  const int64_t K = weight.size(1), last = static_cast<int64_t>(x.sizes().size()) - 1;
  check_like(weight, "weight", {weight.size(0), K}, ScalarType::Float);
  STD_TORCH_CHECK(x.is_cpu() && x.scalar_type() == ScalarType::Float && x.size(last) == K, "x must be float32, [..., K]");
}

Tensor linear(Tensor x, Tensor weight, std::optional<Tensor> bias) {
  check_linear(x, weight);
  const int64_t N = weight.size(0);
  return product(torch::stable::contiguous(x), packed(weight, false), padded_bias(bias, N), N);
}

// Gradients of x, weight and bias; empty where not wanted.
std::tuple<Tensor, Tensor, Tensor> linear_backward(Tensor grad, Tensor x, Tensor weight, bool want_x, bool want_weight,
                                                   bool want_bias) {
  check_linear(x, weight);
  const int64_t N = weight.size(0), K = weight.size(1), panel = kernels().panel;
  Shape shape(x.sizes().begin(), x.sizes().end());
  shape.back() = N;
  check_like(grad, "grad", shape, ScalarType::Float);
  x = torch::stable::contiguous(x), grad = torch::stable::contiguous(grad);
  Tensor grad_x = torch::stable::new_empty(x, {0}), grad_weight = torch::stable::new_empty(x, {0});
  if (want_x) grad_x = product(grad, packed(weight, true), padded_bias(std::nullopt, K), K);
  std::vector<float> sums(want_bias ? N : 0, 0.0f);
  if (want_weight || want_bias) {
    grad_weight = torch::stable::new_empty(weight, {N, K});
    int64_t rows = 1;
    for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
    OuterProduct p{};
    p.rows = rows;
    // The wider matrix is cut into panels, which are what workers share out.
    p.transposed = N > K;
    p.M = p.transposed ? K : N, p.N = p.transposed ? N : K;
    const auto* g = static_cast<const float*>(grad.const_data_ptr());
    const auto* in = static_cast<const float*>(x.const_data_ptr());
    p.left = p.transposed ? in : g, p.right = p.transposed ? g : in;
    p.left_row = p.M, p.right_row = p.N;
    (p.transposed ? p.right_sums : p.left_sums) = want_bias ? sums.data() : nullptr;
    p.out = static_cast<float*>(grad_weight.mutable_data_ptr());
    const Kernels& isa = kernels();
    torch::stable::parallel_for(0, (p.N + panel - 1) / panel, 1,
                                [&](int64_t begin, int64_t end) { isa.outer_product(p, begin, end); });
  }
  Tensor grad_bias = torch::stable::new_empty(weight, {static_cast<int64_t>(sums.size())});
  std::copy(sums.begin(), sums.end(), static_cast<float*>(grad_bias.mutable_data_ptr()));
  return {grad_x, grad_weight, grad_bias};
}

ConvGluTraining describe_training(const Tensor& x, const Tensor& fc1_weight, const Tensor& weight, const Tensor& fc2_weight,
                                  const GateParameters& p) {
  ConvGluTraining t{};
  STD_TORCH_CHECK(x.sizes().size() == 4 && p.window == 3, "x must be [B, H, W, C], the depthwise kernel 3x3");
  t.B = x.size(0), t.H = x.size(1), t.W = x.size(2), t.C = x.size(3), t.F = weight.size(0);
  check_like(x, "x", {t.B, t.H, t.W, t.C}, ScalarType::Float);
  check_like(fc1_weight, "fc1_weight", {2 * t.F, t.C}, ScalarType::Float);
  check_like(fc2_weight, "fc2_weight", {t.C, t.F}, ScalarType::Float);
  t.x = static_cast<const float*>(x.const_data_ptr());
  t.weight = p.weight.data(), t.bias = p.bias.data();
  return t;
}

std::tuple<Tensor, Tensor> conv_glu_training(Tensor x, Tensor fc1_weight, std::optional<Tensor> fc1_bias, Tensor weight,
                                             std::optional<Tensor> bias, Tensor fc2_weight, std::optional<Tensor> fc2_bias) {
  x = torch::stable::contiguous(x);
  const GateParameters p = gate_parameters(weight, bias, weight.size(0));
  ConvGluTraining t = describe_training(x, fc1_weight, weight, fc2_weight, p);
  const std::vector<float> bias_in = padded_bias(fc1_bias, 2 * t.F), bias_out = padded_bias(fc2_bias, t.C);
  const Tensor panels_in = packed(fc1_weight, false), panels_out = packed(fc2_weight, false);
  Tensor out = new_map(x, {t.B, t.H, t.W, t.C}), hidden = new_map(x, {t.B, t.H, t.W, 2 * t.F});
  if (out.numel() == 0) return {out, hidden};
  t.panels_in = static_cast<const float*>(panels_in.const_data_ptr()), t.bias_in = bias_in.data();
  t.panels_out = static_cast<const float*>(panels_out.const_data_ptr()), t.bias_out = bias_out.data();
  t.out = static_cast<float*>(out.mutable_data_ptr()), t.hidden = static_cast<float*>(hidden.mutable_data_ptr());
  const Kernels& isa = kernels();
  torch::stable::parallel_for(0, t.B, 1, [&](int64_t begin, int64_t end) { isa.conv_glu_training(t, begin, end); });
  return {out, hidden};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> conv_glu_training_backward(
    Tensor grad, Tensor x, Tensor hidden, Tensor fc1_weight, Tensor weight, std::optional<Tensor> bias, Tensor fc2_weight) {
  x = torch::stable::contiguous(x), grad = torch::stable::contiguous(grad), hidden = torch::stable::contiguous(hidden);
  const GateParameters p = gate_parameters(weight, bias, weight.size(0));
  ConvGluTraining t = describe_training(x, fc1_weight, weight, fc2_weight, p);
  check_like(grad, "grad", {t.B, t.H, t.W, t.C}, ScalarType::Float);
  check_like(hidden, "hidden", {t.B, t.H, t.W, 2 * t.F}, ScalarType::Float);
  const Tensor panels_in = packed(fc1_weight, true), panels_out = packed(fc2_weight, true);
  Tensor grad_x = new_map(x, {t.B, t.H, t.W, t.C}), grad_in = torch::stable::new_empty(fc1_weight, {2 * t.F, t.C}),
         grad_out = torch::stable::new_empty(fc2_weight, {t.C, t.F});
  t.panels_in = static_cast<const float*>(panels_in.const_data_ptr());
  t.panels_out = static_cast<const float*>(panels_out.const_data_ptr());
  t.hidden = const_cast<float*>(static_cast<const float*>(hidden.const_data_ptr()));  // only read from here on
  t.grad = static_cast<const float*>(grad.const_data_ptr());
  t.grad_x = static_cast<float*>(grad_x.mutable_data_ptr());
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
  const int64_t panels = (2 * t.F + isa.panel - 1) / isa.panel + (t.F + isa.panel - 1) / isa.panel;
  torch::stable::parallel_for(0, panels, 4, [&](int64_t begin, int64_t end) { isa.conv_glu_weights(t, begin, end); });
  const float* rest = totals.data() + floats - (12 * t.F + t.C);
  const std::vector<float> bias_in(rest, rest + 2 * t.F), bias_out(rest + 2 * t.F, rest + 2 * t.F + t.C);
  const float* taps = rest + 2 * t.F + t.C;
  std::vector<float> depthwise(9 * t.F), depthwise_bias(taps + 9 * t.F, taps + 10 * t.F);
  for (int64_t n = 0; n < 9; ++n)
    for (int64_t c = 0; c < t.F; ++c) depthwise[c * 9 + n] = taps[n * t.F + c];
  const auto vector_of = [&](const std::vector<float>& values) {
    Tensor result = torch::stable::new_empty(fc1_weight, {static_cast<int64_t>(values.size())});
    std::copy(values.begin(), values.end(), static_cast<float*>(result.mutable_data_ptr()));
    return result;
  };
  return {grad_x,   grad_in, vector_of(bias_in),  tensor_of(depthwise, weight), vector_of(depthwise_bias),
          grad_out, vector_of(bias_out)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(transnext, CPU, m) {
  m.impl("aggregated_attention", TORCH_BOX(&aggregated_attention));
  m.impl("aggregated_attention_backward", TORCH_BOX(&aggregated_attention_backward));
  m.impl("depthwise_conv_gelu_gate", TORCH_BOX(&depthwise_conv_gelu_gate));
  m.impl("depthwise_conv_gelu_gate_backward", TORCH_BOX(&depthwise_conv_gelu_gate_backward));
  m.impl("position_bias_table", TORCH_BOX(&position_bias_table));
  m.impl("position_bias_table_backward", TORCH_BOX(&position_bias_table_backward));
  m.impl("norm_linear", TORCH_BOX(&norm_linear));
  m.impl("conv_glu_training", TORCH_BOX(&conv_glu_training));
  m.impl("conv_glu_training_backward", TORCH_BOX(&conv_glu_training_backward));
  m.impl("linear", TORCH_BOX(&linear));
  m.impl("linear_backward", TORCH_BOX(&linear_backward));
  m.impl("adaptive_average_pool", TORCH_BOX(&adaptive_average_pool));
  m.impl("conv_glu", TORCH_BOX(&conv_glu));
}

// The Python module: what the kernels are, and which of them run.

static PyObject* instruction_sets(PyObject*, PyObject*) {
  const auto all = transnext::available_kernels();
  PyObject* names = PyList_New(0);
  for (const auto* kernels : all) {
    PyObject* name = PyUnicode_FromString(kernels->name);
    PyList_Append(names, name);
    Py_DECREF(name);
  }
  return names;
}

static PyObject* instruction_set(PyObject*, PyObject*) { return PyUnicode_FromString(transnext::kernels().name); }

static PyObject* use_instruction_set(PyObject*, PyObject* name) {
  for (const auto* kernels : transnext::available_kernels())
    if (PyUnicode_Check(name) && PyUnicode_CompareWithASCIIString(name, kernels->name) == 0) {
      transnext::use_kernels(*kernels);
      Py_RETURN_NONE;
    }
  PyErr_SetString(PyExc_ValueError, "this processor has no such instruction set: see instruction_sets()");
  return nullptr;
}

static PyObject* panel_width(PyObject*, PyObject*) { return PyLong_FromLongLong(transnext::kernels().panel); }

static PyObject* multiply_adds(PyObject*, PyObject* rounds) {
  const long long n = PyLong_AsLongLong(rounds);
  if (n == -1 && PyErr_Occurred()) return nullptr;
  double done;
  Py_BEGIN_ALLOW_THREADS done = transnext::kernels().multiply_adds(n);
  Py_END_ALLOW_THREADS return PyFloat_FromDouble(done);
}

constexpr int64_t PART_BYTES = 1 << 16;  // of a digest, that are worth a thread of their own
constexpr int64_t CHUNK_BYTES = transnext::DIGEST_NUMBERS * 4;  // what is read of a row where not all is: a cache line
constexpr int64_t WHOLE_BYTES = 1 << 14;  // up to which a matrix is always read whole

static PyObject* digest(PyObject*, PyObject* args) {
  PyObject* matrices;
  int whole;
  if (!PyArg_ParseTuple(args, "O!p", &PyList_Type, &matrices, &whole)) return nullptr;
  std::vector<transnext::DigestPart> parts;
  const auto add = [&](const char* data, int64_t rows, int64_t row_bytes, int64_t chunk, int64_t at_once) {
    for (int64_t row = 0; row < rows; row += at_once)
      parts.push_back({data, row_bytes, chunk, row, std::min(rows, row + at_once)});
  };
  int64_t bytes_read = 0;
  for (Py_ssize_t i = 0; i < PyList_Size(matrices); ++i) {
    long long address, rows, bytes;
    if (!PyArg_ParseTuple(PyList_GetItem(matrices, i), "LLL", &address, &rows, &bytes)) return nullptr;
    const char* data = reinterpret_cast<const char*>(static_cast<intptr_t>(address));
    // Every column has its turn only where there are as many rows as a row has chunks.
    if (whole || bytes <= WHOLE_BYTES || rows * rows * CHUNK_BYTES < bytes) {
      const int64_t full = bytes / PART_BYTES, rest = bytes % PART_BYTES;
      add(data, full, PART_BYTES, PART_BYTES, 1);
      if (rest) add(data + full * PART_BYTES, 1, rest, rest, 1);
      bytes_read += bytes;
    } else {
      add(data, rows, bytes / rows, CHUNK_BYTES, PART_BYTES / CHUNK_BYTES);
      bytes_read += rows * CHUNK_BYTES;
    }
  }
  std::vector<uint32_t> results(parts.size() * transnext::DIGEST_NUMBERS);
  uint32_t total[transnext::DIGEST_NUMBERS] = {};
  Py_BEGIN_ALLOW_THREADS;
  const int64_t count = static_cast<int64_t>(parts.size()), grain = bytes_read < 2 * PART_BYTES ? count : 1;
  torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) transnext::kernels().digest(parts[i], &results[i * transnext::DIGEST_NUMBERS]);
  });
  for (size_t i = 0; i < results.size(); ++i) {
    uint32_t& lane = total[i % transnext::DIGEST_NUMBERS];
    lane = (lane ^ (lane >> 15)) * 0x9E3779B1u + results[i];
  }
  Py_END_ALLOW_THREADS;
  return PyBytes_FromStringAndSize(reinterpret_cast<const char*>(total), sizeof(total));
}

static PyMethodDef methods[] = {
    {"digest", digest, METH_VARARGS, "Of matrices, (address, rows, bytes) each: of all bytes, or of some in each row."},
    {"instruction_sets", instruction_sets, METH_NOARGS, "Names of the kernels this processor can run, the fastest last."},
    {"instruction_set", instruction_set, METH_NOARGS, "Name of the kernels in use."},
    {"use_instruction_set", use_instruction_set, METH_O, "Chooses kernels by name, for tests and comparisons."},
    {"panel_width", panel_width, METH_NOARGS, "Columns of a panel of packed weights, for the kernels in use."},
    {"multiply_adds", multiply_adds, METH_O, "Does nothing but multiply-adds in a loop; how many, to time the processor by."},
    {nullptr, nullptr, 0, nullptr},
};

static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_cpu", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

PyMODINIT_FUNC PyInit__cpu() { return PyModule_Create(&module); }
