// Aggregated attention. Lanes are queries, consecutive in a row of the map: softmax needs no sums across lanes, and the
// position bias of a key is one contiguous piece of a table row.
//
// For each image and head, the rows of normalised keys and of values that the window covers are kept transposed,
// `[D][row]`, in a ring of `w` slots with zeros around the map. A tile of QV * VL queries is transposed likewise. A
// thread needs the ring, the pooled keys and values, and (K + P) logits for each query of one tile.
#pragma once

#include "bias_reader.h"
#include "softmax.h"
#include "tiles.h"

namespace transnext::ISA {

// The rows of keys and values around the current row of queries, transposed, in a ring of slots `[w][D][width]`.
struct Ring {
  float *k, *v;
  int64_t width, slot_floats;

  const float* key_row(int64_t slot) const { return k + slot * slot_floats; }
  const float* value_row(int64_t slot) const { return v + slot * slot_floats; }
};

INLINE int64_t slot_of(int64_t y, int64_t window) { return (y + window) % window; }  // y may be as low as -window / 2

INLINE int64_t place(const Map& map, int64_t b, int64_t y, int64_t x, int64_t m) {
  return b * map.b + y * map.y + x * map.x + m * map.m;
}

static void load_ring_row(const Attention& a, const Ring& ring, int64_t b, int64_t m, int64_t y) {
  const int64_t r = a.window / 2, slot = slot_of(y, a.window);
  float *k = ring.k + slot * ring.slot_floats, *v = ring.v + slot * ring.slot_floats;
  std::fill_n(k, ring.slot_floats, 0.0f);
  std::fill_n(v, ring.slot_floats, 0.0f);
  if (y < 0 || y >= a.H) return;
  load_transposed(a.dtype, a.k.data, place(a.k, b, y, 0, m), a.k.x, a.W, a.D, k + r, ring.width);
  load_transposed(a.dtype, a.v.data, place(a.v, b, y, 0, m), a.v.x, a.W, a.D, v + r, ring.width);
  normalise_columns(k, ring.width, ring.width, a.D);
}

// Pooled keys or values of an image and head, `[P][D]`.
static void widen_pool(const Attention& a, const Map& pool, int64_t b, int64_t m, float* to) {
  for (int64_t y = 0; y < a.P_h; ++y)
    widen_rows(a.dtype, pool.data, place(pool, b, y, 0, m), pool.x, a.P_w, a.D, to + y * a.P_w * a.D);
}

INLINE float pooled_length(const float* key, int64_t D) {
  float sum = 0;
  for (int64_t d = 0; d < D; ++d) sum += key[d] * key[d];
  return __builtin_sqrtf(sum);
}

// Pooled keys, normalised, and pooled values of an image and head, `[P][D]` each.
static void load_pool(const Attention& a, int64_t b, int64_t m, float* k, float* v) {
  widen_pool(a, a.k_pool, b, m, k);
  widen_pool(a, a.v_pool, b, m, v);
  for (int64_t p = 0; p < a.P(); ++p, k += a.D) {
    const float length = pooled_length(k, a.D), divisor = NORM_EPS > length ? NORM_EPS : length;
    for (int64_t d = 0; d < a.D; ++d) k[d] /= divisor;
  }
}

// Queries of one head, side by side in a row of the map: from column j of row i of image b on.
struct Tile {
  int64_t b, m, i, j;
};

// What a thread works with: one image and head at a time.
struct Workspace {
  Ring ring;
  float *pool_k, *pool_v;          // [P][D]
  float *qn, *qs, *out;            // [D][TQ]
  float* logits;                   // [K + P][TQ]: local ones first
  float* token_weights;            // [K][TQ]
  float* blended;                  // [P_h][row_length]
  const float** bias_keys;         // [P], each as long as two floats
  float *inverse_length, *length;  // [TQ]
  float* scale;                    // [W + TQ]: softplus(temperature) log(L) of a row of queries

  static constexpr int TQ = 2 * VL;

  static int64_t ring_width(const Attention& a) { return round_up(a.W + 2 * (a.window / 2) + TQ, VL); }

  // Lays the parts out from `base` on; with a null base, only counts. Returns the floats used.
  int64_t lay_out(const Attention& a, float* base) {
    int64_t used = 0;
    const auto take = [&](int64_t n) {
      float* part = base ? base + used : nullptr;
      used += round_up(n, 16);
      return part;
    };
    ring.width = ring_width(a);
    ring.slot_floats = a.D * ring.width;
    ring.k = take(a.window * ring.slot_floats);
    ring.v = take(a.window * ring.slot_floats);
    pool_k = take(a.P() * a.D);
    pool_v = take(a.P() * a.D);
    qn = take(a.D * TQ);
    qs = take(a.D * TQ);
    out = take(a.D * TQ);
    logits = take((a.K() + a.P()) * TQ);
    token_weights = take(a.K() * TQ);
    blended = take(a.rows.resized ? a.P_h * a.row_length : 0);
    bias_keys = reinterpret_cast<const float**>(take(a.P() * 2));
    inverse_length = take(TQ);
    length = take(TQ);
    scale = take(a.W + TQ);
    return used;
  }
};

INLINE int64_t inside(int64_t centre, int64_t r, int64_t size) {
  return std::min(centre + r, size - 1) - std::max<int64_t>(centre - r, 0) + 1;
}

// The scale of the queries of row i.
static void fill_scale(const Attention& a, int64_t m, int64_t i, float* scale) {
  const int64_t r = a.window / 2, rows_inside = inside(i, r, a.H);
  for (int64_t x = 0; x < a.W + Workspace::TQ; ++x)
    scale[x] = a.softplus[m] * a.log_length[rows_inside * (a.window + 1) + inside(std::min(x, a.W - 1), r, a.W)];
}

// Calls `use(n, slot)` for every row of the window around row i; its first position is n.
template <class Use>
INLINE void for_window_rows(const Attention& a, int64_t i, const Use& use) {
  for (int64_t dy = 0; dy < a.window; ++dy) use(dy * a.window, slot_of(i + dy - a.window / 2, a.window));
}

// result[n + x][lanes] = sum_d x[d][lanes] * row[d][lanes + x] for N neighbouring window columns.
template <int N, int QV>
INLINE void window_dot_block(const float* x, const float* row, int64_t width, int64_t D, float* result) {
  constexpr int TQ = QV * VL;
  vf acc[N][QV] = {};
  for (int64_t d = 0; d < D; ++d) {
    vf lanes[QV];
#pragma GCC unroll 2
    for (int v = 0; v < QV; ++v) lanes[v] = load(x + d * TQ + v * VL);
#pragma GCC unroll 3
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 2
      for (int v = 0; v < QV; ++v) acc[n][v] += lanes[v] * load(row + d * width + n + v * VL);
  }
#pragma GCC unroll 3
  for (int n = 0; n < N; ++n)
#pragma GCC unroll 2
    for (int v = 0; v < QV; ++v) store(result + n * TQ + v * VL, acc[n][v]);
}

// Dot products of `x[D][TQ]` with the keys or values of the window; `rows` is the ring's half.
template <int QV>
static void window_dots(const Attention& a, const float* x, const float* rows, const Ring& ring, int64_t i, int64_t j,
                        float* result) {
  constexpr int TQ = QV * VL;
  for_window_rows(a, i, [&](int64_t n, int64_t slot) {
    const float* row = rows + slot * ring.slot_floats + j;
    int64_t dx = 0;
    for (; dx + 3 <= a.window; dx += 3) window_dot_block<3, QV>(x, row + dx, ring.width, a.D, result + (n + dx) * TQ);
    for (; dx < a.window; ++dx) window_dot_block<1, QV>(x, row + dx, ring.width, a.D, result + (n + dx) * TQ);
  });
}

// result[d][lanes] += sum over the window of weights[n][lanes] * row[d][lanes + dx].
template <int DB, int QV>
INLINE void window_mix_block(const Attention& a, const float* weights, const float* rows, const Ring& ring, int64_t i,
                             int64_t j, float* result) {
  constexpr int TQ = QV * VL;
  vf acc[DB][QV];
#pragma GCC unroll 12
  for (int d = 0; d < DB; ++d)
#pragma GCC unroll 2
    for (int v = 0; v < QV; ++v) acc[d][v] = load(result + d * TQ + v * VL);
  for_window_rows(a, i, [&](int64_t n, int64_t slot) {
    const float* row = rows + slot * ring.slot_floats + j;
    for (int64_t dx = 0; dx < a.window; ++dx) {
      vf lanes[QV];
#pragma GCC unroll 2
      for (int v = 0; v < QV; ++v) lanes[v] = load(weights + (n + dx) * TQ + v * VL);
#pragma GCC unroll 12
      for (int d = 0; d < DB; ++d)
#pragma GCC unroll 2
        for (int v = 0; v < QV; ++v) acc[d][v] += lanes[v] * load(row + d * ring.width + dx + v * VL);
    }
  });
#pragma GCC unroll 12
  for (int d = 0; d < DB; ++d)
#pragma GCC unroll 2
    for (int v = 0; v < QV; ++v) store(result + d * TQ + v * VL, acc[d][v]);
}

template <int QV>
static void window_mix(const Attention& a, const float* weights, const float* rows, const Ring& ring, int64_t i,
                       int64_t j, float* result) {
  constexpr int TQ = QV * VL;
  int64_t d = 0;
  for (; d + CHANNEL_BLOCK <= a.D; d += CHANNEL_BLOCK)
    window_mix_block<CHANNEL_BLOCK, QV>(a, weights, rows + d * ring.width, ring, i, j, result + d * TQ);
  for (; d < a.D; ++d) window_mix_block<1, QV>(a, weights, rows + d * ring.width, ring, i, j, result + d * TQ);
}

// Reads a tile of queries and leaves `qn`, `qs` and its scale.
template <int QV>
static void load_queries(const Attention& a, Workspace& s, const Tile& tile) {
  constexpr int TQ = QV * VL;
  const int64_t m = tile.m, j = tile.j, D = a.D, count = std::min<int64_t>(TQ, a.W - j);
  if (count < TQ) std::fill_n(s.qn, D * TQ, 0.0f);
  load_transposed(a.dtype, a.q.data, place(a.q, tile.b, tile.i, j, m), a.q.x, count, D, s.qn, TQ);
#pragma GCC unroll 2
  for (int v = 0; v < QV; ++v) {
    const vf length = column_length(s.qn + v * VL, TQ, D), inverse = inverse_length(length),
             scale = load(s.scale + j + v * VL);
    store(s.length + v * VL, length);
    store(s.inverse_length + v * VL, inverse);
    for (int64_t d = 0; d < D; ++d) {
      const vf qn = load(s.qn + d * TQ + v * VL) * inverse;
      store(s.qn + d * TQ + v * VL, qn);
      store(s.qs + d * TQ + v * VL, (qn + a.query_embedding[m * D + d]) * scale);
    }
  }
}

// Logits of the window, and what a query adds to its weights.
template <int QV>
static void window_logits(const Attention& a, Workspace& s, const Tile& tile) {
  constexpr int TQ = QV * VL;
  const int64_t m = tile.m, i = tile.i, j = tile.j, K = a.K(), D = a.D, r = a.window / 2;
  window_dots<QV>(a, s.qs, s.ring.k, s.ring, i, j, s.logits);
  const bool at_edge = j < r || j + TQ + r > a.W;
  for (int64_t n = 0; n < K; ++n) {
    float* row = s.logits + n * TQ;
    const int64_t y = i + n / a.window - r, dx = n % a.window - r;
    if (y < 0 || y >= a.H) {
      std::fill_n(row, TQ, -INFINITY);
      continue;
    }
#pragma GCC unroll 2
    for (int v = 0; v < QV; ++v) store(row + v * VL, load(row + v * VL) + a.local_bias[m * K + n]);
    if (!at_edge) continue;
    for (int64_t l = 0; l < std::min<int64_t>(TQ, -dx - j); ++l) row[l] = -INFINITY;
    for (int64_t l = std::max<int64_t>(0, a.W - dx - j); l < TQ; ++l) row[l] = -INFINITY;
  }
  dots<QV>(s.qn, a.tokens.data() + m * K * D, K, D, s.token_weights,
           [&](int64_t n, int) { return broadcast(a.tokens_bias[m * K + n]); });
}

// Logits of pooled keys [first, last), which the softmax looks at.
template <int QV>
static void pool_logits(const Attention& a, const Workspace& s, const BiasReader& bias, int64_t j, int64_t first,
                        int64_t last, float* logits, RunningSoftmax<QV>& softmax) {
  const float* keys = s.pool_k + first * a.D;
  const auto look = [&](int v, vf largest) ALWAYS_INLINE { softmax.look(v, largest); };
  if (a.cols.resized)
    dots<QV>(
        s.qs, keys, last - first, a.D, logits,
        [&](int64_t n, int v) {
          const int64_t p = first + n;
          return bias.resized_lanes(bias.row(p / a.P_w), p % a.P_w, j + v * VL);
        },
        look);
  else
    dots<QV>(
        s.qs, keys, last - first, a.D, logits,
        [&](int64_t n, int v) ALWAYS_INLINE { return load(bias.keys[first + n] + j + v * VL); }, look);
}

template <int QV>
static void forward_tile(const Attention& a, Workspace& s, const BiasReader& bias, void* out, const Tile& tile) {
  constexpr int TQ = QV * VL;
  const int64_t b = tile.b, m = tile.m, i = tile.i, j = tile.j;
  const int64_t K = a.K(), P = a.P(), D = a.D, count = std::min<int64_t>(TQ, a.W - j);
  float* logits = s.logits + K * TQ;
  load_queries<QV>(a, s, tile);
  window_logits<QV>(a, s, tile);
  RunningSoftmax<QV> softmax;
  vf factor[QV], of_window[QV];
  softmax.look(s.logits, K);
  softmax.take(s.logits, K, factor);
  for (int v = 0; v < QV; ++v) of_window[v] = broadcast(1.0f);
  std::fill_n(s.out, D * TQ, 0.0f);
  for (int64_t first = 0; first < P; first += KEYS) {
    const int64_t last = std::min(P, first + KEYS);
    pool_logits<QV>(a, s, bias, j, first, last, logits, softmax);
    softmax.take(logits, last - first, factor);
    mix<QV>(logits, s.pool_v + first * D, last - first, D, s.out,
            [&](int64_t d, int v) ALWAYS_INLINE { return load(s.out + (d * QV + v) * VL) * factor[v]; });
    for (int v = 0; v < QV; ++v) of_window[v] = of_window[v] * factor[v];
  }
#pragma GCC unroll 2
  for (int v = 0; v < QV; ++v) {
    const vf inverse_sum = 1.0f / softmax.sum[v];
    for (int64_t d = 0; d < D; ++d) store(s.out + d * TQ + v * VL, load(s.out + d * TQ + v * VL) * inverse_sum);
    for (int64_t n = 0; n < K; ++n) {
      float *e = s.logits + n * TQ + v * VL, *w = s.token_weights + n * TQ + v * VL;
      store(w, load(w) + load(e) * (of_window[v] * inverse_sum));
    }
  }
  window_mix<QV>(a, s.token_weights, s.ring.v, s.ring, i, j, s.out);
  const int64_t pixel = a.M * D;
  store_transposed(a.dtype, s.out, TQ, count, D, out, ((b * a.H + i) * a.W + j) * pixel + m * D, pixel);
}

// Runs `tile(j, vectors)` over a row: tiles of two vectors, and a last one of one vector where that is enough.
template <class Two, class One>
INLINE void for_tiles(int64_t W, const Two& two, const One& one) {
  int64_t j = 0;
  for (; W - j > VL; j += 2 * VL) two(j);
  if (j < W) one(j);
}

static void attention_forward(const Attention& a, void* out, int64_t begin, int64_t end) {
  Workspace s;
  s.lay_out(a, scratch(s.lay_out(a, nullptr)));
  const int64_t r = a.window / 2;
  for (int64_t unit = begin; unit < end;) {
    const int64_t m = unit / a.H % a.M, b = unit / a.H / a.M, first = unit % a.H;
    const int64_t last = std::min(a.H, first + end - unit);
    load_pool(a, b, m, s.pool_k, s.pool_v);
    for (int64_t y = first - r; y < first + r; ++y) load_ring_row(a, s.ring, b, m, y);
    BiasReader bias{a, a.table.data() + m * a.rows.entries * a.row_length, s.blended, s.bias_keys};
    for (int64_t i = first; i < last; ++i) {
      load_ring_row(a, s.ring, b, m, i + r);
      bias.start_row(i);
      fill_scale(a, m, i, s.scale);
      for_tiles(
          a.W, [&](int64_t j) { forward_tile<2>(a, s, bias, out, {b, m, i, j}); },
          [&](int64_t j) { forward_tile<1>(a, s, bias, out, {b, m, i, j}); });
    }
    unit += last - first;
  }
}

}  // namespace transnext::ISA
