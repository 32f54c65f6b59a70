// LayerNorm, product, activation and residual sum of inference in one pass over strips of rows that stay in the
// second-level cache: nothing that lies between is written to memory.
#pragma once

#include "factors.h"
#include "gate.h"

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

template <class Factors>
static void norm_linear_of(const NormLinear& n, int64_t begin, int64_t end) {
  const int64_t strip = std::max(Factors::STEP, STRIP_FLOATS / 2 / (n.K + PANEL) / Factors::STEP * Factors::STEP);
  const int64_t normed = n.norm_weight ? round_up(strip * n.K, 16) : 0;
  float* a = scratch(normed + Factors::scratch_floats(n.products16, n.dtype, strip, n.K, n.N));
  const Factors factors(n.products16, a + normed);
  for (int64_t first = begin; first < end; first += strip) {
    const int64_t count = std::min(strip, end - first), place = first * n.N;
    Rows rows{n.dtype, element(n.dtype, n.x, first * n.x_row), n.x_row};
    if (n.norm_weight) {
      widen_rows(n.dtype, n.x, first * n.x_row, n.x_row, count, n.K, a);
      for (int64_t t = 0; t < count; ++t) norm_row(a + t * n.K, n.norm_weight, n.norm_bias, n.eps, n.K);
      rows = {Dtype::Float, a, n.K};
    }
    factors.multiply(rows, count, n.K, n.panels, n.bias,
                     {n.dtype, element(n.dtype, n.out, place), n.N,
                      n.residual ? element(n.dtype, n.residual, place) : nullptr, n.gelu_from});
  }
}

static void norm_linear(const NormLinear& n, int64_t begin, int64_t end) {
  n.products16 ? norm_linear_of<BFloat16Factors>(n, begin, end) : norm_linear_of<FloatFactors>(n, begin, end);
}

// x + fc2(gate(fc1(norm(x)))) for rows of (b, y). Hidden rows are kept in a window that slides down the map: the two
// last rows of a strip are the first of the next.
template <class Factors>
static void conv_glu_of(const ConvGlu& g, int64_t begin, int64_t end) {
  const int64_t C = g.C, F = g.F, W = g.W, hidden = 2 * F;
  const int64_t strip = std::min(g.H, std::max((MIN_STRIP_PIXELS + W - 1) / W, STRIP_FLOATS / (W * hidden)));
  // Rows y0 - 1 .. y0 + strip of hidden channels, the normed input, gated rows, and what the products keep.
  const int64_t rows_floats = (strip + 2) * W * hidden, normed_floats = (strip + 2) * W * C, most = (strip + 2) * W;
  const int64_t before = round_up(rows_floats + normed_floats + strip * W * F, 16);
  float* rows = scratch(before + Factors::scratch_floats(g.products16, g.dtype, most, std::max(C, F), C));
  float* normed = rows + rows_floats;
  float* gated = normed + normed_floats;
  const Factors factors(g.products16, rows + before);
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
      factors.multiply({Dtype::Float, normed, C}, pixels, C, g.panels_in, g.bias_in,
                       sums_alone(Dtype::Float, to, hidden));
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
      factors.multiply({Dtype::Float, gated, F}, count * W, F, g.panels_out, g.bias_out,
                       {g.dtype, element(g.dtype, g.out, place), C, element(g.dtype, g.x, place), C});
      std::copy_n(rows + count * W * hidden, 2 * W * hidden, rows);
    }
    unit += bottom - top;
  }
}

static void conv_glu(const ConvGlu& g, int64_t begin, int64_t end) {
  g.products16 ? conv_glu_of<BFloat16Factors>(g, begin, end) : conv_glu_of<FloatFactors>(g, begin, end);
}

}  // namespace transnext::ISA
