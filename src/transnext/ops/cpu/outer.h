// What training needs of a Linear besides the product: weights packed anew at each step, and the gradient of the
// weights.
#pragma once

#include "gemm.h"
#include "transpose.h"

namespace transnext::ISA {

// Panels [begin, end) of `[ceil(N / PANEL), K, PANEL]`, zero-padded, from elements `k * k_step + n * n_step`.
static void pack_panels(const PackPanels& p, int64_t begin, int64_t end) {
  for (int64_t panel = begin; panel < end; ++panel) {
    float* to = p.panels + panel * p.K * PANEL;
    const int64_t first = panel * PANEL, count = std::min<int64_t>(PANEL, p.N - first);
    if (count < PANEL) std::fill_n(to, p.K * PANEL, 0.0f);
    if (p.n_step == 1) {
      for (int64_t k = 0; k < p.K; ++k) std::copy_n(p.weight + k * p.k_step + first, count, to + k * PANEL);
      continue;
    }
    if (p.k_step == 1) {
      constexpr int64_t BLOCK = 64;  // of a panel at a time: 4 KB with 8 lanes, which stay in the first-level cache
      for (int64_t k = 0; k < p.K; k += BLOCK)
        load_transposed(p.weight + first * p.n_step + k, p.n_step, count, std::min(BLOCK, p.K - k), to + k * PANEL,
                        PANEL);
      continue;
    }
    for (int64_t n = 0; n < count; ++n)
      for (int64_t k = 0; k < p.K; ++k) to[k * PANEL + n] = p.weight[(first + n) * p.n_step + k * p.k_step];
  }
}

// Rows whose products are summed in registers before they are added to the rest: long sums are sums of sums.
constexpr int64_t OUTER_BLOCK = 256;

// Adds the outer products of `count` rows of a tile's columns of `left` and of a panel of `right` to `total`, ROWS x
// PANEL.
static void outer_tile(const float* left, const float* right, int64_t count, float* total) {
  vf acc[ROWS][2] = {};
  for (int64_t t = 0; t < count; ++t) {
    const vf b0 = load(right + t * PANEL), b1 = load(right + t * PANEL + VL);
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r) {
      const vf x = broadcast(left[t * ROWS + r]);
      acc[r][0] += x * b0;
      acc[r][1] += x * b1;
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < ROWS; ++r) {
    store(total + r * PANEL, load(total + r * PANEL) + acc[r][0]);
    store(total + r * PANEL + VL, load(total + r * PANEL + VL) + acc[r][1]);
  }
}

// `rows` rows of `count` neighbouring columns, side by side in rows of WIDTH, the rest zeros; their sums are added to
// `sums`. Where a whole vector can be read it is, even if it is wider than WIDTH: what it writes too much, the next row
// overwrites. After the last row that is up to VL floats.
template <int WIDTH>
static void take_columns(const float* from, int64_t step, int64_t rows, int64_t count, bool readable, float* to,
                         float* sums) {
  constexpr int VECTORS = (WIDTH + VL - 1) / VL;
  if (readable) {
    vf block[VECTORS] = {};
    for (int64_t t = 0; t < rows; ++t)
      for (int v = 0; v < VECTORS; ++v) {
        const vf x = load(from + t * step + v * VL);
        store(to + t * WIDTH + v * VL, x);
        block[v] += x;
      }
    if (sums)
      for (int64_t c = 0; c < WIDTH; ++c) sums[c] += block[c / VL][c % VL];
    return;
  }
  float block[WIDTH] = {};
  for (int64_t t = 0; t < rows; ++t)
    for (int64_t c = 0; c < WIDTH; ++c) {
      const float x = c < count ? from[t * step + c] : 0;
      to[t * WIDTH + c] = x;
      block[c] += x;
    }
  if (sums)
    for (int64_t c = 0; c < count; ++c) sums[c] += block[c];
}

INLINE int64_t tiles_of(int64_t M) { return (M + ROWS - 1) / ROWS; }
INLINE int64_t outer_floats(int64_t M, int64_t panels) { return panels * tiles_of(M) * ROWS * PANEL; }
INLINE int64_t outer_scratch(int64_t M) { return OUTER_BLOCK * (tiles_of(M) * ROWS + PANEL) + VL; }

// Adds the outer products of rows of floats of `left` and of panels [begin, end) of `right` to `totals`,
// [panel][tile][ROWS][PANEL].
static void add_outer(const OuterProduct& p, int64_t begin, int64_t end, float* totals, float* work) {
  const int64_t tiles = tiles_of(p.M);
  float *right = work, *left = right + OUTER_BLOCK * PANEL;
  const float *from = static_cast<const float*>(p.left.data), *other = static_cast<const float*>(p.right.data);
  for (int64_t first = 0; first < p.rows; first += OUTER_BLOCK) {
    const int64_t count = std::min(OUTER_BLOCK, p.rows - first);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t m = tile * ROWS;
      take_columns<ROWS>(from + first * p.left.step + m, p.left.step, count, std::min<int64_t>(ROWS, p.M - m),
                         m + VL <= p.M, left + tile * OUTER_BLOCK * ROWS,
                         p.left_sums && begin == 0 ? p.left_sums + m : nullptr);
    }
    for (int64_t panel = begin; panel < end; ++panel) {
      const int64_t n = panel * PANEL;
      take_columns<PANEL>(other + first * p.right.step + n, p.right.step, count, std::min<int64_t>(PANEL, p.N - n),
                          n + PANEL <= p.N, right, p.right_sums ? p.right_sums + n : nullptr);
      float* total = totals + (panel - begin) * tiles * ROWS * PANEL;
      for (int64_t tile = 0; tile < tiles; ++tile)
        outer_tile(left + tile * OUTER_BLOCK * ROWS, right, count, total + tile * ROWS * PANEL);
    }
  }
}

}  // namespace transnext::ISA
