// Matrix products of channels-last rows with packed weights: C[T, N] = A[T, K] B[K, N].
//
// Weights come as panels `[ceil(N / PANEL), K, PANEL]`, zero-padded, so that the inner loop reads them in order. One
// tile of C, ROWS x PANEL, is kept in registers over a block of K; the panel's block stays in the first-level cache
// while all rows of A pass by.
#pragma once

#include "vec.h"

namespace transnext::ISA {

constexpr int PANEL = 2 * VL;
constexpr int ROWS = VL == 16 ? 12 : (VL == 8 ? 6 : 4);
constexpr int64_t K_BLOCK = 384;  // a panel's block: 24 KB with 8 lanes

INLINE int64_t panels_of(int64_t N) { return (N + PANEL - 1) / PANEL; }

// What becomes of a product: GELU on the columns from `gelu_from` on, then `residual` is added.
struct Product {
  float* out;  // [T, N], row stride `ld`
  int64_t ld, N;
  const float* residual;  // as `out`, or null
  int64_t gelu_from;      // N for none
};

// Does `rounds` times 8 independent multiply-adds of whole vectors, nothing else: what the processor can do at most.
static double multiply_adds(int64_t rounds) {
  vf acc[8], total{};
  for (int n = 0; n < 8; ++n) acc[n] = broadcast(static_cast<float>(n));  // each its own, or one would do for all
  const vf x = broadcast(0.999f), y = broadcast(0.001f);
  for (int64_t i = 0; i < rounds; ++i)
#pragma GCC unroll 8
    for (int n = 0; n < 8; ++n) acc[n] = acc[n] * x + y;
  for (int n = 0; n < 8; ++n) total += acc[n];
  return sum_lanes(total) > 0 ? static_cast<double>(rounds) * 8 * VL : 0;
}

// The last columns of a product, where a panel is padded, or where GELU begins within a panel.
static void finish_columns(const Product& c, const float* tile, int64_t rows, int64_t row, int64_t column) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t l = 0; l < PANEL && column + l < c.N; ++l) {
      float value = tile[r * PANEL + l];
      if (column + l >= c.gelu_from) value = gelu(broadcast(value))[0];
      const int64_t place = (row + r) * c.ld + column + l;
      c.out[place] = c.residual ? value + c.residual[place] : value;
    }
}

// One tile over `depth` rows of the panel. `partial` keeps the tile between blocks of K: the first starts from the
// bias.
template <int R>
static void gemm_tile(const float* a, int64_t lda, const float* panel, int64_t depth, const float* bias, float* partial,
                      bool first, bool last, const Product& c, int64_t row, int64_t column) {
  vf acc[R][2];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    acc[r][0] = load(first ? bias : partial + r * PANEL);
    acc[r][1] = load((first ? bias : partial + r * PANEL) + VL);
  }
  float* out = c.out + row * c.ld + column;
  if (last)
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) __builtin_prefetch(out + r * c.ld, 1);
  for (int64_t k = 0; k < depth; ++k) {
    const vf b0 = load(panel + k * PANEL), b1 = load(panel + k * PANEL + VL);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const vf x = broadcast(a[r * lda + k]);
      acc[r][0] += x * b0;
      acc[r][1] += x * b1;
    }
  }
  const bool whole = column + PANEL <= c.N && (c.gelu_from <= column || c.gelu_from >= column + PANEL);
  if (!last || !whole) {
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      store(partial + r * PANEL, acc[r][0]);
      store(partial + r * PANEL + VL, acc[r][1]);
    }
    if (last) finish_columns(c, partial, R, row, column);
    return;
  }
  if (c.residual) {
    const float* residual = c.residual + row * c.ld + column;
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      acc[r][0] += load(residual + r * c.ld);
      acc[r][1] += load(residual + r * c.ld + VL);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    store(out + r * c.ld, acc[r][0]);
    store(out + r * c.ld + VL, acc[r][1]);
  }
  if (c.gelu_from <= column)
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < 2; ++v) store(out + r * c.ld + v * VL, gelu(load(out + r * c.ld + v * VL)));
}

template <int R>
struct TileOfRows {
  template <class... Args>
  static void run(int64_t rows, const Args&... args) {
    if (rows == R)
      gemm_tile<R>(args...);
    else
      TileOfRows<R - 1>::run(rows, args...);
  }
};
template <>
struct TileOfRows<0> {
  template <class... Args>
  static void run(int64_t, const Args&...) {}
};

// `bias` has a whole number of panels of entries; `scratch` holds round_up(T, ROWS) * PANEL floats.
// GELU and residual are not wanted together anywhere, and are not combined here.
static void gemm(const float* a, int64_t lda, int64_t T, int64_t K, const float* panels, const float* bias,
                 float* scratch, const Product& c) {
  const int64_t blocks = std::max<int64_t>(1, (K + K_BLOCK - 1) / K_BLOCK), block = (K + blocks - 1) / blocks;
  for (int64_t n = 0; n < panels_of(c.N); ++n)
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t k = b * block, depth = std::min(block, K - k);
      const float* panel = panels + (n * K + k) * PANEL;
      for (int64_t t = 0; t < T; t += ROWS)
        TileOfRows<ROWS>::run(std::min<int64_t>(ROWS, T - t), a + t * lda + k, lda, panel, depth, bias + n * PANEL,
                              scratch + t * PANEL, b == 0, b == blocks - 1, c, t, n * PANEL);
    }
}

}  // namespace transnext::ISA
