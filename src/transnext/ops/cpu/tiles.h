// Tiles of pixels with channels as rows, `[D][TQ]`, and their products with rows of channels, `[N][D]`. Lanes are
// pixels.
#pragma once

#include "transpose.h"

namespace transnext::ISA {

// With 2 vectors of queries: 24 accumulators where there are 32 registers, else 12.
constexpr int KEY_BLOCK = VL == 16 ? 12 : 6, CHANNEL_BLOCK = KEY_BLOCK;

INLINE vf square_root(vf x) {
  vf y;
  for (int i = 0; i < VL; ++i) y[i] = __builtin_sqrtf(x[i]);
  return y;
}

static void load_transposed(Dtype dtype, const void* from, int64_t offset, int64_t step, int64_t count, int64_t D,
                            float* to, int64_t ld) {
  for_dtype(dtype, [&](auto* type) {
    load_transposed(static_cast<decltype(type)>(const_cast<void*>(from)) + offset, step, count, D, to, ld);
  });
}

static void store_transposed(Dtype dtype, const float* from, int64_t ld, int64_t count, int64_t D, void* to,
                             int64_t offset, int64_t step) {
  for_dtype(dtype,
            [&](auto* type) { store_transposed(from, ld, count, D, static_cast<decltype(type)>(to) + offset, step); });
}

INLINE vf column_length(const float* x, int64_t ld, int64_t D) {
  vf sum{};
  for (int64_t d = 0; d < D; ++d) {
    const vf value = load(x + d * ld);
    sum += value * value;
  }
  return square_root(sum);
}

INLINE vf inverse_length(vf length) { return 1.0f / maximum(broadcast(NORM_EPS), length); }

// Divides the columns of `x[D][ld]` by their lengths; `n` is a multiple of VL.
static void normalise_columns(float* x, int64_t ld, int64_t n, int64_t D) {
  for (int64_t i = 0; i < n; i += VL) {
    const vf inverse = inverse_length(column_length(x + i, ld, D));
    for (int64_t d = 0; d < D; ++d) store(x + d * ld + i, load(x + d * ld + i) * inverse);
  }
}

// result[n][lanes] = start[n] + sum_d x[d][lanes] * y[n][d]; `start(n, v)` gives the lanes' start values, and
// `largest(v, lanes)` gets the largest of them.
template <int N, int QV, class Start, class Largest>
INLINE void dot_block(const float* x, const float* y, int64_t D, float* result, const Start& start,
                      const Largest& largest) {
  constexpr int TQ = QV * VL;
  vf acc[N][QV];
#pragma GCC unroll 12
  for (int n = 0; n < N; ++n)
#pragma GCC unroll 2
    for (int v = 0; v < QV; ++v) acc[n][v] = start(n, v);
  for (int64_t d = 0; d < D; ++d) {
    vf lanes[QV];
#pragma GCC unroll 2
    for (int v = 0; v < QV; ++v) lanes[v] = load(x + d * TQ + v * VL);
#pragma GCC unroll 12
    for (int n = 0; n < N; ++n) {
      const vf value = broadcast(y[n * D + d]);
#pragma GCC unroll 2
      for (int v = 0; v < QV; ++v) acc[n][v] += lanes[v] * value;
    }
  }
#pragma GCC unroll 12
  for (int n = 0; n < N; ++n)
#pragma GCC unroll 2
    for (int v = 0; v < QV; ++v) store(result + n * TQ + v * VL, acc[n][v]);
#pragma GCC unroll 2
  for (int v = 0; v < QV; ++v) {
    vf high = acc[0][v];
#pragma GCC unroll 12
    for (int n = 1; n < N; ++n) high = maximum(high, acc[n][v]);
    largest(v, high);
  }
}

template <int QV, class Start, class Largest>
static void dots(const float* x, const float* y, int64_t N, int64_t D, float* result, const Start& start,
                 const Largest& largest) {
  constexpr int TQ = QV * VL;
  int64_t n = 0;
  const auto from_n = [&](int i, int v) ALWAYS_INLINE { return start(n + i, v); };
  for (; n + KEY_BLOCK <= N; n += KEY_BLOCK)
    dot_block<KEY_BLOCK, QV>(x, y + n * D, D, result + n * TQ, from_n, largest);
  for (; n + 6 <= N; n += 6) dot_block<6, QV>(x, y + n * D, D, result + n * TQ, from_n, largest);
  switch (N - n) {
    case 5: return dot_block<5, QV>(x, y + n * D, D, result + n * TQ, from_n, largest);
    case 4: return dot_block<4, QV>(x, y + n * D, D, result + n * TQ, from_n, largest);
    case 3: return dot_block<3, QV>(x, y + n * D, D, result + n * TQ, from_n, largest);
    case 2: return dot_block<2, QV>(x, y + n * D, D, result + n * TQ, from_n, largest);
    case 1: return dot_block<1, QV>(x, y + n * D, D, result + n * TQ, from_n, largest);
  }
}

template <int QV, class Start>
static void dots(const float* x, const float* y, int64_t N, int64_t D, float* result, const Start& start) {
  dots<QV>(x, y, N, D, result, start, [](int, vf) ALWAYS_INLINE {});
}

// result[d][lanes] = start(d, v) + sum_n weights[n][lanes] * y[n][d], in blocks of channels; `start(d, v)` gives the
// lanes' start values.
template <int DB, int QV, class Start>
INLINE void mix_block(const float* weights, const float* y, int64_t N, int64_t D, float* result, const Start& start) {
  constexpr int TQ = QV * VL;
  vf acc[DB][QV];
#pragma GCC unroll 12
  for (int d = 0; d < DB; ++d)
#pragma GCC unroll 2
    for (int v = 0; v < QV; ++v) acc[d][v] = start(d, v);
  for (int64_t n = 0; n < N; ++n) {
    vf lanes[QV];
#pragma GCC unroll 2
    for (int v = 0; v < QV; ++v) lanes[v] = load(weights + n * TQ + v * VL);
#pragma GCC unroll 12
    for (int d = 0; d < DB; ++d) {
      const vf value = broadcast(y[n * D + d]);
#pragma GCC unroll 2
      for (int v = 0; v < QV; ++v) acc[d][v] += lanes[v] * value;
    }
  }
#pragma GCC unroll 12
  for (int d = 0; d < DB; ++d)
#pragma GCC unroll 2
    for (int v = 0; v < QV; ++v) store(result + d * TQ + v * VL, acc[d][v]);
}

template <int QV, class Start>
static void mix(const float* weights, const float* y, int64_t N, int64_t D, float* result, const Start& start) {
  constexpr int TQ = QV * VL;
  int64_t d = 0;
  const auto from_d = [&](int i, int v) ALWAYS_INLINE { return start(d + i, v); };
  for (; d + CHANNEL_BLOCK <= D; d += CHANNEL_BLOCK)
    mix_block<CHANNEL_BLOCK, QV>(weights, y + d, N, D, result + d * TQ, from_d);
  for (; d + 4 <= D; d += 4) mix_block<4, QV>(weights, y + d, N, D, result + d * TQ, from_d);
  for (; d + 2 <= D; d += 2) mix_block<2, QV>(weights, y + d, N, D, result + d * TQ, from_d);
  for (; d < D; ++d) mix_block<1, QV>(weights, y + d, N, D, result + d * TQ, from_d);
}

template <int QV>
static void mix(const float* weights, const float* y, int64_t N, int64_t D, float* result) {
  mix<QV>(weights, y, N, D, result, [](int64_t, int) ALWAYS_INLINE { return vf{}; });
}

}  // namespace transnext::ISA
