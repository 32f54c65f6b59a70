// The MLP 2 -> hidden -> M of the log-spaced position bias over the grid of row and column coordinates. Lanes are
// columns.
//
// The hidden units of an entry are relu(row * w0 + column * w1 + b): they are made where they are used, never stored.
#pragma once

#include "vec.h"

namespace transnext::ISA {

constexpr int64_t HIDDEN_BLOCK = 64;  // long sums are sums of sums

template <int N>
INLINE void table_heads(const BiasTable& t, const float* row_part, const float* columns, int64_t first_head,
                        float* const* out, int64_t column, int64_t count) {
  vf total[N][2] = {};
  const vf place[2] = {load(columns), load(columns + VL)};
  for (int64_t k0 = 0; k0 < t.hidden; k0 += HIDDEN_BLOCK) {
    vf sum[N][2] = {};
    for (int64_t k = k0; k < std::min(t.hidden, k0 + HIDDEN_BLOCK); ++k) {
      vf unit[2];
      for (int v = 0; v < 2; ++v) unit[v] = maximum(vf{}, place[v] * t.column_weight[k] + row_part[k]);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
        const float weight = t.out_weight[(first_head + n) * t.hidden + k];
        for (int v = 0; v < 2; ++v) sum[n][v] += unit[v] * weight;
      }
    }
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n)
      for (int v = 0; v < 2; ++v) total[n][v] += sum[n][v];
  }
#pragma GCC unroll 4
  for (int n = 0; n < N; ++n)
    for (int v = 0; v < 2; ++v) {
      const vf value = total[n][v] + t.out_bias[first_head + n];
      for (int64_t l = 0; l < VL && v * VL + l < count; ++l) out[n][column + v * VL + l] = value[l];
    }
}

static void bias_table(const BiasTable& t, int64_t begin, int64_t end) {
  const int64_t width = round_up(t.columns, 2 * VL);
  float* row_part = scratch(t.hidden + width);
  float* columns = row_part + t.hidden;
  std::fill_n(columns, width, 0.0f);
  std::copy_n(t.column_coordinates, t.columns, columns);
  for (int64_t u = begin; u < end; ++u) {
    for (int64_t k = 0; k < t.hidden; ++k) row_part[k] = t.row_coordinates[u] * t.row_weight[k] + t.bias[k];
    for (int64_t v = 0; v < t.columns; v += 2 * VL) {
      const int64_t count = std::min<int64_t>(2 * VL, t.columns - v);
      for (int64_t m = 0; m < t.M; m += 4) {
        float* out[4];
        for (int64_t n = 0; n < 4; ++n) out[n] = t.out + (std::min(m + n, t.M - 1) * t.rows + u) * t.columns;
        switch (std::min<int64_t>(4, t.M - m)) {
          case 4: table_heads<4>(t, row_part, columns + v, m, out, v, count); break;
          case 3: table_heads<3>(t, row_part, columns + v, m, out, v, count); break;
          case 2: table_heads<2>(t, row_part, columns + v, m, out, v, count); break;
          default: table_heads<1>(t, row_part, columns + v, m, out, v, count);
        }
      }
    }
  }
}

// What a block of VL hidden units gets from `N` heads. Lanes are hidden units, so that nothing is summed across lanes.
template <int N>
static void table_gradient(const BiasTable& t, const BiasTableGradient& g, int64_t first_head, int64_t k, int64_t count,
                           vf (&sums)[3]) {
  const auto part = [&](const float* from) {
    vf x{};
    for (int64_t l = 0; l < count; ++l) x[l] = from[l];
    return x;
  };
  const vf row_weight = part(t.row_weight + k), column_weight = part(t.column_weight + k), bias = part(t.bias + k);
  vf weight[N], out_total[N] = {};
  for (int n = 0; n < N; ++n) weight[n] = part(t.out_weight + (first_head + n) * t.hidden + k);
  for (int64_t u = 0; u < t.rows; ++u) {
    const vf start = row_weight * t.row_coordinates[u] + bias;
    vf out_sum[N] = {}, bias_sum{}, column_sum{};  // long sums are sums of sums
    const float* grad[N];
    for (int n = 0; n < N; ++n) grad[n] = g.grad + ((first_head + n) * t.rows + u) * t.columns;
    for (int64_t v = 0; v < t.columns; ++v) {
      const vf before = column_weight * t.column_coordinates[v] + start, unit = maximum(vf{}, before);
      vf slope{};
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
        out_sum[n] += unit * grad[n][v];
        slope += weight[n] * grad[n][v];
      }
      slope = select(before > 0.0f, slope, vf{});
      bias_sum += slope;
      column_sum += slope * t.column_coordinates[v];
    }
    for (int n = 0; n < N; ++n) out_total[n] += out_sum[n];
    sums[0] += bias_sum * t.row_coordinates[u];
    sums[1] += column_sum;
    sums[2] += bias_sum;
  }
  for (int n = 0; n < N; ++n)
    for (int64_t l = 0; l < count; ++l) g.out_weight[(first_head + n) * t.hidden + k + l] = out_total[n][l];
}

static void bias_table_backward(const BiasTable& t, const BiasTableGradient& g, int64_t begin, int64_t end) {
  for (int64_t block = begin; block < end; ++block) {
    const int64_t k = block * VL, count = std::min<int64_t>(VL, t.hidden - k);
    vf sums[3] = {};
    int64_t m = 0;
    for (; m + 4 <= t.M; m += 4) table_gradient<4>(t, g, m, k, count, sums);
    for (; m < t.M; ++m) table_gradient<1>(t, g, m, k, count, sums);
    for (int64_t l = 0; l < count; ++l) {
      g.row_weight[k + l] = sums[0][l];
      g.column_weight[k + l] = sums[1][l];
      g.bias[k + l] = sums[2][l];
    }
  }
}

}  // namespace transnext::ISA
