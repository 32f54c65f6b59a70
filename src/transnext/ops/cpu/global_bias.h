// How attention of all pixels to all reads the position bias: for a tile of queries and a block of keys at a time, so
// that none of size N x N is ever there.
//
// The bias of a query in column j and a key in column x of two given rows is entry j - x of a row of the table. Queries
// side by side read a contiguous piece of it, and the next key reads the same one entry lower. Where the bias is
// resized from a trained size, the columns are resized first, to `[U_h][keys][queries]`, and four such rows are blended
// for each pair of rows of the map.
#pragma once

#include "vec.h"

namespace transnext::ISA {

// `count` lanes from `lane` on are the pixels from column j of row i on.
struct Piece {
  int64_t lane, i, j, count;
};

// Pixels first .. first + count - 1 of an image, cut where rows of the map end and at VL of them.
struct PixelTile {
  static constexpr int64_t MOST = 2 * VL;
  int64_t first, count, pieces = 0;
  Piece piece[MOST];

  PixelTile(const GlobalAttention& a, int64_t first, int64_t count) : first(first), count(count) {
    for (int64_t n = first; n < first + count;) {
      const int64_t i = n / a.W, j = n % a.W, run = std::min({a.W - j, first + count - n, static_cast<int64_t>(VL)});
      piece[pieces++] = {n - first, i, j, run};
      n += run;
    }
  }
};

// Calls `use(y, x, end, place)` for the rows of the map that keys [first, last) lie in: columns [x, end) of row y,
// which come at `place` among them.
template <class Use>
INLINE void for_key_rows(const GlobalAttention& a, int64_t first, int64_t last, const Use& use) {
  for (int64_t n = first; n < last;) {
    const int64_t y = n / a.W, x = n % a.W, end = std::min(a.W, x + last - n);
    use(y, x, end, n - first);
    n += end - x;
  }
}

// What a query row and a key row blend where the bias is resized: entries of the rows' axis, and their weights.
struct RowBlend {
  int64_t entry[4];
  float weight[4];

  RowBlend(const Axis& rows, int64_t i, int64_t y) {
    for (int t = 0; t < 4; ++t) {
      const float share_q = rows.query_share[i], share_k = rows.key_share[y];
      entry[t] = rows.step * (t < 2 ? rows.query_first[i] : rows.query_second[i]) +
                 rows.key_offset[t % 2 == 0 ? rows.key_first[y] : rows.key_second[y]];
      weight[t] = (t < 2 ? 1 - share_q : share_q) * (t % 2 == 0 ? 1 - share_k : share_k);
    }
  }
};

// The bias of a head, and its gradient.
struct GlobalBias {
  const GlobalAttention& a;
  float* columns;                // [U_h][W][width] where the bias is resized
  const float* table = nullptr;  // of the head

  static int64_t width(const GlobalAttention& a) { return a.W + VL; }
  static int64_t columns_floats(const GlobalAttention& a) { return a.resized() ? a.rows.entries * a.W * width(a) : 0; }

  void start_head(int64_t m) {
    table = a.table.data() + m * a.table_floats();
    if (!a.resized()) return;
    const Axis& axis = a.cols;
    std::fill_n(columns, columns_floats(a), 0.0f);
    for (int64_t u = 0; u < a.rows.entries; ++u)
      for (int64_t x = 0; x < a.W; ++x) {
        const float share_k = axis.key_share[x];
        const float *first = table + u * axis.entries + axis.key_offset[axis.key_first[x]],
                    *second = table + u * axis.entries + axis.key_offset[axis.key_second[x]];
        float* to = columns + (u * a.W + x) * width(a);
        for (int64_t j = 0; j < a.W; ++j) {
          const int64_t q0 = axis.query_first[j], q1 = axis.query_second[j];
          const float left = first[q0] + share_k * (second[q0] - first[q0]),
                      right = first[q1] + share_k * (second[q1] - first[q1]);
          to[j] = left + axis.query_share[j] * (right - left);
        }
      }
  }

  // Where column 0 of a query row and column 0 of a key row read the table.
  int64_t place(int64_t i, int64_t y) const {
    return (i + a.rows.key_offset[y]) * a.cols.entries + a.cols.key_offset[0];
  }

  // Bias of a tile and keys [first, last), `[keys][TQ]`. Whole vectors are stored: what a piece writes too much, the
  // next one overwrites, and after the last key that is up to VL floats.
  template <int QV>
  void fill(const PixelTile& tile, int64_t first, int64_t last, float* result) const {
    constexpr int TQ = QV * VL;
    for_key_rows(a, first, last, [&](int64_t y, int64_t x, int64_t end, int64_t at) {
      float* to = result + at * TQ;
      if (a.resized()) return fill_resized<QV>(tile, y, x, end, to);
      const float* from[PixelTile::MOST];
      for (int64_t p = 0; p < tile.pieces; ++p) from[p] = table + place(tile.piece[p].i, y) + tile.piece[p].j - x;
      for (int64_t n = 0; n < end - x; ++n, to += TQ)
        for (int64_t p = 0; p < tile.pieces; ++p) store(to + tile.piece[p].lane, load(from[p] - n));
    });
  }

  template <int QV>
  void fill_resized(const PixelTile& tile, int64_t y, int64_t x, int64_t end, float* to) const {
    for (; x < end; ++x, to += QV * VL)
      for (int64_t p = 0; p < tile.pieces; ++p) {
        const RowBlend blend(a.rows, tile.piece[p].i, y);
        vf sum{};
        for (int t = 0; t < 4; ++t)
          sum += load(columns + (blend.entry[t] * a.W + x) * width(a) + tile.piece[p].j) * blend.weight[t];
        store(to + tile.piece[p].lane, sum);
      }
  }

  // The transpose of `fill`: adds gradients `[keys][TQ]` to `sums`, which is laid out as the table is, or as `columns`.
  template <int QV>
  void add(const PixelTile& tile, int64_t first, int64_t last, const float* grads, float* sums) const {
    constexpr int TQ = QV * VL;
    for_key_rows(a, first, last, [&](int64_t y, int64_t x, int64_t end, int64_t at) {
      for (int64_t p = 0; p < tile.pieces; ++p) {
        const Piece& piece = tile.piece[p];
        const float* from = grads + at * TQ + piece.lane;
        if (a.resized()) {
          const RowBlend blend(a.rows, piece.i, y);
          for (int64_t n = 0; n < end - x; ++n) {
            const vf lanes = first_lanes(load(from + n * TQ), piece.count);
            for (int t = 0; t < 4; ++t) {
              float* to = sums + (blend.entry[t] * a.W + x + n) * width(a) + piece.j;
              store(to, load(to) + lanes * blend.weight[t]);
            }
          }
          continue;
        }
        // From the last key to the first the piece moves up by one entry each time. What it holds of the lowest one is
        // complete then: stores that overlap the next load would stall it.
        float* to = sums + place(piece.i, y) + piece.j - (end - 1);
        vf open{};
        for (int64_t n = end - x - 1; n >= 0; --n, ++to) {
          open += first_lanes(load(from + n * TQ), piece.count);
          *to += open[0];
          open = shift_down(open);
        }
        store(to, load(to) + open);
      }
    });
  }

  // Adds sums that are laid out as `columns` to those of a table.
  void add_columns(const float* sums, float* to) const {
    const Axis& axis = a.cols;
    for (int64_t u = 0; u < a.rows.entries; ++u)
      for (int64_t x = 0; x < a.W; ++x) {
        const float share_k = axis.key_share[x], *from = sums + (u * a.W + x) * width(a);
        float *first = to + u * axis.entries + axis.key_offset[axis.key_first[x]],
              *second = to + u * axis.entries + axis.key_offset[axis.key_second[x]];
        for (int64_t j = 0; j < a.W; ++j) {
          const int64_t q0 = axis.query_first[j], q1 = axis.query_second[j];
          const float right = axis.query_share[j] * from[j], left = from[j] - right;
          first[q0] += (1 - share_k) * left;
          second[q0] += share_k * left;
          first[q1] += (1 - share_k) * right;
          second[q1] += share_k * right;
        }
      }
  }
};

}  // namespace transnext::ISA
