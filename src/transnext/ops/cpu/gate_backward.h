// Gradients of depthwise convolution, GELU and gate. The convolution is computed again; nothing was kept.
//
// A worker takes a run of rows of (b, y) and keeps the gradients of the convolution, dc, that reach them in a ring. Rows beyond
// its own are computed again, so that no two workers write to one place.

struct GateBackward {
  const Gate& g;
  InputRows input;
  float* dc;          // [window][W][F]
  float* grad;        // [W][F]: of the output, widened
  float* result;      // [W][F]: of half the input's channels, before it is narrowed
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

  // Writes a row of one half of the input's gradient.
  void write(int64_t y, int64_t first_channel) const {
    narrow_rows(g.dtype, result, g.W, g.F, g.grad_x, (input.b * g.H + y) * g.W * 2 * g.all + first_channel, 2 * g.all);
  }

  // dc of row y, and the gradient of its gates if the row is the worker's own.
  void convolution_gradient(int64_t y, bool own) const {
    const WindowRows rows = input.around(y);
    const float* gates = input.gates_of(y);
    const int64_t step = input.step();
    widen_rows(g.dtype, g.grad, (input.b * g.H + y) * g.W * g.all, g.all, g.W, g.F, grad);
    float* to = dc_row(y);
    for_convolutions(g.weight, g.bias, g.window, g.W, g.F, rows, [&](int64_t x, int64_t c, auto a, auto what) ALWAYS_INLINE {
      auto density = a;
      const auto cdf = normal_cdf(a, density);
      density = density * 0.39894228040143268f;  // 1 / sqrt(2 pi)
      const auto gradient = what.get(grad + x * g.F + c, g.F);
      what.put(to + x * g.F + c, g.F, gradient * what.get(gates + x * step + c, step) * (cdf + a * density));
      what.put(result + x * g.F + c, g.F, gradient * a * cdf);
    });
    if (own) write(y, g.all);
  }

  // The input's gradient of row y, and with it what the pixels of the row add to the weights.
  void input_gradient(int64_t y) const {
    const WindowRows rows = input.around(y);
    for (int64_t first = 0; first < g.W; first += PIXEL_BLOCK) {
      const int64_t last = std::min(g.W, first + PIXEL_BLOCK);
      for_channels(
          g.F,
          [&](int64_t c) {
            if (g.window == 3)
              channels_3x3(y, first, last, c, rows);
            else
              channels(y, first, last, c, rows, OnePixel());
          },
          [&](int64_t c) { channels(y, first, last, c, rows, OneChannel()); });
    }
    write(y, 0);
  }

  // Row y + dy - r of the output reads a pixel of row y through the tap opposite to (dy, dx).
  template <class What>
  void channels(int64_t y, int64_t first, int64_t last, int64_t c, const WindowRows& rows, What what) const {
    const int64_t r = g.window / 2, taps = g.window * g.window;
    const auto add = [&](int64_t tap, vf value) {
      float* to = sums + tap * g.F + c;
      what.put(to, 0, what.get(to, 0) + value);
    };
    for (int64_t x = first; x < last; ++x) {
      const vf gradient = what.get(dc_row(y) + x * g.F + c, 0);
      add(taps, gradient);
      vf sum{};
      for (int64_t dy = 0; dy < g.window; ++dy) {
        if (!rows.row[dy]) continue;
        const float* reader = dc_row(y + dy - r);
        for (int64_t dx = std::max<int64_t>(0, r - x); dx < std::min(g.window, g.W + r - x); ++dx) {
          const int64_t tap = dy * g.window + dx, place = x + dx - r;
          sum += what.get(g.weight + (taps - 1 - tap) * g.F + c, 0) * what.get(reader + place * g.F + c, 0);
          add(tap, gradient * what.get(rows.row[dy] + place * rows.step + c, 0));
        }
      }
      what.put(result + x * g.F + c, 0, sum);
    }
  }

  // The same for kernels of side 3, with the sums in registers.
  void channels_3x3(int64_t y, int64_t first, int64_t last, int64_t c, const WindowRows& rows) const {
    vf total[10];
#pragma GCC unroll 10
    for (int t = 0; t < 10; ++t) total[t] = load(sums + t * g.F + c);
    const float* readers[3];
    for (int dy = 0; dy < 3; ++dy) readers[dy] = rows.row[dy] ? dc_row(y + dy - 1) : nullptr;
    for (int64_t x = first; x < last; ++x) {
      const vf gradient = load(readers[1] + x * g.F + c);
      total[9] += gradient;
      vf sum{};
#pragma GCC unroll 3
      for (int dy = 0; dy < 3; ++dy) {
        if (!readers[dy]) continue;
        const float *source = rows.row[dy] + x * rows.step + c, *reader = readers[dy] + x * g.F + c;
        const float* w = g.weight + (2 - dy) * 3 * g.F + c;
        if (x > 0) {
          sum += load(w + 2 * g.F) * load(reader - g.F);
          total[dy * 3] += gradient * load(source - rows.step);
        }
        sum += load(w + g.F) * load(reader);
        total[dy * 3 + 1] += gradient * load(source);
        if (x + 1 < g.W) {
          sum += load(w) * load(reader + g.F);
          total[dy * 3 + 2] += gradient * load(source + rows.step);
        }
      }
      store(result + x * g.F + c, sum);
    }
#pragma GCC unroll 10
    for (int t = 0; t < 10; ++t) store(sums + t * g.F + c, total[t]);
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
        if (y >= 0 && y < g.H) row.convolution_gradient(y, y >= top && y < bottom);
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
