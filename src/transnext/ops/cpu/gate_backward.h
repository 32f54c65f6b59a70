// Gradients of depthwise convolution, GELU and gate. The convolution is computed again; nothing was kept.
//
// A worker takes a run of rows of (b, y) and keeps the gradients of the convolution, dc, that reach them in a ring.
// Rows beyond its own are computed again, so that no two workers write to one place.
#pragma once

#include "gate.h"

namespace transnext::ISA {

// Pixels of a row, `step` floats apart.
struct Row {
  float* data;
  int64_t step;
};

// What the convolution's result passes on in one row: `dc` gets its gradient, `gate` that of the gates; with KEEP,
// `gated` gets the result of the forward pass.
template <bool KEEP>
static void convolution_gradient(const Gate& g, const WindowRows& rows, const Row& gates, const Row& grad,
                                 const Row& dc, const Row& gate, const Row& gated) {
  for_convolutions(g.weight, g.bias, g.W, g.F, rows, [&](int64_t x, int64_t c, auto a, auto what) ALWAYS_INLINE {
    auto density = a;
    const auto cdf = normal_cdf(a, density);
    density = density * 0.39894228040143268f;  // 1 / sqrt(2 pi)
    const auto gradient = what.get(grad.data + x * grad.step + c, grad.step),
               open = what.get(gates.data + x * gates.step + c, gates.step);
    what.put(dc.data + x * dc.step + c, dc.step, gradient * open * (cdf + a * density));
    what.put(gate.data + x * gate.step + c, gate.step, gradient * a * cdf);
    if (KEEP) what.put(gated.data + x * gated.step + c, gated.step, a * cdf * open);
  });
}

// The gradient of the convolution's input in one row, of which `rows` are the neighbours, and what the row's pixels add
// to the gradients of weights and bias: `sums`, [9 + 1][F]. `dc` are the gradients of the convolution in the same rows:
// row y + dy - 1 of the output reads a pixel of row y through the tap opposite to (dy, dx).
struct InputGradient {
  const Gate& g;
  const WindowRows& rows;
  const WindowRows& dc;
  Row out;
  float* sums;

  void run() const {
    for (int64_t first = 0; first < g.W; first += PIXEL_BLOCK) {
      const int64_t last = std::min(g.W, first + PIXEL_BLOCK);
      for_channels(
          g.F, [&](int64_t c) { channels(first, last, c, OnePixel()); },
          [&](int64_t c) { channels(first, last, c, OneChannel()); });
    }
  }

  // The sums are kept in registers meanwhile.
  template <class What>
  void channels(int64_t first, int64_t last, int64_t c, What what) const {
    const auto get = [&](const float* p) ALWAYS_INLINE { return what.get(p, 0); };
    vf total[10];
#pragma GCC unroll 10
    for (int t = 0; t < 10; ++t) total[t] = get(sums + t * g.F + c);
    for (int64_t x = first; x < last; ++x) {
      const vf gradient = get(dc.row[1] + x * dc.step + c);
      total[9] += gradient;
      vf sum{};
#pragma GCC unroll 3
      for (int dy = 0; dy < 3; ++dy) {
        if (!rows.row[dy]) continue;
        const float *source = rows.row[dy] + x * rows.step + c, *reader = dc.row[dy] + x * dc.step + c;
        const float* w = g.weight + (2 - dy) * 3 * g.F + c;
        if (x > 0) {
          sum += get(w + 2 * g.F) * get(reader - dc.step);
          total[dy * 3] += gradient * get(source - rows.step);
        }
        sum += get(w + g.F) * get(reader);
        total[dy * 3 + 1] += gradient * get(source);
        if (x + 1 < g.W) {
          sum += get(w) * get(reader + dc.step);
          total[dy * 3 + 2] += gradient * get(source + rows.step);
        }
      }
      what.put(out.data + x * out.step + c, 0, sum);
    }
#pragma GCC unroll 10
    for (int t = 0; t < 10; ++t) what.put(sums + t * g.F + c, 0, total[t]);
  }
};

struct GateBackward {
  const Gate& g;
  InputRows input;
  float* dc;      // [3][W][F]
  float* grad;    // [W][F]: of the output, widened where it is not floats
  float* result;  // [W][F]: of half the input's channels, where it cannot go to its place at once
  float* sums;    // [10][F]: gradients of weight and bias from one row, so that long sums are sums of sums

  static constexpr int64_t SLOTS = 4;  // of the input: three around a row, and the one that enters
  static int64_t floats(const Gate& g) { return InputRows::floats(g, SLOTS) + 5 * g.W * g.F + 10 * g.F; }

  GateBackward(const Gate& g, int64_t b, float* base) : g(g), input(g, b, SLOTS, base) {
    const int64_t row = g.W * g.F;
    dc = base + InputRows::floats(g, SLOTS);
    grad = dc + 3 * row;
    result = grad + row;
    sums = result + row;
  }

  float* dc_row(int64_t y) const { return dc + y % 3 * g.W * g.F; }

  Row grad_of(int64_t y) const {
    const int64_t place = (input.b * g.H + y) * g.W * g.all;
    // Nothing is written to it: one type of row will do.
    if (input.direct()) return {const_cast<float*>(static_cast<const float*>(g.grad)) + place, g.all};
    widen_rows(g.dtype, g.grad, place, g.all, g.W, g.F, grad);
    return {grad, g.F};
  }

  // Where a row of one half of the input's gradient starts, in elements.
  int64_t place_of(int64_t y, bool gates) const { return (input.b * g.H + y) * g.W * 2 * g.all + (gates ? g.all : 0); }
  // Where to write it, and what is left to do then. Rows that are not the worker's own are for no one.
  Row result_of(int64_t y, bool gates, bool own) const {
    if (own && input.direct()) return {static_cast<float*>(g.grad_x) + place_of(y, gates), 2 * g.all};
    return {result, g.F};
  }
  void finish(int64_t y, bool gates, bool own) const {
    if (own && !input.direct()) narrow_rows(g.dtype, result, g.W, g.F, g.grad_x, place_of(y, gates), 2 * g.all);
  }

  // dc of row y, and the gradient of its gates if the row is the worker's own.
  void convolution(int64_t y, bool own) const {
    const Row gates{const_cast<float*>(input.gates_of(y)), input.step()};
    convolution_gradient<false>(g, input.around(y), gates, grad_of(y), {dc_row(y), g.F}, result_of(y, true, own), {});
    finish(y, true, own);
  }

  void input_gradient(int64_t y) const {
    const WindowRows rows = input.around(y);
    WindowRows around;
    around.step = g.F;
    for (int64_t dy = 0; dy < 3; ++dy) around.row[dy] = rows.row[dy] ? dc_row(y + dy - 1) : nullptr;
    InputGradient{g, rows, around, result_of(y, false, true), sums}.run();
    finish(y, false, true);
  }
};

static void gate_backward(const Gate& whole, int64_t worker, int64_t workers) {
  const int64_t first = whole.B * whole.H * worker / workers, last = whole.B * whole.H * (worker + 1) / workers;
  for_channel_ranges(whole, GateBackward::floats, [&](const Gate& g, float* base) {
    const int64_t F = g.F;
    float* totals = g.grad_parameters + worker * 10 * g.all + g.first;
    for (int64_t unit = first; unit < last;) {
      const int64_t b = unit / g.H, top = unit % g.H, bottom = std::min(g.H, top + last - unit);
      const GateBackward row(g, b, base);
      const auto enter = [&](int64_t y) {
        if (y >= 0 && y < g.H) row.convolution(y, y >= top && y < bottom);
      };
      for (int64_t y = top - 2; y < top; ++y) row.input.enter(y);
      for (int64_t y = top - 1; y <= top; ++y) {
        row.input.enter(y + 1);
        enter(y);
      }
      for (int64_t y = top; y < bottom; ++y, ++unit) {
        row.input.enter(y + 2);
        enter(y + 1);
        std::fill_n(row.sums, 10 * F, 0.0f);
        row.input_gradient(y);
        for (int64_t t = 0; t < 10; ++t)
          for (int64_t c = 0; c < F; ++c) totals[t * g.all + c] += row.sums[t * F + c];
      }
    }
  });
}

}  // namespace transnext::ISA
