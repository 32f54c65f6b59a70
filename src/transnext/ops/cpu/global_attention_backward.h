// Gradients of attention of every pixel to every pixel, by tiles of queries and blocks of keys as forward.
// Probabilities are computed again, from the statistics that the forward pass kept.
//
// With p the softmax weights, g the gradient of the output o:
//   d(logits) dS = p (g . v - g . o),  dv += p g,  dkn += dS qs,  dqs += dS kn
// and then as in attention_backward.h.
#pragma once

#include "attention_backward.h"
#include "global_attention.h"

namespace transnext::ISA {

struct GlobalBackwardWorkspace : GlobalWorkspace {
  float *grad_k, *grad_v;                          // [N][DV]: rows of channels, padded to vectors
  float *g, *grad_qs;                              // [D][TQ]
  float* dS;                                       // [KEYS][TQ]
  float *g_rows, *qs_rows;                         // [TQ][DV]
  float *shift, *inverse_sum, *mean;               // [TQ]
  float *grad_query_embedding, *grad_temperature;  // [D][VL], [VL]: of the current image and head
  float* grad_columns;                             // as `columns`

  static int64_t channels(const GlobalAttention& a) { return round_up(a.D, VL); }

  int64_t lay_out(const GlobalAttention& a, float* base) {
    int64_t used = GlobalWorkspace::lay_out(a, base);
    const auto take = [&](int64_t n) {
      float* part = base ? base + used : nullptr;
      used += round_up(n, 16);
      return part;
    };
    const int64_t DV = channels(a);
    grad_k = take(a.N() * DV);
    grad_v = take(a.N() * DV);
    g = take(a.D * TQ);
    grad_qs = take(a.D * TQ);
    dS = take(KEYS * TQ + VL);
    g_rows = take(TQ * DV);
    qs_rows = take(TQ * DV);
    shift = take(TQ);
    inverse_sum = take(TQ);
    mean = take(TQ);
    grad_query_embedding = take(a.D * VL);
    grad_temperature = take(VL);
    grad_columns = take(GlobalBias::columns_floats(a));
    return used;
  }

  // Statistics of a tile, and the mean gradient of its weights, g . o. Lanes beyond the tile get weights of 0.
  template <int QV>
  void load_statistics(const GlobalAttention& a, const Map& result, int64_t b, int64_t m, const PixelTile& tile) {
    constexpr int LANES = QV * VL;
    const float* statistics = a.statistics + (m * a.B + b) * a.N() + tile.first;
    std::fill_n(shift, LANES, INFINITY);
    std::fill_n(inverse_sum, LANES, 0.0f);
    std::copy_n(statistics, tile.count, shift);
    std::copy_n(statistics + a.M * a.B * a.N(), tile.count, inverse_sum);
    if (tile.count < LANES) std::fill_n(out, a.D * LANES, 0.0f);
    load_pixels(a, result, b, m, tile.first, tile.count, out, LANES);
    for (int v = 0; v < QV; ++v) {
      vf sum{};
      for (int64_t d = 0; d < a.D; ++d) sum += load(g + (d * QV + v) * VL) * load(out + (d * QV + v) * VL);
      store(mean + v * VL, sum);
    }
  }
};

template <int QV>
static void global_backward_tile(const GlobalAttention& a, const GlobalAttentionGradient& grads,
                                 GlobalBackwardWorkspace& s, const GlobalBias& bias, float* bias_sums, int64_t b,
                                 int64_t m, const PixelTile& tile) {
  constexpr int TQ = QV * VL;
  const int64_t N = a.N(), D = a.D, DV = GlobalBackwardWorkspace::channels(a);
  s.load_queries<QV>(a, b, m, tile);
  if (tile.count < TQ) std::fill_n(s.g, D * TQ, 0.0f);
  load_pixels(a, grads.grad, b, m, tile.first, tile.count, s.g, TQ);
  s.load_statistics<QV>(a, grads.out, b, m, tile);
  store_transposed(s.g, TQ, tile.count, D, s.g_rows, DV);
  store_transposed(s.qs, TQ, tile.count, D, s.qs_rows, DV);
  std::fill_n(s.grad_qs, D * TQ, 0.0f);
  for (int64_t first = 0; first < N; first += KEYS) {
    const int64_t last = std::min(N, first + KEYS), keys = last - first;
    s.fill_logits<QV>(a, bias, tile, first, last, [](int, vf) ALWAYS_INLINE {});
    dots<QV>(s.g, s.v + first * D, keys, D, s.dS, [](int64_t, int) ALWAYS_INLINE { return vf{}; });
    for (int64_t n = 0; n < keys; ++n)
#pragma GCC unroll 2
      for (int v = 0; v < QV; ++v) {
        float *weight = s.logits + (n * QV + v) * VL, *dS = s.dS + (n * QV + v) * VL;
        const vf p = power_below(load(weight), load(s.shift + v * VL)) * load(s.inverse_sum + v * VL);
        store(weight, p);
        store(dS, p * (load(dS) - load(s.mean + v * VL)));
      }
    outer<QV>(s.logits, s.g_rows, keys, tile.count, DV, s.grad_v + first * DV);
    outer<QV>(s.dS, s.qs_rows, keys, tile.count, DV, s.grad_k + first * DV);
    mix<QV>(s.dS, s.k + first * D, keys, D, s.grad_qs,
            [&](int64_t d, int v) ALWAYS_INLINE { return load(s.grad_qs + (d * QV + v) * VL); });
    bias.add<QV>(tile, first, last, s.dS, bias_sums);
  }

  const float scale = a.scale[m];
#pragma GCC unroll 2
  for (int v = 0; v < QV; ++v) {
    const vf inverse = load(s.inverse_length + v * VL);
    vf along{}, of_scale{};
    for (int64_t d = 0; d < D; ++d) {
      float* grad = s.grad_qs + (d * QV + v) * VL;
      // Lanes beyond the tile have no logits: what is there may be anything, and is summed over lanes here.
      const vf qn = load(s.qn + (d * QV + v) * VL), grad_qs = first_lanes(load(grad), tile.count - v * VL);
      const vf grad_qn = grad_qs * scale;
      float* sum = s.grad_query_embedding + d * VL;
      store(sum, load(sum) + grad_qn);
      of_scale += grad_qs * (qn + a.query_embedding[m * D + d]);
      along += grad_qn * qn;
      store(grad, grad_qn);
    }
    store(s.grad_temperature, load(s.grad_temperature) + of_scale * a.slope[m]);
    along = select(load(s.length + v * VL) < NORM_EPS, vf{}, along);  // below it the divisor is a constant
    for (int64_t d = 0; d < D; ++d) {
      float* grad = s.grad_qs + (d * QV + v) * VL;
      store(grad, (load(grad) - load(s.qn + (d * QV + v) * VL) * along) * inverse);
    }
  }
  const int64_t pixel = a.M * D;
  store_transposed(s.grad_qs, TQ, tile.count, D, grads.q + (b * N + tile.first) * pixel + m * D, pixel);
}

// Turns the gradients of the normalised keys into those of keys, and writes them and those of the values.
static void write_keys(const GlobalAttention& a, const GlobalAttentionGradient& grads, GlobalBackwardWorkspace& s,
                       int64_t b, int64_t m) {
  constexpr int TQ = GlobalBackwardWorkspace::TQ;
  const int64_t N = a.N(), D = a.D, DV = GlobalBackwardWorkspace::channels(a), pixel = a.M * D;
  for (int64_t n = 0; n < N; n += TQ) {
    const int64_t count = std::min<int64_t>(TQ, N - n), offset = (b * N + n) * pixel + m * D;
    if (count < TQ)
      for (float* part : {s.qn, s.qs}) std::fill_n(part, D * TQ, 0.0f);
    load_pixels(a, a.k, b, m, n, count, s.qn, TQ);
    load_transposed(s.grad_k + n * DV, DV, count, D, s.qs, TQ);
    for (int v = 0; v < 2; ++v) {
      const vf length = column_length(s.qn + v * VL, TQ, D), inverse = inverse_length(length);
      vf along{};
      for (int64_t d = 0; d < D; ++d) along += load(s.qn + d * TQ + v * VL) * inverse * load(s.qs + d * TQ + v * VL);
      along = select(length < NORM_EPS, vf{}, along);
      for (int64_t d = 0; d < D; ++d) {
        float* grad = s.qs + d * TQ + v * VL;
        store(grad, (load(grad) - load(s.qn + d * TQ + v * VL) * inverse * along) * inverse);
      }
    }
    store_transposed(s.qs, TQ, count, D, grads.k + offset, pixel);
    for (int64_t i = 0; i < count; ++i) std::copy_n(s.grad_v + (n + i) * DV, D, grads.v + offset + i * pixel);
  }
}

static void global_attention_backward(const GlobalAttention& a, GlobalAttentionGradient& grads, int64_t worker) {
  GlobalBackwardWorkspace s;
  s.lay_out(a, scratch(s.lay_out(a, nullptr)));
  const int64_t D = a.D, DV = GlobalBackwardWorkspace::channels(a);
  for (float* part : {s.g_rows, s.qs_rows}) std::fill_n(part, GlobalBackwardWorkspace::TQ * DV, 0.0f);
  GlobalBias bias{a, s.columns};
  const int64_t first = grads.first_unit(a, worker), last = grads.first_unit(a, worker + 1);
  for (int64_t unit = first; unit < last; ++unit) {
    const int64_t b = unit % a.B, m = unit / a.B, slot = m + worker;
    float* table = grads.table.data() + slot * grads.slot_floats(a);
    float* bias_sums = a.resized() ? s.grad_columns : table;
    if (unit == first || b == 0) {
      bias.start_head(m);
      std::fill_n(s.grad_columns, GlobalBias::columns_floats(a), 0.0f);
    }
    s.load_keys(a, b, m);
    for (float* part : {s.grad_k, s.grad_v}) std::fill_n(part, a.N() * DV, 0.0f);
    std::fill_n(s.grad_query_embedding, D * VL, 0.0f);
    std::fill_n(s.grad_temperature, VL, 0.0f);
    for_pixel_tiles(
        a, 0, a.N(), [&](const PixelTile& tile) { global_backward_tile<2>(a, grads, s, bias, bias_sums, b, m, tile); },
        [&](const PixelTile& tile) { global_backward_tile<1>(a, grads, s, bias, bias_sums, b, m, tile); });
    write_keys(a, grads, s, b, m);
    double* to = grads.parameters.data() + slot * (D + 1);
    for (int64_t d = 0; d < D; ++d) to[d] += sum_lanes(load(s.grad_query_embedding + d * VL));
    to[D] += sum_lanes(load(s.grad_temperature));
    if (a.resized() && (unit + 1 == last || b + 1 == a.B)) bias.add_columns(s.grad_columns, table);
  }
}

}  // namespace transnext::ISA
