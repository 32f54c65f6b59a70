// What a block's products are made of: floats (gemm.h, outer.h) or bfloat16 numbers (`Products16`). Blocks that run in
// one pass are written once, for either.
#pragma once

#include "gemm.h"
#include "outer.h"

namespace transnext::ISA {

INLINE const void* element(Dtype dtype, const void* data, int64_t i) {
  return static_cast<const char*>(data) + i * (dtype == Dtype::Float ? 4 : 2);
}
INLINE void* element(Dtype dtype, void* data, int64_t i) {
  return static_cast<char*>(data) + i * (dtype == Dtype::Float ? 4 : 2);
}

// What becomes of a product, as in NormLinear; rows lie side by side.
struct Outcome {
  Dtype dtype;
  void* out;  // [rows, N]
  int64_t N;
  const void* residual;  // [rows, N], or null
  int64_t gelu_from;     // N for none
};
INLINE Outcome sums_alone(Dtype dtype, void* out, int64_t N) { return {dtype, out, N, nullptr, N}; }

// Scratch is counted in floats: of products of up to `rows` rows of K channels, where maps have another dtype than
// Float with results of N.
struct FloatFactors {
  static constexpr int64_t STEP = ROWS;  // whole tiles of rows
  float* base;

  FloatFactors(const Products16*, float* base) : base(base) {}
  static int64_t scratch_floats(const Products16*, Dtype dtype, int64_t rows, int64_t K, int64_t N) {
    return round_up(rows, ROWS) * PANEL + (dtype == Dtype::Float ? 0 : rows * (K + N));
  }

  void multiply(const Rows& left, int64_t rows, int64_t K, const void* panels, const float* bias,
                const Outcome& c) const {
    // Other dtypes go through scratch, before and after.
    float* wide = base + round_up(rows, ROWS) * PANEL;
    const float* source = static_cast<const float*>(left.data);
    int64_t step = left.step;
    if (left.dtype != Dtype::Float) {
      widen_rows(left.dtype, left.data, 0, step, rows, K, wide);
      source = wide, step = K;
      wide += rows * K;
    }
    const bool direct = c.dtype == Dtype::Float;
    if (!direct && c.residual) widen_rows(c.dtype, c.residual, 0, 0, 1, rows * c.N, wide);
    const float* residual = direct || !c.residual ? static_cast<const float*>(c.residual) : wide;
    float* out = direct ? static_cast<float*>(c.out) : wide;
    gemm(source, step, rows, K, static_cast<const float*>(panels), bias, base,
         Product{out, c.N, c.N, residual, c.gelu_from});
    if (!direct) narrow_rows(c.dtype, wide, 1, rows * c.N, c.out, 0, 0);
  }

  // Sums of outer products.
  static constexpr int64_t WIDTH = PANEL;
  static int64_t panel_floats(const Products16*, int64_t M) { return outer_floats(M, 1); }
  static int64_t outer_work(const Products16*, int64_t M) { return outer_scratch(M); }
  static void add(const OuterProduct& p, int64_t begin, int64_t end, float* totals, float* work) {
    add_outer(p, begin, end, totals, work);
  }
};

struct BFloat16Factors {
  static constexpr int64_t STEP = 96;  // whole tiles of 12 and of 32 rows
  const Products16& products;
  float* base;

  BFloat16Factors(const Products16* products, float* base) : products(*products), base(base) {}
  static int64_t left_floats(const Products16* products, int64_t rows, int64_t K) {
    return round_up(rows, ROWS_16) * round_up(round_up(K, products->depth), 32) / 2;
  }
  static int64_t scratch_floats(const Products16* products, Dtype, int64_t rows, int64_t K, int64_t) {
    return left_floats(products, rows, K) + round_up(rows, ROWS_16) * PANEL_16;
  }

  void multiply(const Rows& left, int64_t rows, int64_t K, const void* panels, const float* bias,
                const Outcome& c) const {
    uint16_t* rounded = reinterpret_cast<uint16_t*>(base);
    products.round_rows(left, rows, K, rounded);
    products.multiply({rows, round_up(K, products.depth), c.N, rounded, static_cast<const uint16_t*>(panels), bias,
                       base + left_floats(&products, rows, K), c.dtype, c.residual, c.out, c.gelu_from});
  }

  static constexpr int64_t WIDTH = PANEL_16;
  static int64_t panel_floats(const Products16* products, int64_t M) {
    return round_up(M, products->outer_rows) * PANEL_16;
  }
  static int64_t outer_work(const Products16* products, int64_t M) { return products->outer_scratch(M); }
  static void add(const OuterProduct& p, int64_t begin, int64_t end, float* totals, float* work) {
    p.products16->add_outer({p.rows, p.M, p.N, p.left, p.right, p.left_sums, p.right_sums}, begin, end, totals, work);
  }
};

template <class Factors>
INLINE int64_t panels_in(int64_t N) {
  return (N + Factors::WIDTH - 1) / Factors::WIDTH;
}

template <class Factors>
static void write_outer(const OuterProduct& p, int64_t begin, int64_t end, const float* totals) {
  constexpr int64_t WIDTH = Factors::WIDTH;
  for (int64_t panel = begin; panel < end; ++panel) {
    const float* total = totals + (panel - begin) * Factors::panel_floats(p.products16, p.M);
    const int64_t n = panel * WIDTH, columns = std::min<int64_t>(WIDTH, p.N - n);
    if (p.transposed)
      store_transposed(total, WIDTH, columns, p.M, p.out + n * p.M, p.M);
    else
      for (int64_t m = 0; m < p.M; ++m) std::copy_n(total + m * WIDTH, columns, p.out + m * p.N + n);
  }
}

template <class Factors>
static void outer_product_of(const OuterProduct& p, int64_t begin, int64_t end) {
  const int64_t floats = Factors::panel_floats(p.products16, p.M) * (end - begin);
  float* totals = scratch(round_up(floats, 16) + Factors::outer_work(p.products16, p.M));
  std::fill_n(totals, floats, 0.0f);
  Factors::add(p, begin, end, totals, totals + round_up(floats, 16));
  write_outer<Factors>(p, begin, end, totals);
}

// out[m, n] = sum over rows t of left[t, m] right[t, n], for panels [begin, end) of n. No panel is shared between
// workers, so the result does not depend on how many there are.
static void outer_product(const OuterProduct& p, int64_t begin, int64_t end) {
  p.products16 ? outer_product_of<BFloat16Factors>(p, begin, end) : outer_product_of<FloatFactors>(p, begin, end);
}

}  // namespace transnext::ISA
