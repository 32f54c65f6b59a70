// Gradients of aggregated attention. The probabilities of a tile of queries are computed again; nothing was kept.
//
// With p the softmax weights, u = qn . tokens + tokens_bias what is added to them in the window, g the gradient of the
// output:
//   dA = g . v            for all keys        d(softmax logits) dS = p (dA - sum p dA)
//   du = dA               in the window       dv += (p + u) g,  dkn += dS qs
// and then through qs = (qn + query_embedding) softplus(temperature) log(L), qn = q / |q|, kn = k / |k|.
#pragma once

#include "attention.h"

namespace transnext::ISA {

// What the window's keys and values need of a row of queries, zero beside the map: `[n][r + column]`.
struct QueryRow {
  float *dS, *weights;  // [K][width]
  float *qs, *g;        // [D][width]
};

struct BackwardWorkspace : Workspace {
  Ring grads;                         // of the ring: d(normalised keys), d(values)
  float *grad_pool_k, *grad_pool_v;   // [P][DV]: rows of channels, padded to vectors
  float *g, *grad_qs, *grad_qn;       // [D][TQ]
  float* dA;                          // [K + P][TQ]
  float *g_rows, *qs_rows, *qn_rows;  // [TQ][DV]
  float *grad_tokens, *grad_tokens_bias, *grad_local_bias, *grad_query_embedding,
      *grad_temperature;  // of the current head
  float* grad_blended;    // [P_h][row_length]
  float* keys;            // [D][width]: of a finished row
  QueryRow queries;

  static int64_t channels(const Attention& a) { return round_up(a.D, VL); }

  int64_t lay_out(const Attention& a, float* base) {
    int64_t used = Workspace::lay_out(a, base);
    const auto take = [&](int64_t n) {
      float* part = base ? base + used : nullptr;
      used += round_up(n, 16);
      return part;
    };
    const int64_t DV = channels(a), K = a.K(), P = a.P();
    grads.width = ring.width;
    grads.slot_floats = ring.slot_floats;
    grads.k = take(a.window * ring.slot_floats);
    grads.v = take(a.window * ring.slot_floats);
    grad_pool_k = take(P * DV);
    grad_pool_v = take(P * DV);
    g = take(a.D * TQ);
    grad_qs = take(a.D * TQ);
    grad_qn = take(a.D * TQ);
    dA = take((K + P) * TQ);
    g_rows = take(TQ * DV);
    qs_rows = take(TQ * DV);
    qn_rows = take(TQ * DV);
    grad_tokens = take(K * DV);
    grad_tokens_bias = take(K * VL);
    grad_local_bias = take(K * VL);
    grad_query_embedding = take(a.D * VL);
    grad_temperature = take(VL);
    grad_blended = take(a.rows.resized || a.cols.resized ? a.P_h * a.row_length : 0);
    keys = take(ring.slot_floats);
    queries.dS = take(K * ring.width);
    queries.weights = take(K * ring.width);
    queries.qs = take(ring.slot_floats);
    queries.g = take(ring.slot_floats);
    return used;
  }
};

// sums[n][d] += sum over `count` lanes of weights[n][lane] * rows[lane][d], for N of n and V vectors of d.
template <int N, int V, int QV>
INLINE void outer_block(const float* weights, const float* rows, int64_t count, int64_t DV, float* sums) {
  constexpr int TQ = QV * VL;
  vf acc[N][V];
#pragma GCC unroll 8
  for (int n = 0; n < N; ++n)
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) acc[n][v] = load(sums + n * DV + v * VL);
  for (int64_t l = 0; l < count; ++l) {
    vf x[V];
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) x[v] = load(rows + l * DV + v * VL);
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      const vf w = broadcast(weights[n * TQ + l]);
#pragma GCC unroll 3
      for (int v = 0; v < V; ++v) acc[n][v] += w * x[v];
    }
  }
#pragma GCC unroll 8
  for (int n = 0; n < N; ++n)
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) store(sums + n * DV + v * VL, acc[n][v]);
}

template <int N, int V, int QV>
static void outer_columns(const float* weights, const float* rows, int64_t keys, int64_t count, int64_t DV,
                          float* sums) {
  constexpr int TQ = QV * VL;
  int64_t n = 0;
  for (; n + N <= keys; n += N) outer_block<N, V, QV>(weights + n * TQ, rows, count, DV, sums + n * DV);
  for (; n < keys; ++n) outer_block<1, V, QV>(weights + n * TQ, rows, count, DV, sums + n * DV);
}

// In blocks of about 12 sums, as many as are under way at once.
template <int QV>
static void outer(const float* weights, const float* rows, int64_t N, int64_t count, int64_t DV, float* sums) {
  int64_t d = 0;
  for (; d + 3 * VL <= DV; d += 3 * VL) outer_columns<4, 3, QV>(weights, rows + d, N, count, DV, sums + d);
  for (; d + 2 * VL <= DV; d += 2 * VL) outer_columns<6, 2, QV>(weights, rows + d, N, count, DV, sums + d);
  for (; d < DV; d += VL) outer_columns<8, 1, QV>(weights, rows + d, N, count, DV, sums + d);
}

// row[d][x] += sum over dx of weights[n + dx][x - dx + r] * queries[d][x - dx + r], for DB channels and one vector of
// keys: gathering for a key is free of the overlapping stores that scattering from queries would make.
template <int DB>
INLINE void window_gather_block(const float* weights, const float* queries, int64_t window, int64_t width, float* row) {
  vf acc[DB];
#pragma GCC unroll 8
  for (int d = 0; d < DB; ++d) acc[d] = load(row + d * width);
  for (int64_t dx = 0; dx < window; ++dx) {
    const vf w = load(weights + dx * width + window - 1 - dx);
#pragma GCC unroll 8
    for (int d = 0; d < DB; ++d) acc[d] += w * load(queries + d * width + window - 1 - dx);
  }
#pragma GCC unroll 8
  for (int d = 0; d < DB; ++d) store(row + d * width, acc[d]);
}

static void window_gather(const Attention& a, const float* weights, const float* queries, float* rows, const Ring& ring,
                          int64_t i) {
  for_window_rows(a, i, [&](int64_t n, int64_t slot) {
    for (int64_t x = 0; x < a.W; x += VL) {
      const float* w = weights + n * ring.width + x;
      float* row = rows + slot * ring.slot_floats + a.window / 2 + x;
      int64_t d = 0;
      for (; d + 8 <= a.D; d += 8)
        window_gather_block<8>(w, queries + d * ring.width + x, a.window, ring.width, row + d * ring.width);
      for (; d < a.D; ++d)
        window_gather_block<1>(w, queries + d * ring.width + x, a.window, ring.width, row + d * ring.width);
    }
  });
}

// The transpose of BiasReader::lanes: adds to `table_row` of the gradient.
INLINE void add_lanes(const BiasReader& bias, float* table_row, int64_t p, int64_t j, vf value) {
  const Attention& a = bias.a;
  if (!a.cols.resized) {
    float* to = table_row + bias.column(p) + j;
    store(to, load(to) + value);
    return;
  }
  const Axis& axis = a.cols;
  const float share_k = axis.key_share[p];
  float *first = table_row + axis.key_offset[axis.key_first[p]],
        *second = table_row + axis.key_offset[axis.key_second[p]];
  const int64_t count = std::min<int64_t>(VL, a.W - j);
  for (int64_t l = 0; l < count; ++l) {
    const int64_t q0 = axis.step * axis.query_first[j + l], q1 = axis.step * axis.query_second[j + l];
    const float share_q = axis.query_share[j + l], left = (1 - share_q) * value[l], right = share_q * value[l];
    first[q0] += (1 - share_k) * left;
    second[q0] += share_k * left;
    first[q1] += (1 - share_k) * right;
    second[q1] += share_k * right;
  }
}

template <int QV>
static void backward_tile(const Attention& a, const AttentionGradient& grads, BackwardWorkspace& s,
                          const BiasReader& bias, float* grad_table, const Tile& tile) {
  constexpr int TQ = QV * VL;
  const int64_t b = tile.b, m = tile.m, i = tile.i, j = tile.j;
  const int64_t K = a.K(), P = a.P(), D = a.D, DV = BackwardWorkspace::channels(a),
                count = std::min<int64_t>(TQ, a.W - j);
  load_queries<QV>(a, s, tile);
  window_logits<QV>(a, s, tile);
  RunningSoftmax<QV> softmax;
  softmax.look(s.logits, K);
  pool_logits<QV>(a, s, bias, j, 0, P, s.logits + K * TQ, softmax);
  vf factor[QV];
  softmax.take(s.logits, K + P, factor);
  if (count < TQ) std::fill_n(s.g, D * TQ, 0.0f);
  load_transposed(a.dtype, grads.grad.data, place(grads.grad, b, i, j, m), grads.grad.x, count, D, s.g, TQ);
  store_transposed(s.g, TQ, count, D, s.g_rows, DV);
  store_transposed(s.qs, TQ, count, D, s.qs_rows, DV);
  store_transposed(s.qn, TQ, count, D, s.qn_rows, DV);

  // dA, the gradient of the weights of all keys. Values outside the map are 0, and so is theirs.
  window_dots<QV>(a, s.g, s.ring.v, s.ring, i, j, s.dA);
  dots<QV>(s.g, s.pool_v, P, D, s.dA + K * TQ, [](int64_t, int) { return vf{}; });

  // The window's weights are p + u; their gradient also goes to u.
  mix<QV>(s.dA, a.tokens.data() + m * K * D, K, D, s.grad_qn);
  outer<QV>(s.dA, s.qn_rows, K, count, DV, s.grad_tokens);
#pragma GCC unroll 2
  for (int v = 0; v < QV; ++v) {
    const int64_t at_v = v * VL;
    const vf inverse_sum = 1.0f / softmax.sum[v];
    vf mean{};
    for (int64_t n = 0; n < K + P; ++n) {
      const vf p = load(s.logits + n * TQ + at_v) * inverse_sum;
      store(s.logits + n * TQ + at_v, p);
      mean += p * load(s.dA + n * TQ + at_v);
    }
    for (int64_t n = 0; n < K; ++n) {
      const vf p = load(s.logits + n * TQ + at_v), dA = load(s.dA + n * TQ + at_v), dS = p * (dA - mean);
      float *bias_sum = s.grad_tokens_bias + n * VL, *local_sum = s.grad_local_bias + n * VL,
            *u = s.token_weights + n * TQ + at_v;
      store(bias_sum, load(bias_sum) + dA);
      store(local_sum, load(local_sum) + dS);
      store(u, load(u) + p);
      store(s.dA + n * TQ + at_v, dS);
    }
    for (int64_t n = K; n < K + P; ++n)
      store(s.dA + n * TQ + at_v, load(s.logits + n * TQ + at_v) * (load(s.dA + n * TQ + at_v) - mean));
  }

  // Pooled keys, their values and their bias.
  outer<QV>(s.logits + K * TQ, s.g_rows, P, count, DV, s.grad_pool_v);
  outer<QV>(s.dA + K * TQ, s.qs_rows, P, count, DV, s.grad_pool_k);
  for (int64_t y = 0; y < a.P_h; ++y) {
    float* table_row = a.rows.resized ? s.grad_blended + y * a.row_length
                                      : grad_table + (a.rows.step * i + a.rows.key_offset[y]) * a.row_length;
    for (int64_t x = 0; x < a.P_w; ++x)
#pragma GCC unroll 2
      for (int v = 0; v < QV; ++v)
        if (j + v * VL < a.W) add_lanes(bias, table_row, x, j + v * VL, load(s.dA + (K + y * a.P_w + x) * TQ + v * VL));
  }

  // The window's keys and values come when the row is complete.
  const int64_t start = a.window / 2 + j;
#pragma GCC unroll 2
  for (int v = 0; v < QV; ++v) {
    const int64_t from = v * VL, to = start + v * VL, width = s.grads.width;
    for (int64_t n = 0; n < K; ++n) {
      store(s.queries.dS + n * width + to, load(s.dA + n * TQ + from));
      store(s.queries.weights + n * width + to, load(s.token_weights + n * TQ + from));
    }
    for (int64_t d = 0; d < D; ++d) {
      store(s.queries.qs + d * width + to, load(s.qs + d * TQ + from));
      store(s.queries.g + d * width + to, load(s.g + d * TQ + from));
    }
  }

  // The query.
  mix<QV>(s.dA + K * TQ, s.pool_k, P, D, s.grad_qs);
  window_mix<QV>(a, s.dA, s.ring.k, s.ring, i, j, s.grad_qs);
#pragma GCC unroll 2
  for (int v = 0; v < QV; ++v) {
    const int64_t at_v = v * VL;
    const vf scale = load(s.scale + j + at_v), inverse = load(s.inverse_length + at_v);
    vf along{}, of_scale{};
    for (int64_t d = 0; d < D; ++d) {
      const vf qn = load(s.qn + d * TQ + at_v), grad_qs = load(s.grad_qs + d * TQ + at_v);
      const vf scaled = grad_qs * scale, grad_qn = load(s.grad_qn + d * TQ + at_v) + scaled;
      float* sum = s.grad_query_embedding + d * VL;
      store(sum, load(sum) + scaled);
      of_scale += grad_qs * (qn + a.query_embedding[m * D + d]);
      store(s.grad_qn + d * TQ + at_v, grad_qn);
      along += grad_qn * qn;
    }
    store(s.grad_temperature, load(s.grad_temperature) + of_scale * scale * (a.sigmoid[m] / a.softplus[m]));
    // Below NORM_EPS the divisor is a constant.
    along = select(load(s.length + at_v) < NORM_EPS, vf{}, along);
    for (int64_t d = 0; d < D; ++d) {
      float* to = s.grad_qn + d * TQ + at_v;
      store(to, (load(to) - load(s.qn + d * TQ + at_v) * along) * inverse);
    }
  }
  const int64_t pixel = a.M * D;
  store_transposed(a.dtype, s.grad_qn, TQ, count, D, grads.q, ((b * a.H + i) * a.W + j) * pixel + m * D, pixel);
}

// Turns the gradient of normalised keys into that of keys and writes a finished row of both.
// `grad_k`, `grad_v`: [D][ld]; `keys`: room for [D][round_up(W, VL)].
static void write_row(const Attention& a, const AttentionGradient& grads, int64_t b, int64_t m, int64_t y,
                      float* grad_k, const float* grad_v, int64_t ld, float* keys, int64_t keys_ld) {
  std::fill_n(keys, a.D * keys_ld, 0.0f);
  load_transposed(a.dtype, a.k.data, place(a.k, b, y, 0, m), a.k.x, a.W, a.D, keys, keys_ld);
  for (int64_t j = 0; j < a.W; j += VL) {
    const vf length = column_length(keys + j, keys_ld, a.D), inverse = inverse_length(length);
    vf along{};
    for (int64_t d = 0; d < a.D; ++d) along += load(keys + d * keys_ld + j) * inverse * load(grad_k + d * ld + j);
    along = select(length < NORM_EPS, vf{}, along);
    for (int64_t d = 0; d < a.D; ++d) {
      float* to = grad_k + d * ld + j;
      store(to, (load(to) - load(keys + d * keys_ld + j) * inverse * along) * inverse);
    }
  }
  const int64_t pixel = a.M * a.D, offset = (b * a.H + y) * a.W * pixel + m * a.D;
  store_transposed(a.dtype, grad_k, ld, a.W, a.D, grads.k, offset, pixel);
  store_transposed(a.dtype, grad_v, ld, a.W, a.D, grads.v, offset, pixel);
}

// Rows [first, last) of a strip.
struct StripRows {
  int64_t first, last;
  StripRows(const Attention& a, int64_t strip, int64_t strips)
      : first(a.H * strip / strips), last(a.H * (strip + 1) / strips) {}
};

// A row that no later query of this strip reaches: written where the strip alone knows it, put at the seam otherwise.
static void finish_row(const Attention& a, AttentionGradient& grads, BackwardWorkspace& s, int64_t b, int64_t m,
                       int64_t y, const StripRows& rows, float* seams) {
  const int64_t r = a.window / 2, slot = slot_of(y, a.window);
  float *grad_k = s.grads.k + slot * s.grads.slot_floats, *grad_v = s.grads.v + slot * s.grads.slot_floats;
  if (y >= 0 && y < a.H) {
    const bool above = rows.first > 0 && y < rows.first + r, below = rows.last < a.H && y >= rows.last - r;
    if (above || below) {
      const int64_t place = above ? y - (rows.first - r) : 2 * r + y - (rows.last - r);
      float* to = seams + place * 2 * a.D * a.W;
      for (int64_t d = 0; d < a.D; ++d) {
        std::copy_n(grad_k + d * s.grads.width + r, a.W, to + d * a.W);
        std::copy_n(grad_v + d * s.grads.width + r, a.W, to + (a.D + d) * a.W);
      }
    } else {
      // write_row works in vectors from the first pixel on; what it reads past the row is scratch.
      write_row(a, grads, b, m, y, grad_k + r, grad_v + r, s.grads.width, s.keys, s.grads.width);
    }
  }
  std::fill_n(grad_k, s.grads.slot_floats, 0.0f);
  std::fill_n(grad_v, s.grads.slot_floats, 0.0f);
}

// Adds what one row of queries found for the parameters to the sums of a slot, and starts anew: long sums are sums of
// sums.
static void flush_parameters(const Attention& a, BackwardWorkspace& s, double* to) {
  const int64_t K = a.K(), D = a.D, DV = BackwardWorkspace::channels(a);
  for (int64_t n = 0; n < K; ++n)
    for (int64_t d = 0; d < D; ++d) *to++ += s.grad_tokens[n * DV + d];
  for (int64_t n = 0; n < K; ++n) *to++ += sum_lanes(load(s.grad_tokens_bias + n * VL));
  for (int64_t n = 0; n < K; ++n) *to++ += sum_lanes(load(s.grad_local_bias + n * VL));
  for (int64_t d = 0; d < D; ++d) *to++ += sum_lanes(load(s.grad_query_embedding + d * VL));
  *to += sum_lanes(load(s.grad_temperature));
  std::fill_n(s.grad_tokens, K * DV, 0.0f);
  std::fill_n(s.grad_tokens_bias, K * VL, 0.0f);
  std::fill_n(s.grad_local_bias, K * VL, 0.0f);
  std::fill_n(s.grad_query_embedding, D * VL, 0.0f);
  std::fill_n(s.grad_temperature, VL, 0.0f);
}

static void attention_backward(const Attention& a, AttentionGradient& grads, int64_t worker) {
  BackwardWorkspace s;
  s.lay_out(a, scratch(s.lay_out(a, nullptr)));
  const int64_t r = a.window / 2, K = a.K(), P = a.P(), D = a.D, DV = BackwardWorkspace::channels(a);
  std::fill_n(s.g_rows, Workspace::TQ * DV, 0.0f);
  std::fill_n(s.qs_rows, Workspace::TQ * DV, 0.0f);
  std::fill_n(s.qn_rows, Workspace::TQ * DV, 0.0f);
  for (float* part : {s.queries.dS, s.queries.weights}) std::fill_n(part, K * s.grads.width, 0.0f);
  for (float* part : {s.queries.qs, s.queries.g}) std::fill_n(part, s.grads.slot_floats, 0.0f);
  for (int64_t unit = grads.first_unit(a, worker); unit < grads.first_unit(a, worker + 1); ++unit) {
    const int64_t strip = unit % grads.strips, b = unit / grads.strips % a.B, m = unit / grads.strips / a.B;
    const StripRows rows(a, strip, grads.strips);
    const int64_t slot = m + worker;
    float* grad_table = grads.table.data() + slot * a.rows.entries * a.row_length;
    float* seams = grads.seams.data() + unit * grads.seam_floats(a);
    std::fill(s.grads.k, s.grads.k + a.window * s.grads.slot_floats, 0.0f);
    std::fill(s.grads.v, s.grads.v + a.window * s.grads.slot_floats, 0.0f);
    std::fill_n(s.grad_pool_k, P * DV, 0.0f);
    std::fill_n(s.grad_pool_v, P * DV, 0.0f);
    std::fill_n(s.grad_tokens, K * DV, 0.0f);
    std::fill_n(s.grad_tokens_bias, K * VL, 0.0f);
    std::fill_n(s.grad_local_bias, K * VL, 0.0f);
    std::fill_n(s.grad_query_embedding, D * VL, 0.0f);
    std::fill_n(s.grad_temperature, VL, 0.0f);

    load_pool(a, b, m, s.pool_k, s.pool_v);
    for (int64_t y = rows.first - r; y < rows.first + r; ++y) load_ring_row(a, s.ring, b, m, y);
    BiasReader bias{a, a.table.data() + m * a.rows.entries * a.row_length, s.blended, s.bias_keys};
    for (int64_t i = rows.first; i < rows.last; ++i) {
      load_ring_row(a, s.ring, b, m, i + r);
      bias.start_row(i);
      fill_scale(a, m, i, s.scale);
      if (a.rows.resized) std::fill_n(s.grad_blended, a.P_h * a.row_length, 0.0f);
      for_tiles(
          a.W, [&](int64_t j) { backward_tile<2>(a, grads, s, bias, grad_table, {b, m, i, j}); },
          [&](int64_t j) { backward_tile<1>(a, grads, s, bias, grad_table, {b, m, i, j}); });
      window_gather(a, s.queries.dS, s.queries.qs, s.grads.k, s.grads, i);
      window_gather(a, s.queries.weights, s.queries.g, s.grads.v, s.grads, i);
      if (a.rows.resized) {
        const float share_q = a.rows.query_share[i];
        for (int64_t p = 0; p < a.P_h; ++p)
          for (int t = 0; t < 4; ++t) {
            const float share_k = a.rows.key_share[p];
            const float weight = (t < 2 ? 1 - share_q : share_q) * (t % 2 == 0 ? 1 - share_k : share_k);
            float* to = grad_table + bias.entry(p, t) * a.row_length;
            for (int64_t u = 0; u < a.row_length; ++u) to[u] += weight * s.grad_blended[p * a.row_length + u];
          }
      }
      flush_parameters(a, s, grads.parameters.data() + slot * grads.parameters_of_slot(a));
      finish_row(a, grads, s, b, m, i - r, rows, seams);
    }
    for (int64_t y = rows.last - r; y < rows.last + r; ++y) finish_row(a, grads, s, b, m, y, rows, seams);

    float* pool = grads.pool.data() + unit * 2 * P * D;
    for (int64_t p = 0; p < P; ++p) {
      std::copy_n(s.grad_pool_k + p * DV, D, pool + p * D);
      std::copy_n(s.grad_pool_v + p * DV, D, pool + (P + p) * D);
    }
  }
}

// Rows at the seams between two strips of an image and head, to which both have contributed.
static void attention_backward_seams(const Attention& a, AttentionGradient& grads, int64_t begin, int64_t end) {
  const int64_t r = a.window / 2, row_floats = a.D * a.W, ld = round_up(a.W, VL) + VL;
  float* sums = scratch(3 * a.D * ld);
  float *grad_k = sums, *grad_v = sums + a.D * ld, *keys = sums + 2 * a.D * ld;
  for (int64_t seam = begin; seam < end; ++seam) {
    const int64_t strip = seam % (grads.strips - 1), image = seam / (grads.strips - 1),
                  unit = image * grads.strips + strip;
    const StripRows rows(a, strip, grads.strips);
    for (int64_t n = 0; n < 2 * r; ++n) {
      const float* upper = grads.seams.data() + unit * grads.seam_floats(a) + (2 * r + n) * 2 * row_floats;
      const float* lower = grads.seams.data() + (unit + 1) * grads.seam_floats(a) + n * 2 * row_floats;
      for (int64_t d = 0; d < a.D; ++d) {
        std::fill_n(grad_k + d * ld + a.W, ld - a.W, 0.0f);
        for (int64_t x = 0; x < a.W; ++x) {
          grad_k[d * ld + x] = upper[d * a.W + x] + lower[d * a.W + x];
          grad_v[d * ld + x] = upper[row_floats + d * a.W + x] + lower[row_floats + d * a.W + x];
        }
      }
      write_row(a, grads, image % a.B, image / a.B, rows.last - r + n, grad_k, grad_v, ld, keys, ld);
    }
  }
}

// Adds up what strips found for the pooled keys and values, and undoes the normalisation of the keys.
static void total_pool(const Attention& a, const AttentionGradient& grads, AttentionTotals& totals) {
  const int64_t P = a.P(), D = a.D;
  totals.k_pool.assign(a.B * P * a.M * D, 0.0f);
  totals.v_pool.assign(a.B * P * a.M * D, 0.0f);
  float* keys = scratch(P * D);
  for (int64_t m = 0; m < a.M; ++m)
    for (int64_t b = 0; b < a.B; ++b) {
      widen_pool(a, a.k_pool, b, m, keys);
      for (int64_t p = 0; p < P; ++p) {
        float *grad_k = totals.k_pool.data() + ((b * P + p) * a.M + m) * D,
              *grad_v = totals.v_pool.data() + ((b * P + p) * a.M + m) * D;
        for (int64_t s = 0; s < grads.strips; ++s) {
          const float* part = grads.pool.data() + ((m * a.B + b) * grads.strips + s) * 2 * P * D;
          for (int64_t d = 0; d < D; ++d) {
            grad_k[d] += part[p * D + d];
            grad_v[d] += part[(P + p) * D + d];
          }
        }
        const float *key = keys + p * D, length = pooled_length(key, D),
                    divisor = NORM_EPS > length ? NORM_EPS : length;
        float along = 0;
        if (!(length < NORM_EPS))
          for (int64_t d = 0; d < D; ++d) along += key[d] / divisor * grad_k[d];
        for (int64_t d = 0; d < D; ++d) grad_k[d] = (grad_k[d] - key[d] / divisor * along) / divisor;
      }
    }
}

static void attention_backward_totals(const Attention& a, const AttentionGradient& grads, AttentionTotals& totals) {
  total_pool(a, grads, totals);
  const int64_t M = a.M, K = a.K(), D = a.D, U = a.rows.entries, V = a.cols.entries;
  totals.query_embedding.assign(M * D, 0.0f), totals.temperature.assign(M, 0.0f), totals.local_bias.assign(M * K, 0.0f);
  totals.tokens.assign(M * D * K, 0.0f), totals.tokens_bias.assign(M * K, 0.0f), totals.table.assign(M * U * V, 0.0f);
  for (int64_t m = 0; m < M; ++m)
    for (int64_t w = 0; w < grads.workers; ++w) {
      const int64_t first = grads.first_unit(a, w), last = grads.first_unit(a, w + 1), of_head = a.B * grads.strips;
      if (first >= last || m < first / of_head || m > (last - 1) / of_head) continue;
      const float* table = grads.table.data() + (m + w) * U * a.row_length;
      for (int64_t u = 0; u < U; ++u)
        for (int64_t v = 0; v < V; ++v) totals.table[(m * U + u) * V + v] += table[u * a.row_length + a.column_of(v)];
      const double* p = grads.parameters.data() + (m + w) * grads.parameters_of_slot(a);
      for (int64_t n = 0; n < K; ++n)
        for (int64_t d = 0; d < D; ++d) totals.tokens[(m * D + d) * K + n] += *p++;
      for (int64_t n = 0; n < K; ++n) totals.tokens_bias[m * K + n] += *p++;
      for (int64_t n = 0; n < K; ++n) totals.local_bias[m * K + n] += *p++;
      for (int64_t d = 0; d < D; ++d) totals.query_embedding[m * D + d] += *p++;
      totals.temperature[m] += *p;
    }
}

}  // namespace transnext::ISA
