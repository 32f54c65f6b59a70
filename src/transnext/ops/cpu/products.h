// LayerNorm, product, activation and residual sum of inference in one pass over strips of rows that stay in the
// second-level cache: nothing that lies between is written to memory.
#pragma once

#include "gate.h"
#include "gemm.h"

namespace transnext::ISA {

// Hidden floats in a strip: 512 KB, about the second-level cache. Measured to be flat from half to twice that.
constexpr int64_t STRIP_FLOATS = 128 * 1024;
constexpr int64_t MIN_STRIP_PIXELS = 48;  // fewer would read the weights too often

// Normalises a row of `K` floats in place, unless `weight` is null.
static void norm_row(float* x, const float* weight, const float* bias, float eps, int64_t K) {
  if (!weight) return;
  // The mean first, then the squares of what is left: their difference alone would lose what is small.
  const auto sum_of = [&](auto&& each) {
    vf lanes{};
    float rest = 0;
    for_channels(
        K, [&](int64_t c) { lanes += each(load(x + c)); }, [&](int64_t c) { rest += each(first_lane(x[c]))[0]; });
    return sum_lanes(lanes) + rest;
  };
  const float mean = sum_of([](vf v) { return v; }) / K;
  const float variance = sum_of([mean](vf v) { return (v - mean) * (v - mean); }) / K;
  const float scale = 1 / __builtin_sqrtf(variance + eps);
  for_channels(
      K, [&](int64_t c) { store(x + c, (load(x + c) - mean) * scale * load(weight + c) + load(bias + c)); },
      [&](int64_t c) { x[c] = (x[c] - mean) * scale * weight[c] + bias[c]; });
}

// Rows of a residual sum as floats, and where their results go: in place if the tensors are floats, through scratch if
// not.
struct ResidualRows {
  Dtype dtype;
  const void* residual;
  void* out;
  float* scratch_rows;
  bool direct() const { return dtype == Dtype::Float; }
  const float* residual_of(int64_t offset, int64_t count) const {
    if (direct() || !residual) return residual ? static_cast<const float*>(residual) + offset : nullptr;
    widen_rows(dtype, residual, offset, 0, 1, count, scratch_rows);
    return scratch_rows;
  }
  float* out_of(int64_t offset) const { return direct() ? static_cast<float*>(out) + offset : scratch_rows; }
  void finish(int64_t offset, int64_t count) const {
    if (!direct()) narrow_rows(dtype, scratch_rows, 1, count, out, offset, 0);
  }
};

static void norm_linear(const NormLinear& n, int64_t begin, int64_t end) {
  const int64_t strip = std::max<int64_t>(ROWS, STRIP_FLOATS / 2 / (n.K + PANEL) / ROWS * ROWS);
  float* a = scratch(strip * (n.K + PANEL + n.N));
  float* partial = a + strip * n.K;
  const ResidualRows rows{n.dtype, n.residual, n.out, partial + strip * PANEL};
  for (int64_t first = begin; first < end; first += strip) {
    const int64_t count = std::min(strip, end - first), place = first * n.N;
    const bool as_they_are = n.dtype == Dtype::Float && !n.norm_weight;
    const float* source = as_they_are ? static_cast<const float*>(n.x) + first * n.x_row : a;
    if (!as_they_are) widen_rows(n.dtype, n.x, first * n.x_row, n.x_row, count, n.K, a);
    for (int64_t t = 0; t < count && !as_they_are; ++t) norm_row(a + t * n.K, n.norm_weight, n.norm_bias, n.eps, n.K);
    const float* residual = rows.residual_of(place, count * n.N);
    float* out = rows.out_of(place);
    gemm(source, as_they_are ? n.x_row : n.K, count, n.K, n.panels, n.bias, partial,
         Product{out, n.N, n.N, residual, n.gelu_from});
    rows.finish(place, count * n.N);
  }
}

// x + fc2(gate(fc1(norm(x)))) for rows of (b, y). Hidden rows are kept in a window that slides down the map: the two
// last rows of a strip are the first of the next.
static void conv_glu(const ConvGlu& g, int64_t begin, int64_t end) {
  const int64_t C = g.C, F = g.F, W = g.W, hidden = 2 * F;
  const int64_t strip = std::min(g.H, std::max((MIN_STRIP_PIXELS + W - 1) / W, STRIP_FLOATS / (W * hidden)));
  // Rows y0 - 1 .. y0 + strip of hidden channels, the normed input, gated rows, and what the products keep.
  float* rows = scratch((strip + 2) * W * (hidden + C + PANEL) + strip * W * (F + C));
  float* normed = rows + (strip + 2) * W * hidden;
  float* gated = normed + (strip + 2) * W * C;
  float* partial = gated + strip * W * F;
  const ResidualRows result{g.dtype, g.x, g.out, partial + (strip + 2) * W * PANEL};
  for (int64_t unit = begin; unit < end;) {
    const int64_t b = unit / g.H, top = unit % g.H, bottom = std::min(g.H, top + end - unit);
    // Hidden rows [from, until) of the map, to their places in the window that starts at row `origin`.
    const auto expand = [&](int64_t from, int64_t until, int64_t origin) {
      from = std::max<int64_t>(from, 0);
      until = std::min(until, g.H);
      if (from >= until) return;
      const int64_t pixels = (until - from) * W;
      widen_rows(g.dtype, g.x, (b * g.H + from) * W * C, C, pixels, C, normed);
      for (int64_t t = 0; t < pixels; ++t) norm_row(normed + t * C, g.norm_weight, g.norm_bias, g.eps, C);
      float* to = rows + (from - origin) * W * hidden;
      gemm(normed, C, pixels, C, g.panels_in, g.bias_in, partial, Product{to, hidden, hidden, nullptr, hidden});
    };
    expand(top - 1, top + 1, top - 1);
    for (int64_t y0 = top; y0 < bottom; y0 += strip) {
      const int64_t count = std::min(strip, bottom - y0), origin = y0 - 1;
      expand(y0 + 1, y0 + count + 1, origin);
      for (int64_t y = y0; y < y0 + count; ++y) {
        WindowRows around;
        around.step = hidden;
        for (int64_t dy = -1; dy <= 1; ++dy)
          around.row[dy + 1] = y + dy < 0 || y + dy >= g.H ? nullptr : rows + (y + dy - origin) * W * hidden;
        gate_row(g.weight, g.bias, W, F, around, rows + (y - origin) * W * hidden + F, hidden, gated + (y - y0) * W * F,
                 F);
      }
      const int64_t place = (b * g.H + y0) * W * C;
      const float* residual = result.residual_of(place, count * W * C);
      float* out = result.out_of(place);
      gemm(gated, F, count * W, F, g.panels_out, g.bias_out, partial, Product{out, C, C, residual, C});
      result.finish(place, count * W * C);
      std::copy_n(rows + count * W * hidden, 2 * W * hidden, rows);
    }
    unit += bottom - top;
  }
}

}  // namespace transnext::ISA
