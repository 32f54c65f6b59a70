// A convolutional GLU in training, image by image and strip by strip of rows: only hidden channels are kept for the
// backward pass, and what lies between the products and their gradients never leaves the cache.
#pragma once

#include "factors.h"
#include "gate_backward.h"

namespace transnext::ISA {

constexpr int64_t TRAINING_STRIP_PIXELS = 200;

struct GluStrips {
  const ConvGluTraining& t;
  int64_t rows;  // of a strip

  explicit GluStrips(const ConvGluTraining& t)
      : t(t), rows(std::min(t.H, std::max<int64_t>(1, TRAINING_STRIP_PIXELS / t.W))) {}

  // Hidden channels as the gate reads them.
  Gate gate() const {
    Gate g{};
    g.dtype = t.dtype;
    g.B = t.B, g.H = t.H, g.W = t.W, g.F = g.all = t.F;
    g.x = t.hidden, g.x_x = 2 * t.F, g.x_y = t.W * g.x_x, g.x_b = t.H * g.x_y;
    g.weight = t.weight, g.bias = t.bias;
    return g;
  }
  // Pixels of a map of `channels`, from row y of image b on.
  Rows pixels(const void* map, int64_t b, int64_t y, int64_t channels) const {
    return {t.dtype, element(t.dtype, map, (b * t.H + y) * t.W * channels), channels};
  }
  Outcome result(void* map, int64_t b, int64_t y, int64_t channels) const {
    return sums_alone(t.dtype, element(t.dtype, map, (b * t.H + y) * t.W * channels), channels);
  }
};

template <class Factors>
static void conv_glu_training_of(const ConvGluTraining& t, int64_t begin, int64_t end) {
  const GluStrips strips(t);
  const Gate g = strips.gate();
  const int64_t W = t.W, C = t.C, F = t.F, most = (strips.rows + 1) * W;
  const int64_t gated_floats = round_up(most * F, 16), ring_floats = round_up(InputRows::floats(g, 3), 16);
  float* gated = scratch(gated_floats + ring_floats +
                         Factors::scratch_floats(t.products16, Dtype::Float, most, std::max(C, F), 2 * F));
  float* ring = gated + gated_floats;
  const Factors factors(t.products16, ring + ring_floats);
  for (int64_t b = begin; b < end; ++b) {
    const InputRows hidden(g, b, 3, ring);
    for (int64_t y0 = 0, expanded = 0; y0 < t.H; y0 += strips.rows) {
      const int64_t y1 = std::min(t.H, y0 + strips.rows), until = std::min(t.H, y1 + 1);
      factors.multiply(strips.pixels(t.x, b, expanded, C), (until - expanded) * W, C, t.panels_in, t.bias_in,
                       strips.result(t.hidden, b, expanded, 2 * F));
      expanded = until;
      if (y0 == 0) hidden.enter(0);
      for (int64_t y = y0; y < y1; ++y) {
        hidden.enter(y + 1);
        gate_row(t.weight, t.bias, W, F, hidden.around(y), hidden.gates_of(y), hidden.step(), gated + (y - y0) * W * F,
                 F);
      }
      factors.multiply({Dtype::Float, gated, F}, (y1 - y0) * W, F, t.panels_out, t.bias_out,
                       strips.result(t.out, b, y0, C));
    }
  }
}

static void conv_glu_training(const ConvGluTraining& t, int64_t begin, int64_t end) {
  t.products16 ? conv_glu_training_of<BFloat16Factors>(t, begin, end)
               : conv_glu_training_of<FloatFactors>(t, begin, end);
}

// What a worker adds up over its images: gradients of both weights, as `Factors` keep them, then of the biases and of
// the depthwise kernel.
template <class Factors>
struct GluTotals {
  float *in, *out, *bias_in, *bias_out, *taps;
  GluTotals(const ConvGluTraining& t, float* base) {
    const int64_t panel = Factors::panel_floats(t.products16, t.C);
    in = base;
    out = in + panel * panels_in<Factors>(2 * t.F);
    bias_in = out + panel * panels_in<Factors>(t.F);
    bias_out = bias_in + 2 * t.F;
    taps = bias_out + t.C;
  }
  static int64_t floats(const ConvGluTraining& t) {
    const GluTotals all(t, nullptr);
    return all.taps + 10 * t.F - all.in;
  }
};

static int64_t conv_glu_totals(const ConvGluTraining& t) {
  return t.products16 ? GluTotals<BFloat16Factors>::floats(t) : GluTotals<FloatFactors>::floats(t);
}

template <class Factors>
static void conv_glu_training_backward_of(const ConvGluTraining& t, int64_t worker, int64_t workers) {
  const GluStrips strips(t);
  const Gate g = strips.gate();
  const int64_t W = t.W, C = t.C, F = t.F, H = t.H, most = (strips.rows + 1) * W, ring = strips.rows + 2;
  const GluTotals<Factors> totals(t, t.totals + worker * GluTotals<Factors>::floats(t));
  // Hidden rows are read by the gate's gradient up to the row behind the strip's neighbours, and again by the strip.
  const int64_t slots = strips.rows + 3, hidden_floats = round_up(InputRows::floats(g, slots), 16);
  const int64_t before = round_up(most * 4 * F + ring * W * F, 16), for_sums = round_up(10 * F, 16);
  const int64_t for_bias = round_up(std::max(C, F), Factors::WIDTH);
  const int64_t for_outer = round_up(Factors::outer_work(t.products16, C), 16);
  float* grad_gated = scratch(before + hidden_floats + for_outer + for_sums + for_bias +
                              Factors::scratch_floats(t.products16, Dtype::Float, most, std::max(C, 2 * F), C));
  float* gated = grad_gated + most * F;
  float* grad_hidden = gated + most * F;
  float* dc = grad_hidden + most * 2 * F;
  float* hidden_rows = grad_gated + before;
  float* work = hidden_rows + hidden_floats;
  float* sums = work + for_outer;
  float* no_bias = sums + for_sums;
  const Factors factors(t.products16, no_bias + for_bias);
  std::fill_n(no_bias, for_bias, 0.0f);
  const auto dc_row = [&](int64_t y) { return dc + y % ring * W * F; };

  for (int64_t b = t.B * worker / workers; b < t.B * (worker + 1) / workers; ++b) {
    const InputRows hidden(g, b, slots, hidden_rows);
    for (int64_t y0 = 0, known = 0; y0 < H; y0 += strips.rows) {
      const int64_t y1 = std::min(H, y0 + strips.rows), until = std::min(H, y1 + 1), fresh = (until - known) * W;
      const Rows grad = strips.pixels(t.grad, b, known, C);
      factors.multiply(grad, fresh, C, t.panels_out, no_bias, sums_alone(Dtype::Float, grad_gated, F));
      if (known == 0) hidden.enter(0);
      for (int64_t y = known; y < until; ++y) {
        const int64_t place = (y - known) * W * F;
        hidden.enter(y + 1);
        convolution_gradient<true>(g, hidden.around(y), {const_cast<float*>(hidden.gates_of(y)), hidden.step()},
                                   {grad_gated + place, F}, {dc_row(y), F},
                                   {grad_hidden + (y - y0) * W * 2 * F + F, 2 * F}, {gated + place, F});
      }
      Factors::add(
          {t.products16, fresh, C, F, grad, {Dtype::Float, gated, F}, totals.bias_out, nullptr, nullptr, false}, 0,
          panels_in<Factors>(F), totals.out, work);
      known = until;
      for (int64_t y = y0; y < y1; ++y) {
        const WindowRows rows = hidden.around(y);
        WindowRows around;
        around.step = F;
        for (int64_t dy = 0; dy < 3; ++dy) around.row[dy] = rows.row[dy] ? dc_row(y + dy - 1) : nullptr;
        std::fill_n(sums, 10 * F, 0.0f);
        InputGradient{g, rows, around, {grad_hidden + (y - y0) * W * 2 * F, 2 * F}, sums}.run();
        for (int64_t i = 0; i < 10 * F; ++i) totals.taps[i] += sums[i];
      }
      const int64_t own = (y1 - y0) * W;
      const Rows grads{Dtype::Float, grad_hidden, 2 * F};
      factors.multiply(grads, own, 2 * F, t.panels_in, no_bias, strips.result(t.grad_x, b, y0, C));
      Factors::add(
          {t.products16, own, C, 2 * F, strips.pixels(t.x, b, y0, C), grads, nullptr, totals.bias_in, nullptr, true}, 0,
          panels_in<Factors>(2 * F), totals.in, work);
      if (until > y1) std::copy_n(grad_hidden + (y1 - y0) * W * 2 * F, W * 2 * F, grad_hidden);
    }
  }
}

static void conv_glu_training_backward(const ConvGluTraining& t, int64_t worker, int64_t workers) {
  t.products16 ? conv_glu_training_backward_of<BFloat16Factors>(t, worker, workers)
               : conv_glu_training_backward_of<FloatFactors>(t, worker, workers);
}

template <class Factors>
static void conv_glu_weights_of(const ConvGluTraining& t, int64_t begin, int64_t end) {
  const GluTotals<Factors> totals(t, t.totals);
  const int64_t first = panels_in<Factors>(2 * t.F), floats = Factors::panel_floats(t.products16, t.C);
  OuterProduct in{}, out{};
  in.products16 = out.products16 = t.products16;
  in.M = out.M = t.C, in.N = 2 * t.F, out.N = t.F;
  in.out = t.grad_weight_in, out.out = t.grad_weight_out;
  in.transposed = true;
  for (int64_t panel = begin; panel < end; ++panel)
    if (panel < first)
      write_outer<Factors>(in, panel, panel + 1, totals.in + panel * floats);
    else
      write_outer<Factors>(out, panel - first, panel - first + 1, totals.out + (panel - first) * floats);
}

// Writes panels [begin, end) of the gradients of the weights, those of the second after those of the first.
static void conv_glu_weights(const ConvGluTraining& t, int64_t begin, int64_t end) {
  t.products16 ? conv_glu_weights_of<BFloat16Factors>(t, begin, end) : conv_glu_weights_of<FloatFactors>(t, begin, end);
}

}  // namespace transnext::ISA
