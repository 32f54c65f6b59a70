// The convolutional GLU of a small map by channels instead of rows. A thread that has a few rows would compute those of
// its neighbours, too, and read all weights; channels have no neighbours, and each thread reads its own weights.
#pragma once

#include "products.h"

namespace transnext::ISA {

// gate(fc1(norm(x))) of all pixels, for panels [begin, end) of its channels, which must be whole. Of floats.
static void conv_glu_gated(const ConvGlu& g, int64_t begin, int64_t end) {
  const int64_t C = g.C, F = g.F, W = g.W, pixels = g.B * g.H * W;
  const int64_t most = std::max<int64_t>(1, STRIP_FLOATS / 2 / (2 * PANEL * pixels));  // panels at a time
  float* normed = scratch(pixels * C + round_up(pixels, ROWS) * PANEL + 2 * pixels * most * PANEL + 9 * most * PANEL);
  float* partial = normed + pixels * C;
  float* hidden = partial + round_up(pixels, ROWS) * PANEL;
  float* weight = hidden + 2 * pixels * most * PANEL;
  std::copy_n(static_cast<const float*>(g.x), pixels * C, normed);
  for (int64_t t = 0; t < pixels; ++t) norm_row(normed + t * C, g.norm_weight, g.norm_bias, g.eps, C);
  for (int64_t panel = begin; panel < end; panel += most) {
    const int64_t panels = std::min(most, end - panel), first = panel * PANEL, count = panels * PANEL, step = 2 * count;
    for (int64_t half = 0; half < 2; ++half) {  // what is convolved, and the gates
      const int64_t from = half * F + first;
      gemm(normed, C, pixels, C, g.panels_in + from * C, g.bias_in + from, partial,
           Product{hidden + half * count, step, count, nullptr, count});
    }
    for (int64_t t = 0; t < 9; ++t) std::copy_n(g.weight + t * F + first, count, weight + t * count);
    for (int64_t row = 0; row < g.B * g.H; ++row) {
      const int64_t y = row % g.H;
      WindowRows around;
      around.step = step;
      for (int64_t dy = -1; dy <= 1; ++dy)
        around.row[dy + 1] = y + dy < 0 || y + dy >= g.H ? nullptr : hidden + (row + dy) * W * step;
      gate_row(weight, g.bias + first, W, count, around, hidden + row * W * step + count, step,
               g.gated + row * W * F + first, F);
    }
  }
}

}  // namespace transnext::ISA
