// Attention of every pixel to every pixel and its gradient, of floats.
#include "tensors.h"

using namespace transnext;

namespace {

GlobalAttention describe(Tensor& q, Tensor& k, Tensor& v, const Tensor& query_embedding, const Tensor& temperature,
                         const Tensor& bias_table, int64_t trained_H, int64_t trained_W) {
  GlobalAttention a;
  STD_TORCH_CHECK(q.sizes().size() == 5, "q must have five axes");
  a.B = q.size(0), a.H = q.size(1), a.W = q.size(2), a.M = q.size(3), a.D = q.size(4);
  const Shape shape{a.B, a.H, a.W, a.M, a.D};
  check_like(q, "q", shape, ScalarType::Float);
  check_like(k, "k", shape, ScalarType::Float);
  check_like(v, "v", shape, ScalarType::Float);
  check(query_embedding, "query_embedding", {a.M, 1, a.D});
  check(temperature, "temperature", {a.M, 1, 1});
  STD_TORCH_CHECK(trained_H > 0 && trained_W > 0, "sizes must be positive");
  a.rows = make_axis(a.H, a.H, trained_H, trained_H);
  a.cols = make_axis(a.W, a.W, trained_W, trained_W);
  check(bias_table, "bias_table", {a.M, a.rows.entries, a.cols.entries});
  for (Tensor* map : {&q, &k, &v}) *map = with_dense_channels(*map);
  a.q = map_of(q), a.k = map_of(k), a.v = map_of(v);

  const double log_length = std::log(static_cast<double>(a.N()));
  a.query_embedding = floats_of(query_embedding);
  for (const double x : floats_of(temperature)) {
    a.scale.push_back(static_cast<float>((x > 20 ? x : std::log1p(std::exp(x))) * log_length));
    a.slope.push_back(static_cast<float>(log_length / (1 + std::exp(-x))));
  }
  a.table = floats_of(bias_table);
  a.table.resize(a.table.size() + TABLE_SLACK, 0.0f);
  return a;
}

std::tuple<Tensor, Tensor> global_attention(Tensor q, Tensor k, Tensor v, Tensor query_embedding, Tensor temperature,
                                            Tensor bias_table, int64_t trained_H, int64_t trained_W) {
  GlobalAttention a = describe(q, k, v, query_embedding, temperature, bias_table, trained_H, trained_W);
  Tensor out = new_map(q, {a.B, a.H, a.W, a.M, a.D}), statistics = torch::stable::new_empty(q, {2, a.M, a.B, a.N()});
  if (out.numel() == 0) return {out, statistics};
  a.statistics = static_cast<float*>(statistics.mutable_data_ptr());
  auto* data = static_cast<float*>(out.mutable_data_ptr());
  in_parallel(a.M * a.B * a.N(), 32,
              [&](const Kernels& isa, int64_t begin, int64_t end) { isa.global_attention(a, data, begin, end); });
  return {out, statistics};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> global_attention_backward(
    Tensor grad, Tensor out, Tensor statistics, Tensor q, Tensor k, Tensor v, Tensor query_embedding,
    Tensor temperature, Tensor bias_table, int64_t trained_H, int64_t trained_W) {
  GlobalAttention a = describe(q, k, v, query_embedding, temperature, bias_table, trained_H, trained_W);
  const Shape shape{a.B, a.H, a.W, a.M, a.D};
  check_like(grad, "grad", shape, ScalarType::Float);
  check_like(out, "out", shape, ScalarType::Float);
  check_like(statistics, "statistics", {2, a.M, a.B, a.N()}, ScalarType::Float);
  grad = with_dense_channels(grad), out = with_dense_channels(out), statistics = torch::stable::contiguous(statistics);
  a.statistics = const_cast<float*>(static_cast<const float*>(statistics.const_data_ptr()));  // only read from here on
  Tensor grad_q = new_map(q, shape), grad_k = new_map(q, shape), grad_v = new_map(q, shape);
  GlobalAttentionGradient g;
  g.grad = map_of(grad), g.out = map_of(out);
  g.q = static_cast<float*>(grad_q.mutable_data_ptr());
  g.k = static_cast<float*>(grad_k.mutable_data_ptr());
  g.v = static_cast<float*>(grad_v.mutable_data_ptr());
  g.workers = grad_q.numel() == 0 ? 0 : std::min(workers(), a.M * a.B);
  g.table.assign(g.slots(a) * g.slot_floats(a), 0.0f);
  g.parameters.assign(g.slots(a) * (a.D + 1), 0.0);
  if (g.workers > 0)
    in_parallel(g.workers, 1, [&](const Kernels& isa, int64_t begin, int64_t end) {
      for (int64_t worker = begin; worker < end; ++worker) isa.global_attention_backward(a, g, worker);
    });

  // Shares of workers are added up in their order.
  std::vector<float> embedding(a.M * a.D, 0.0f), of_temperature(a.M, 0.0f), table(a.M * a.table_floats(), 0.0f);
  for (int64_t m = 0; m < a.M; ++m)
    for (int64_t w = 0; w < g.workers; ++w) {
      const int64_t first = g.first_unit(a, w), last = g.first_unit(a, w + 1);
      if (first >= last || m < first / a.B || m > (last - 1) / a.B) continue;
      const float* entries = g.table.data() + (m + w) * g.slot_floats(a);
      for (int64_t i = 0; i < a.table_floats(); ++i) table[m * a.table_floats() + i] += entries[i];
      const double* p = g.parameters.data() + (m + w) * (a.D + 1);
      for (int64_t d = 0; d < a.D; ++d) embedding[m * a.D + d] += static_cast<float>(p[d]);
      of_temperature[m] += static_cast<float>(p[a.D]);
    }
  return {grad_q,
          grad_k,
          grad_v,
          tensor_of(embedding, query_embedding),
          tensor_of(of_temperature, temperature),
          tensor_of(table, bias_table)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(transnext, CPU, m) {
  m.impl("global_attention", TORCH_BOX(&global_attention));
  m.impl("global_attention_backward", TORCH_BOX(&global_attention_backward));
}
