// Aggregated attention and its gradient.
#include "tensors.h"

using namespace transnext;

namespace {

// The tensors of one call, kept alive while kernels read them.
struct AttentionInputs {
  Tensor q, k, v, k_pool, v_pool;
};

Attention describe(AttentionInputs& t, const Tensor& query_embedding, const Tensor& temperature,
                   const Tensor& relative_pos_bias_local, const Tensor& learnable_tokens, const Tensor& learnable_bias,
                   const Tensor& bias_table, int64_t trained_H, int64_t trained_W, int64_t trained_P_h,
                   int64_t trained_P_w) {
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
    a.table[row * a.row_length + a.column_of(u)] = table[i];
  }
  return a;
}

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
  in_parallel(a.B * a.M * a.H, 1,
              [&](const Kernels& isa, int64_t begin, int64_t end) { isa.attention_forward(a, data, begin, end); });
  return out;
}

using ElevenTensors =
    std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

ElevenTensors aggregated_attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor k_pool, Tensor v_pool,
                                            Tensor query_embedding, Tensor temperature, Tensor relative_pos_bias_local,
                                            Tensor learnable_tokens, Tensor learnable_bias, Tensor bias_table,
                                            int64_t trained_H, int64_t trained_W, int64_t trained_P_h,
                                            int64_t trained_P_w) {
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
  if (g.strips > 1) g.seams.resize(g.units(a) * g.seam_floats(a));
  g.pool.assign(g.units(a) * 2 * a.P() * a.D, 0.0f);
  g.table.assign(g.slots(a) * a.rows.entries * a.row_length, 0.0f);
  g.parameters.assign(g.slots(a) * g.parameters_of_slot(a), 0.0);
  if (!empty) {
    in_parallel(g.workers, 1, [&](const Kernels& isa, int64_t begin, int64_t end) {
      for (int64_t worker = begin; worker < end; ++worker) isa.attention_backward(a, g, worker);
    });
    if (g.strips > 1)
      in_parallel(a.B * a.M * (g.strips - 1), 1, [&](const Kernels& isa, int64_t begin, int64_t end) {
        isa.attention_backward_seams(a, g, begin, end);
      });
  }
  AttentionTotals totals;
  kernels().attention_backward_totals(a, g, totals);
  return {grad_q,
          grad_k,
          grad_v,
          tensor_of(totals.k_pool, k_pool),
          tensor_of(totals.v_pool, v_pool),
          tensor_of(totals.query_embedding, query_embedding),
          tensor_of(totals.temperature, temperature),
          tensor_of(totals.local_bias, relative_pos_bias_local),
          tensor_of(totals.tokens, learnable_tokens),
          tensor_of(totals.tokens_bias, learnable_bias),
          tensor_of(totals.table, bias_table)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(transnext, CPU, m) {
  m.impl("aggregated_attention", TORCH_BOX(&aggregated_attention));
  m.impl("aggregated_attention_backward", TORCH_BOX(&aggregated_attention_backward));
}
