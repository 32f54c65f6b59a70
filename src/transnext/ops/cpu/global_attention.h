// Attention of every pixel to every pixel. Lanes are queries, consecutive in the image; keys come in blocks, and what
// is known of the softmax, its largest logit and its sum, goes from block to block. A thread needs the keys and values
// of an image and head, and the logits of one tile of queries and one block of keys.
#pragma once

#include "global_bias.h"
#include "softmax.h"
#include "tiles.h"

namespace transnext::ISA {

// Calls `use(n, pixel, run)` for pixels [first, first + count): `run` of them from `pixel` on, n-th of those asked for.
template <class Use>
INLINE void for_runs(const GlobalAttention& a, const Map& map, int64_t b, int64_t m, int64_t first, int64_t count,
                     const Use& use) {
  const float* image = static_cast<const float*>(map.data) + b * map.b + m * map.m;
  const bool even = map.y == a.W * map.x;  // rows follow one another
  for (int64_t n = first; n < first + count;) {
    const int64_t y = n / a.W, x = n % a.W, left = first + count - n, run = even ? left : std::min(left, a.W - x);
    use(n - first, image + y * map.y + x * map.x, run);
    n += run;
  }
}

// Pixels of a map, transposed: `[D][ld]`.
static void load_pixels(const GlobalAttention& a, const Map& map, int64_t b, int64_t m, int64_t first, int64_t count,
                        float* to, int64_t ld) {
  for_runs(a, map, b, m, first, count,
           [&](int64_t n, const float* from, int64_t run) { load_transposed(from, map.x, run, a.D, to + n, ld); });
}

struct GlobalWorkspace {
  float *k, *v;                    // [N][D], keys normalised
  float *qn, *qs, *out;            // [D][TQ]
  float* logits;                   // [KEYS][TQ]
  float *inverse_length, *length;  // [TQ]
  float* columns;                  // of GlobalBias

  static constexpr int TQ = 2 * VL;

  // Lays the parts out from `base` on; with a null base, only counts. Returns the floats used.
  int64_t lay_out(const GlobalAttention& a, float* base) {
    int64_t used = 0;
    const auto take = [&](int64_t n) {
      float* part = base ? base + used : nullptr;
      used += round_up(n, 16);
      return part;
    };
    k = take(a.N() * a.D);
    v = take(a.N() * a.D);
    qn = take(a.D * TQ);
    qs = take(a.D * TQ);
    out = take(a.D * TQ);
    logits = take(KEYS * TQ + VL);
    inverse_length = take(TQ);
    length = take(TQ);
    columns = take(GlobalBias::columns_floats(a));
    return used;
  }

  void load_keys(const GlobalAttention& a, int64_t b, int64_t m) {
    for (int64_t n = 0; n < a.N(); n += TQ) {
      const int64_t count = std::min<int64_t>(TQ, a.N() - n);
      if (count < TQ) std::fill_n(qn, a.D * TQ, 0.0f);
      load_pixels(a, a.k, b, m, n, count, qn, TQ);
      normalise_columns(qn, TQ, TQ, a.D);
      store_transposed(qn, TQ, count, a.D, k + n * a.D, a.D);
    }
    for_runs(a, a.v, b, m, 0, a.N(), [&](int64_t n, const float* from, int64_t run) {
      for (int64_t i = 0; i < run; ++i) std::copy_n(from + i * a.v.x, a.D, v + (n + i) * a.D);
    });
  }

  // Queries of a tile, normalised and as they meet keys. Lanes beyond the tile are zeros before they are scaled.
  template <int QV>
  void load_queries(const GlobalAttention& a, int64_t b, int64_t m, const PixelTile& tile) {
    constexpr int LANES = QV * VL;
    if (tile.count < LANES) std::fill_n(qn, a.D * LANES, 0.0f);
    load_pixels(a, a.q, b, m, tile.first, tile.count, qn, LANES);
    for (int v = 0; v < QV; ++v) {
      const vf size = column_length(qn + v * VL, LANES, a.D), inverse = ISA::inverse_length(size);
      store(length + v * VL, size);
      store(inverse_length + v * VL, inverse);
      for (int64_t d = 0; d < a.D; ++d) {
        float *unit = qn + d * LANES + v * VL, *scaled = qs + d * LANES + v * VL;
        store(unit, load(unit) * inverse);
        store(scaled, (load(unit) + a.query_embedding[m * a.D + d]) * a.scale[m]);
      }
    }
  }

  // Logits of a tile and keys [first, last); `largest` as in `dots`.
  template <int QV, class Largest>
  void fill_logits(const GlobalAttention& a, const GlobalBias& bias, const PixelTile& tile, int64_t first, int64_t last,
                   const Largest& largest) {
    bias.fill<QV>(tile, first, last, logits);
    dots<QV>(
        qs, k + first * a.D, last - first, a.D, logits,
        [&](int64_t n, int v) ALWAYS_INLINE { return load(logits + (n * QV + v) * VL); }, largest);
  }
};

template <int QV>
static void global_tile(const GlobalAttention& a, GlobalWorkspace& s, const GlobalBias& bias, float* out, int64_t b,
                        int64_t m, const PixelTile& tile) {
  constexpr int TQ = QV * VL;
  const int64_t N = a.N(), D = a.D;
  s.load_queries<QV>(a, b, m, tile);
  std::fill_n(s.out, D * TQ, 0.0f);
  RunningSoftmax<QV> softmax;
  for (int64_t first = 0; first < N; first += KEYS) {
    const int64_t last = std::min(N, first + KEYS);
    s.fill_logits<QV>(a, bias, tile, first, last, [&](int v, vf largest) ALWAYS_INLINE { softmax.look(v, largest); });
    vf factor[QV];
    softmax.take(s.logits, last - first, factor);
    mix<QV>(s.logits, s.v + first * D, last - first, D, s.out,
            [&](int64_t d, int v) ALWAYS_INLINE { return load(s.out + (d * QV + v) * VL) * factor[v]; });
  }
  float shift[TQ], inverse_sum[TQ];
  for (int v = 0; v < QV; ++v) {
    const vf inverse = 1.0f / softmax.sum[v];
    store(shift + v * VL, softmax.shift[v]);
    store(inverse_sum + v * VL, inverse);
    for (int64_t d = 0; d < D; ++d) {
      float* lanes = s.out + (d * QV + v) * VL;
      store(lanes, load(lanes) * inverse);
    }
  }
  float* statistics = a.statistics + (m * a.B + b) * N + tile.first;
  std::copy_n(shift, tile.count, statistics);
  std::copy_n(inverse_sum, tile.count, statistics + a.M * a.B * N);
  const int64_t pixel = a.M * D;
  store_transposed(s.out, TQ, tile.count, D, out + (b * N + tile.first) * pixel + m * D, pixel);
}

// Calls `two` and `one` with the tiles of pixels [first, last): two vectors each, and a last one of one where that is
// enough.
template <class Two, class One>
INLINE void for_pixel_tiles(const GlobalAttention& a, int64_t first, int64_t last, const Two& two, const One& one) {
  for (int64_t n = first; n < last; n += 2 * VL) {
    const int64_t count = std::min<int64_t>(2 * VL, last - n);
    const PixelTile tile(a, n, count);
    if (count > VL)
      two(tile);
    else
      one(tile);
  }
}

static void global_attention(const GlobalAttention& a, float* out, int64_t begin, int64_t end) {
  GlobalWorkspace s;
  s.lay_out(a, scratch(s.lay_out(a, nullptr)));
  GlobalBias bias{a, s.columns};
  const int64_t N = a.N();
  int64_t head = -1;
  for (int64_t unit = begin; unit < end;) {
    const int64_t b = unit / N % a.B, m = unit / N / a.B, first = unit % N, last = std::min(N, first + end - unit);
    if (m != head) bias.start_head(head = m);
    s.load_keys(a, b, m);
    for_pixel_tiles(
        a, first, last, [&](const PixelTile& tile) { global_tile<2>(a, s, bias, out, b, m, tile); },
        [&](const PixelTile& tile) { global_tile<1>(a, s, bias, out, b, m, tile); });
    unit += last - first;
  }
}

}  // namespace transnext::ISA
