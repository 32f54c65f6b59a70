// A convolutional GLU in training, image by image and strip by strip of rows: only hidden channels are kept for the
// backward pass, and what lies between the products and their gradients never leaves the cache.
#pragma once

#include "gate_backward.h"
#include "gemm.h"
#include "outer.h"

namespace transnext::ISA {

constexpr int64_t TRAINING_STRIP_PIXELS = 200;

struct GluStrips {
  const ConvGluTraining& t;
  int64_t rows;  // of a strip

  explicit GluStrips(const ConvGluTraining& t)
      : t(t), rows(std::min(t.H, std::max<int64_t>(1, TRAINING_STRIP_PIXELS / t.W))) {}

  float* hidden_row(int64_t b, int64_t y) const { return t.hidden + (b * t.H + y) * t.W * 2 * t.F; }
  WindowRows hidden_around(int64_t b, int64_t y) const {
    WindowRows around;
    around.step = 2 * t.F;
    for (int64_t dy = -1; dy <= 1; ++dy)
      around.row[dy + 1] = y + dy < 0 || y + dy >= t.H ? nullptr : hidden_row(b, y + dy);
    return around;
  }
};

static void conv_glu_training(const ConvGluTraining& t, int64_t begin, int64_t end) {
  const GluStrips strips(t);
  const int64_t W = t.W, C = t.C, F = t.F, most = (strips.rows + 1) * W;
  float* gated = scratch(most * (F + PANEL) + ROWS * PANEL);
  float* partial = gated + most * F;
  for (int64_t b = begin; b < end; ++b)
    for (int64_t y0 = 0, expanded = 0; y0 < t.H; y0 += strips.rows) {
      const int64_t y1 = std::min(t.H, y0 + strips.rows), until = std::min(t.H, y1 + 1);
      gemm(t.x + (b * t.H + expanded) * W * C, C, (until - expanded) * W, C, t.panels_in, t.bias_in, partial,
           Product{strips.hidden_row(b, expanded), 2 * F, 2 * F, nullptr, 2 * F});
      expanded = until;
      for (int64_t y = y0; y < y1; ++y)
        gate_row(t.weight, t.bias, W, F, strips.hidden_around(b, y), strips.hidden_row(b, y) + F, 2 * F,
                 gated + (y - y0) * W * F, F);
      gemm(gated, F, (y1 - y0) * W, F, t.panels_out, t.bias_out, partial,
           Product{t.out + (b * t.H + y0) * W * C, C, C, nullptr, C});
    }
}

// What a worker adds up over its images: gradients of both weights, as `add_outer` keeps them, then of the biases and
// of the depthwise kernel.
struct GluTotals {
  float *in, *out, *bias_in, *bias_out, *taps;
  GluTotals(const ConvGluTraining& t, float* base) {
    in = base;
    out = in + outer_floats(t.C, panels_of(2 * t.F));
    bias_in = out + outer_floats(t.C, panels_of(t.F));
    bias_out = bias_in + 2 * t.F;
    taps = bias_out + t.C;
  }
  static int64_t floats(const ConvGluTraining& t) {
    const GluTotals all(t, nullptr);
    return all.taps + 10 * t.F - all.in;
  }
};

static int64_t conv_glu_totals(const ConvGluTraining& t) { return GluTotals::floats(t); }

static void conv_glu_training_backward(const ConvGluTraining& t, int64_t worker, int64_t workers) {
  const GluStrips strips(t);
  const int64_t W = t.W, C = t.C, F = t.F, H = t.H, most = (strips.rows + 1) * W, ring = strips.rows + 2;
  const GluTotals totals(t, t.totals + worker * GluTotals::floats(t));
  float* grad_gated = scratch(most * (4 * F + PANEL) + ROWS * PANEL + ring * W * F + outer_scratch(C) + 10 * F +
                              round_up(C + 2 * F, 64));
  float* gated = grad_gated + most * F;
  float* grad_hidden = gated + most * F;
  float* dc = grad_hidden + most * 2 * F;
  float* partial = dc + ring * W * F;
  float* work = partial + most * PANEL + ROWS * PANEL;
  float* sums = work + outer_scratch(C);
  float* no_bias = sums + 10 * F;
  std::fill_n(no_bias, round_up(std::max(C, F), PANEL), 0.0f);
  Gate g{};
  g.B = t.B, g.H = H, g.W = W, g.F = g.all = F;
  g.weight = t.weight, g.bias = t.bias;
  const auto dc_row = [&](int64_t y) { return dc + y % ring * W * F; };

  for (int64_t b = t.B * worker / workers; b < t.B * (worker + 1) / workers; ++b)
    for (int64_t y0 = 0, known = 0; y0 < H; y0 += strips.rows) {
      const int64_t y1 = std::min(H, y0 + strips.rows), until = std::min(H, y1 + 1);
      const int64_t fresh = (b * H + known) * W, own = (b * H + y0) * W;  // pixels
      gemm(t.grad + fresh * C, C, (until - known) * W, C, t.panels_out, no_bias, partial,
           Product{grad_gated, F, F, nullptr, F});
      for (int64_t y = known; y < until; ++y) {
        const int64_t place = (y - known) * W * F;
        convolution_gradient<true>(g, strips.hidden_around(b, y), {strips.hidden_row(b, y) + F, 2 * F},
                                   {grad_gated + place, F}, {dc_row(y), F},
                                   {grad_hidden + (y - y0) * W * 2 * F + F, 2 * F}, {gated + place, F});
      }
      add_outer({(until - known) * W, C, F, t.grad + fresh * C, gated, C, F, totals.bias_out, nullptr, nullptr, false},
                0, panels_of(F), totals.out, work);
      known = until;
      for (int64_t y = y0; y < y1; ++y) {
        const WindowRows rows = strips.hidden_around(b, y);
        WindowRows around;
        around.step = F;
        for (int64_t dy = 0; dy < 3; ++dy) around.row[dy] = rows.row[dy] ? dc_row(y + dy - 1) : nullptr;
        std::fill_n(sums, 10 * F, 0.0f);
        InputGradient{g, rows, around, {grad_hidden + (y - y0) * W * 2 * F, 2 * F}, sums}.run();
        for (int64_t i = 0; i < 10 * F; ++i) totals.taps[i] += sums[i];
      }
      gemm(grad_hidden, 2 * F, (y1 - y0) * W, 2 * F, t.panels_in, no_bias, partial,
           Product{t.grad_x + own * C, C, C, nullptr, C});
      add_outer({(y1 - y0) * W, C, 2 * F, t.x + own * C, grad_hidden, C, 2 * F, nullptr, totals.bias_in, nullptr, true},
                0, panels_of(2 * F), totals.in, work);
      if (until > y1) std::copy_n(grad_hidden + (y1 - y0) * W * 2 * F, W * 2 * F, grad_hidden);
    }
}

// Writes panels [begin, end) of the gradients of the weights, those of the second after those of the first.
static void conv_glu_weights(const ConvGluTraining& t, int64_t begin, int64_t end) {
  const GluTotals totals(t, t.totals);
  const int64_t first = panels_of(2 * t.F);
  const OuterProduct in{0, t.C, 2 * t.F, nullptr, nullptr, 0, 0, nullptr, nullptr, t.grad_weight_in, true};
  const OuterProduct out{0, t.C, t.F, nullptr, nullptr, 0, 0, nullptr, nullptr, t.grad_weight_out, false};
  for (int64_t panel = begin; panel < end; ++panel)
    if (panel < first)
      write_outer(in, panel, panel + 1, totals.in + panel * outer_floats(t.C, 1));
    else
      write_outer(out, panel - first, panel - first + 1, totals.out + (panel - first) * outer_floats(t.C, 1));
}

}  // namespace transnext::ISA
