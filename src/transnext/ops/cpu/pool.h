// Adaptive average pooling.
#pragma once

#include "vec.h"

namespace transnext::ISA {

static void pool(const Pool& p, int64_t begin, int64_t end) {
  float* sums = scratch(2 * p.C);
  float* pixel = sums + p.C;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t b = unit / p.P_h, py = unit % p.P_h;
    const int64_t top = py * p.H / p.P_h, bottom = ((py + 1) * p.H + p.P_h - 1) / p.P_h;
    for (int64_t px = 0; px < p.P_w; ++px) {
      const int64_t left = px * p.W / p.P_w, right = ((px + 1) * p.W + p.P_w - 1) / p.P_w;
      std::fill_n(sums, p.C, 0.0f);
      for (int64_t y = top; y < bottom; ++y)
        for (int64_t x = left; x < right; ++x) {
          const int64_t place = b * p.x_b + y * p.x_y + x * p.x_x;
          const float* source = static_cast<const float*>(p.x) + place;
          if (p.dtype != Dtype::Float) {
            widen_rows(p.dtype, p.x, place, 0, 1, p.C, pixel);
            source = pixel;
          }
          for_channels(
              p.C, [&](int64_t c) { store(sums + c, load(sums + c) + load(source + c)); },
              [&](int64_t c) { sums[c] += source[c]; });
        }
      const float share = 1.0f / static_cast<float>((bottom - top) * (right - left));
      for (int64_t c = 0; c < p.C; ++c) sums[c] *= share;
      narrow_rows(p.dtype, sums, 1, p.C, p.out, (unit * p.P_w + px) * p.C, 0);
    }
  }
}

}  // namespace transnext::ISA
