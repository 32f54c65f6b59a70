// Gradients of depthwise convolution, GELU and gate. The convolution is computed again; nothing was kept.
//
// A worker takes a run of rows of (b, y) and keeps the gradients of the convolution, dc, that reach them in a ring. Rows beyond
// its own are computed again, so that no two workers write to one place.

// Pixels of a row, `step` floats apart.
struct Row {
  float* data;
  int64_t step;
};

// What the convolution's result passes on in one row: `dc` gets its gradient, `gate` that of the gates; with KEEP, `gated` gets the
// result of the forward pass.
template <bool KEEP>
static void convolution_gradient(const Gate& g, const WindowRows& rows, const Row& gates, const Row& grad, const Row& dc,
                                 const Row& gate, const Row& gated) {
  for_convolutions(g.weight, g.bias, g.window, g.W, g.F, rows, [&](int64_t x, int64_t c, auto a, auto what) ALWAYS_INLINE {
    auto density = a;
    const auto cdf = normal_cdf(a, density);
    density = density * 0.39894228040143268f;  // 1 / sqrt(2 pi)
    const auto gradient = what.get(grad.data + x * grad.step + c, grad.step), open = what.get(gates.data + x * gates.step + c, gates.step);
    what.put(dc.data + x * dc.step + c, dc.step, gradient * open * (cdf + a * density));
    what.put(gate.data + x * gate.step + c, gate.step, gradient * a * cdf);
    if (KEEP) what.put(gated.data + x * gated.step + c, gated.step, a * cdf * open);
  });
}

// The gradient of the convolution's input in one row, of which `rows` are the neighbours, and what the row's pixels add to the
// gradients of weights and bias: `sums`, [taps + 1][F]. `dc` are the gradients of the convolution in the same rows: row y + dy - r
// of the output reads a pixel of row y through the tap opposite to (dy, dx).
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
          g.F,
          [&](int64_t c) {
            if (g.window == 3)
              channels_3x3(first, last, c);
            else
              channels(first, last, c, OnePixel());
          },
          [&](int64_t c) { channels(first, last, c, OneChannel()); });
    }
  }

  template <class What>
  void channels(int64_t first, int64_t last, int64_t c, What what) const {
    const int64_t r = g.window / 2, taps = g.window * g.window;
    const auto add = [&](int64_t tap, vf value) {
      float* to = sums + tap * g.F + c;
      what.put(to, 0, what.get(to, 0) + value);
    };
    for (int64_t x = first; x < last; ++x) {
      const vf gradient = what.get(dc.row[r] + x * dc.step + c, 0);
      add(taps, gradient);
      vf sum{};
      for (int64_t dy = 0; dy < g.window; ++dy) {
        if (!rows.row[dy]) continue;
        for (int64_t dx = std::max<int64_t>(0, r - x); dx < std::min(g.window, g.W + r - x); ++dx) {
          const int64_t tap = dy * g.window + dx, place = x + dx - r;
          sum += what.get(g.weight + (taps - 1 - tap) * g.F + c, 0) * what.get(dc.row[dy] + place * dc.step + c, 0);
          add(tap, gradient * what.get(rows.row[dy] + place * rows.step + c, 0));
        }
      }
      what.put(out.data + x * out.step + c, 0, sum);
    }
  }

  // The same for kernels of side 3, with the sums in registers.
  void channels_3x3(int64_t first, int64_t last, int64_t c) const {
    vf total[10];
#pragma GCC unroll 10
    for (int t = 0; t < 10; ++t) total[t] = load(sums + t * g.F + c);
    for (int64_t x = first; x < last; ++x) {
      const vf gradient = load(dc.row[1] + x * dc.step + c);
      total[9] += gradient;
      vf sum{};
#pragma GCC unroll 3
      for (int dy = 0; dy < 3; ++dy) {
        if (!rows.row[dy]) continue;
        const float *source = rows.row[dy] + x * rows.step + c, *reader = dc.row[dy] + x * dc.step + c;
        const float* w = g.weight + (2 - dy) * 3 * g.F + c;
        if (x > 0) {
          sum += load(w + 2 * g.F) * load(reader - dc.step);
          total[dy * 3] += gradient * load(source - rows.step);
        }
        sum += load(w + g.F) * load(reader);
        total[dy * 3 + 1] += gradient * load(source);
        if (x + 1 < g.W) {
          sum += load(w) * load(reader + dc.step);
          total[dy * 3 + 2] += gradient * load(source + rows.step);
        }
      }
      store(out.data + x * out.step + c, sum);
    }
#pragma GCC unroll 10
    for (int t = 0; t < 10; ++t) store(sums + t * g.F + c, total[t]);
  }
};

struct GateBackward {
  const Gate& g;
  InputRows input;
  float* dc;          // [window][W][F]
  float* grad;        // [W][F]: of the output, widened where it is not floats
  float* result;      // [W][F]: of half the input's channels, where it cannot go to its place at once
  float* sums;        // [taps + 1][F]: gradients of weight and bias from one row, so that long sums are sums of sums

  static int64_t slots(const Gate& g) { return g.window + g.window / 2; }
  static int64_t floats(const Gate& g) {
    return InputRows::floats(g, slots(g)) + (g.window + 2) * g.W * g.F + (g.window * g.window + 1) * g.F;
  }

  GateBackward(const Gate& g, int64_t b, float* base) : g(g), input(g, b, slots(g), base) {
    const int64_t row = g.W * g.F;
    dc = base + InputRows::floats(g, slots(g));
    grad = dc + g.window * row;
    result = grad + row;
    sums = result + row;
  }

  float* dc_row(int64_t y) const { return dc + y % g.window * g.W * g.F; }

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
    for (int64_t dy = 0; dy < g.window; ++dy) around.row[dy] = rows.row[dy] ? dc_row(y + dy - g.window / 2) : nullptr;
    InputGradient{g, rows, around, result_of(y, false, true), sums}.run();
    finish(y, false, true);
  }
};

static void gate_backward(const Gate& whole, int64_t worker, int64_t workers) {
  const int64_t first = whole.B * whole.H * worker / workers, last = whole.B * whole.H * (worker + 1) / workers;
  for_channel_ranges(whole, GateBackward::floats, [&](const Gate& g, float* base) {
    const int64_t r = g.window / 2, F = g.F, taps = g.window * g.window;
    float* totals = g.grad_parameters + worker * (taps + 1) * g.all + g.first;
    for (int64_t unit = first; unit < last;) {
      const int64_t b = unit / g.H, top = unit % g.H, bottom = std::min(g.H, top + last - unit);
      const GateBackward row(g, b, base);
      const auto enter = [&](int64_t y) {
        if (y >= 0 && y < g.H) row.convolution(y, y >= top && y < bottom);
      };
      for (int64_t y = top - 2 * r; y < top; ++y) row.input.enter(y);
      for (int64_t y = top - r; y < top + r; ++y) {
        row.input.enter(y + r);
        enter(y);
      }
      for (int64_t y = top; y < bottom; ++y, ++unit) {
        row.input.enter(y + 2 * r);
        enter(y + r);
        std::fill_n(row.sums, (taps + 1) * F, 0.0f);
        row.input_gradient(y);
        for (int64_t t = 0; t <= taps; ++t)
          for (int64_t c = 0; c < F; ++c) totals[t * g.all + c] += row.sums[t * F + c];
      }
    }
  });
}
