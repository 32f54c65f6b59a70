// How attention reads the position bias: rows of a table per axis, resized where the trained size is another.
#pragma once

#include "vec.h"

namespace transnext::ISA {

// Reads the position bias of the pooled keys for a row of queries.
struct BiasReader {
  const Attention& a;
  const float* table;  // of the head
  float* blended;      // [P_h][row_length] where rows are resized
  const float** keys;  // [P]: bias of query column 0 and each key, unless columns are resized
  int64_t i = 0;

  void start_row(int64_t query_row) {
    i = query_row;
    if (a.rows.resized) blend_rows();
    if (a.cols.resized) return;
    for (int64_t y = 0; y < a.P_h; ++y)
      for (int64_t x = 0; x < a.P_w; ++x) keys[y * a.P_w + x] = row(y) + column(x);
  }

  void blend_rows() {
    const Axis& axis = a.rows;
    const float share_q = axis.query_share[i];
    for (int64_t p = 0; p < a.P_h; ++p) {
      float* to = blended + p * a.row_length;
      const float share_k = axis.key_share[p];
      const float* source[4];
      const float weight[4] = {(1 - share_q) * (1 - share_k), (1 - share_q) * share_k, share_q * (1 - share_k),
                               share_q * share_k};
      for (int t = 0; t < 4; ++t) source[t] = table + entry(p, t) * a.row_length;
      for (int64_t u = 0; u < a.row_length; ++u)
        to[u] =
            weight[0] * source[0][u] + weight[1] * source[1][u] + weight[2] * source[2][u] + weight[3] * source[3][u];
    }
  }

  // Table row of tap `t` of the current row of queries and pooled row `p`.
  int64_t entry(int64_t p, int t) const {
    const Axis& axis = a.rows;
    return axis.step * (t < 2 ? axis.query_first[i] : axis.query_second[i]) +
           axis.key_offset[t % 2 == 0 ? axis.key_first[p] : axis.key_second[p]];
  }

  const float* row(int64_t p) const {
    return a.rows.resized ? blended + p * a.row_length
                          : table + (a.rows.step * i + a.rows.key_offset[p]) * a.row_length;
  }

  // Where query column 0 and pooled column `p` read a row of the table, when columns are not resized.
  int64_t column(int64_t p) const {
    const int64_t offset = a.cols.key_offset[p];
    return a.cols.step == 1 ? offset : (offset % 2) * a.odd_start + offset / 2;
  }

  // Bias of the queries j .. j + VL - 1 and pooled column `p`, when columns are resized.
  vf resized_lanes(const float* table_row, int64_t p, int64_t j) const {
    const Axis& axis = a.cols;
    const float share_k = axis.key_share[p];
    const float *first = table_row + axis.key_offset[axis.key_first[p]],
                *second = table_row + axis.key_offset[axis.key_second[p]];
    vf result{};
    const int64_t count = std::min<int64_t>(VL, a.W - j);
    for (int64_t l = 0; l < count; ++l) {
      const int64_t q0 = axis.step * axis.query_first[j + l], q1 = axis.step * axis.query_second[j + l];
      const float left = first[q0] + share_k * (second[q0] - first[q0]),
                  right = first[q1] + share_k * (second[q1] - first[q1]);
      result[l] = left + axis.query_share[j + l] * (right - left);
    }
    return result;
  }
};

}  // namespace transnext::ISA
