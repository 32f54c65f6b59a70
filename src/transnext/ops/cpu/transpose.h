// Rows that become columns and columns that become rows, in blocks of four by four.
#pragma once

#include "vec.h"

namespace transnext::ISA {

INLINE void transpose4(vf4& a, vf4& b, vf4& c, vf4& d) {
  const vf4 ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const vf4 cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  a = __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5);
  b = __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7);
  c = __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
  d = __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
}

// `count` pixels of `D` channels, `step` elements apart, to `to[d * ld + i]`.
template <class T>
static void load_transposed(const T* from, int64_t step, int64_t count, int64_t D, float* to, int64_t ld) {
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    const T* p = from + i * step;
    // Pixels are far apart, in a pattern that the processor does not foresee.
    for (int64_t k = 8; k < 12; ++k)
      for (int64_t line = 0; line < D; line += static_cast<int64_t>(64 / sizeof(T)))
        __builtin_prefetch(p + k * step + line);
    int64_t d = 0;
    for (; d + 4 <= D; d += 4) {
      vf4 a = load4(p + d), b = load4(p + step + d), c = load4(p + 2 * step + d), e = load4(p + 3 * step + d);
      transpose4(a, b, c, e);
      store4(to + d * ld + i, a);
      store4(to + (d + 1) * ld + i, b);
      store4(to + (d + 2) * ld + i, c);
      store4(to + (d + 3) * ld + i, e);
    }
    for (; d < D; ++d)
      for (int64_t k = 0; k < 4; ++k) to[d * ld + i + k] = widen(p[k * step + d]);
  }
  for (; i < count; ++i)
    for (int64_t d = 0; d < D; ++d) to[d * ld + i] = widen(from[i * step + d]);
}

// The way back: `from[d * ld + i]` to `count` pixels of `D` channels, `step` elements apart.
template <class T>
static void store_transposed(const float* from, int64_t ld, int64_t count, int64_t D, T* to, int64_t step) {
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    T* p = to + i * step;
    int64_t d = 0;
    for (; d + 4 <= D; d += 4) {
      vf4 a = load4(from + d * ld + i), b = load4(from + (d + 1) * ld + i);
      vf4 c = load4(from + (d + 2) * ld + i), e = load4(from + (d + 3) * ld + i);
      transpose4(a, b, c, e);
      store4(p + d, a);
      store4(p + step + d, b);
      store4(p + 2 * step + d, c);
      store4(p + 3 * step + d, e);
    }
    for (; d < D; ++d)
      for (int64_t k = 0; k < 4; ++k) narrow(from[d * ld + i + k], p + k * step + d);
  }
  for (; i < count; ++i)
    for (int64_t d = 0; d < D; ++d) narrow(from[d * ld + i], to + i * step + d);
}

}  // namespace transnext::ISA
