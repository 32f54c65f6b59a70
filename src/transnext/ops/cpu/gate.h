// Depthwise convolution, GELU and gate of the convolutional GLU. Lanes are channels, which lie side by side in memory.
#pragma once

#include "vec.h"

namespace transnext::ISA {

// The three rows of the map around one, null outside the map. Pixel x of a row starts at `x * step`.
struct WindowRows {
  const float* row[3];
  int64_t step;
};

// Pixels that are worked on together, so that weights and sums of a vector of channels are read once for all of them.
constexpr int64_t PIXEL_BLOCK = 8;

// What a value stands for: lanes c .. c + VL - 1 of one pixel or of two neighbouring ones, `step` apart, or channel c
// alone.
struct OnePixel {
  static vf get(const float* p, int64_t) { return load(p); }
  static void put(float* p, int64_t, vf x) { store(p, x); }
};
struct TwoPixels {
  static Pair get(const float* p, int64_t step) { return {load(p), load(p + step)}; }
  static void put(float* p, int64_t step, Pair x) {
    store(p, x.a);
    store(p + step, x.b);
  }
};
struct OneChannel {
  static vf get(const float* p, int64_t) { return first_lane(*p); }
  static void put(float* p, int64_t, vf x) { *p = x[0]; }
};

// Weights of the channels from c on, kept in registers, and their convolution at one column.
template <class What>
struct Taps {
  vf w[3][3];

  INLINE_MEMBER Taps(const float* weight, int64_t F, int64_t c) {
#pragma GCC unroll 3
    for (int dy = 0; dy < 3; ++dy)
#pragma GCC unroll 3
      for (int dx = 0; dx < 3; ++dx) w[dy][dx] = What::get(weight + (dy * 3 + dx) * F + c, 0);
  }

  INLINE_MEMBER vf convolve(vf sum, int64_t c, int64_t x, int64_t W, const WindowRows& rows) const {
#pragma GCC unroll 3
    for (int dy = 0; dy < 3; ++dy) {
      if (!rows.row[dy]) continue;
      const float* source = rows.row[dy] + x * rows.step + c;
      if (x > 0) sum += w[dy][0] * What::get(source - rows.step, 0);
      sum += w[dy][1] * What::get(source, 0);
      if (x + 1 < W) sum += w[dy][2] * What::get(source + rows.step, 0);
    }
    return sum;
  }
};

// Calls `use(x, c, convolution, what)` for all columns and channels of a row.
template <class Use>
INLINE void for_convolutions(const float* weight, const float* bias, int64_t W, int64_t F, const WindowRows& rows,
                             const Use& use) {
  for (int64_t first = 0; first < W; first += PIXEL_BLOCK) {
    const int64_t last = std::min(W, first + PIXEL_BLOCK);
    for_channels(
        F,
        [&](int64_t c) ALWAYS_INLINE {
          const Taps<OnePixel> taps(weight, F, c);
          const vf start = load(bias + c);
          int64_t x = first;
          for (; x + 2 <= last; x += 2)
            use(x, c, Pair{taps.convolve(start, c, x, W, rows), taps.convolve(start, c, x + 1, W, rows)}, TwoPixels());
          if (x < last) use(x, c, taps.convolve(start, c, x, W, rows), OnePixel());
        },
        [&](int64_t c) ALWAYS_INLINE {
          const Taps<OneChannel> taps(weight, F, c);
          for (int64_t x = first; x < last; ++x)
            use(x, c, taps.convolve(first_lane(bias[c]), c, x, W, rows), OneChannel());
        });
  }
}

// One row of the result. `gates` points at the gates of its first pixel.
static void gate_row(const float* weight, const float* bias, int64_t W, int64_t F, const WindowRows& rows,
                     const float* gates, int64_t gate_step, float* out, int64_t out_step) {
  for_convolutions(weight, bias, W, F, rows, [&](int64_t x, int64_t c, auto a, auto what) ALWAYS_INLINE {
    what.put(out + x * out_step + c, out_step, gelu(a) * what.get(gates + x * gate_step + c, gate_step));
  });
}

// Rows of the input as floats: where they lie if they are floats, else widened into a ring.
struct InputRows {
  const Gate& g;
  int64_t b, slots;
  float* ring;   // [slots][W][F]
  float* gates;  // [W][F]

  // `slots` rows are wanted at once, at least three.
  InputRows(const Gate& g, int64_t b, int64_t slots, float* base)
      : g(g), b(b), slots(slots), ring(base), gates(base + (floats(g, slots) ? slots * g.W * g.F : 0)) {}
  static int64_t floats(const Gate& g, int64_t slots) { return g.dtype == Dtype::Float ? 0 : (slots + 1) * g.W * g.F; }

  bool direct() const { return g.dtype == Dtype::Float; }
  int64_t place(int64_t y) const { return b * g.x_b + y * g.x_y; }
  int64_t step() const { return direct() ? g.x_x : g.F; }

  void enter(int64_t y) const {
    if (!direct() && y >= 0 && y < g.H)
      widen_rows(g.dtype, g.x, place(y), g.x_x, g.W, g.F, ring + y % slots * g.W * g.F);
  }
  const float* row(int64_t y) const {
    if (y < 0 || y >= g.H) return nullptr;
    return direct() ? static_cast<const float*>(g.x) + place(y) : ring + y % slots * g.W * g.F;
  }
  const float* gates_of(int64_t y) const {
    if (direct()) return static_cast<const float*>(g.x) + place(y) + g.all;
    widen_rows(g.dtype, g.x, place(y) + g.all, g.x_x, g.W, g.F, gates);
    return gates;
  }
  WindowRows around(int64_t y) const {
    WindowRows rows;
    rows.step = step();
    for (int64_t dy = 0; dy < 3; ++dy) rows.row[dy] = row(y + dy - 1);
    return rows;
  }
};

// Runs `pass(part, scratch)` for ranges of channels whose rows fit in the cache together, so that a row is fetched once
// and not again for each row that it is a neighbour of. `floats(part)` is the scratch that a pass wants.
template <class Floats, class Pass>
static void for_channel_ranges(const Gate& g, const Floats& floats, const Pass& pass) {
  constexpr int64_t CACHE_FLOATS = 32 * 1024;
  const int64_t fitting = CACHE_FLOATS / (4 * g.W) / 16 * 16;
  Gate part = g;
  part.F = std::min(g.F, std::max<int64_t>(32, fitting));
  const int64_t most = part.F, for_weights = round_up(9 * most, 16);
  float* weights = scratch(for_weights + floats(part));
  const int64_t size = g.dtype == Dtype::Float ? 4 : 2;
  for (int64_t c = 0; c < g.F; c += most) {
    part.F = std::min(most, g.F - c);
    part.first = g.first + c;
    part.x = static_cast<const char*>(g.x) + c * size;
    part.out = g.out ? static_cast<char*>(g.out) + c * size : nullptr;
    part.grad = g.grad ? static_cast<const char*>(g.grad) + c * size : nullptr;
    part.grad_x = g.grad_x ? static_cast<char*>(g.grad_x) + c * size : nullptr;
    for (int64_t t = 0; t < 9; ++t) std::copy_n(g.weight + t * g.F + c, part.F, weights + t * part.F);
    part.weight = weights;
    part.bias = g.bias + c;
    pass(part, weights + for_weights);
  }
}

static void gate_forward(const Gate& whole, int64_t begin, int64_t end) {
  const auto floats = [](const Gate& g) { return InputRows::floats(g, 3) + g.W * g.F; };
  for_channel_ranges(whole, floats, [&](const Gate& g, float* base) {
    const int64_t row_floats = g.W * g.all;
    float* narrowed = base + InputRows::floats(g, 3);
    for (int64_t unit = begin; unit < end;) {
      const int64_t top = unit % g.H, bottom = std::min(g.H, top + end - unit);
      const InputRows input(g, unit / g.H, 3, base);
      for (int64_t y = top - 1; y <= top; ++y) input.enter(y);
      for (int64_t y = top; y < bottom; ++y, ++unit) {
        input.enter(y + 1);
        float* out = input.direct() ? static_cast<float*>(g.out) + unit * row_floats : narrowed;
        gate_row(g.weight, g.bias, g.W, g.F, input.around(y), input.gates_of(y), input.step(), out,
                 input.direct() ? g.all : g.F);
        if (!input.direct()) narrow_rows(g.dtype, out, g.W, g.F, g.out, unit * row_floats, g.all);
      }
    }
  });
}

}  // namespace transnext::ISA
