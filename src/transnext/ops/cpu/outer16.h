// The gradient of weights by products of bfloat16 numbers: sums over rows of outer products.
#pragma once

#include "gemm16.h"
#include "transpose.h"

namespace transnext::ISA {

// Rows that are packed at a time, and whose products are summed before they are added to the rest.
constexpr int64_t OUTER_ROWS = 256;
#if BF16_TILES
constexpr int64_t OUTER_TILE = TILE;  // columns of `left`
#else
constexpr int64_t OUTER_TILE = ROWS_OF_TILE;
#endif
constexpr int64_t PAIR_FLOATS = OUTER_ROWS / 2;  // a column's pairs, each as long as a float

// `count` rows of up to WIDTH neighbouring columns as pairs of rows, `[PAIR_FLOATS][WIDTH][2]`; what is missing of
// columns and of the last DEPTH_16 rows is 0. The columns' sums are added to `sums`.
template <int WIDTH, class T>
static void take_pairs(const T* from, int64_t step, int64_t count, int64_t columns, uint16_t* to, float* sums) {
  for (int64_t c = 0; c < WIDTH; c += VL) {
    const int64_t width = std::min<int64_t>(VL, WIDTH - c), there = std::max<int64_t>(0, std::min(width, columns - c));
    vf total{};
    for (int64_t t = 0; t < round_up(count, DEPTH_16); t += 2) {
      const auto row = [&](int64_t t) ALWAYS_INLINE {
        if (t >= count) return vf{};
        return there == VL ? load_as_float(from + t * step + c) : load_some(from + t * step + c, there);
      };
      const vf even = row(t), odd = row(t + 1);
      total += even + odd;
      const vi pairs = pairs_of(even, odd);
      uint16_t* place = to + t * WIDTH + 2 * c;
      if (width == VL)
        store_pairs(place, pairs);
      else
        for (int64_t i = 0; i < width; ++i)
          __builtin_memcpy(place + 2 * i, reinterpret_cast<const int32_t*>(&pairs) + i, 4);
    }
    if (sums)
      for (int64_t i = 0; i < there; ++i) sums[c + i] += total[i];
  }
}

template <int WIDTH>
static void take_pairs(const Rows& rows, int64_t first, int64_t column, int64_t count, int64_t columns, uint16_t* to,
                       float* sums) {
  for_factor(rows.dtype, [&](auto* type) {
    const auto* from = static_cast<decltype(type)>(const_cast<void*>(rows.data));
    take_pairs<WIDTH>(from + first * rows.step + column, rows.step, count, columns, to, sums);
  });
}

#if BF16_TILES

// Columns as rows: `[PAIR_FLOATS][TILE]` pairs to registers' contents, `[PAIR_FLOATS / TILE][TILE columns][TILE
// pairs]`.
static void turn_pairs(const uint16_t* pairs, int64_t count, uint16_t* to) {
  const float* from = reinterpret_cast<const float*>(pairs);
  float* turned = reinterpret_cast<float*>(to);
  for (int64_t first = 0; first < count; first += TILE)
    for (int64_t m = 0; m < TILE; m += 4)
      for (int64_t t = 0; t < TILE; t += 4) {
        const float* p = from + (first + t) * TILE + m;
        vf4 a = load4(p), b = load4(p + TILE), c = load4(p + 2 * TILE), d = load4(p + 3 * TILE);
        transpose4(a, b, c, d);
        float* place = turned + (first + m) * TILE + t;
        store4(place, a);
        store4(place + TILE, b);
        store4(place + 2 * TILE, c);
        store4(place + 3 * TILE, d);
      }
}

static void outer_tile_16(TileRegisters& tiles, const uint16_t* left, const uint16_t* right, int64_t count, int64_t,
                          float* total) {
  alignas(64) float sums[TILE * PANEL_16];
  TILE_ZERO(0);
  TILE_ZERO(1);
  for (int64_t t = 0; t < count; t += TILE_STEP) {
    TILE_LOAD(4, left + t * TILE, TILE * 4);
    TILE_LOAD(6, right + t * PANEL_16, PANEL_16 * 4);
    TILE_DOT(0, 4, 6);
    TILE_LOAD(7, right + t * PANEL_16 + PANEL_16, PANEL_16 * 4);
    TILE_DOT(1, 4, 7);
  }
  TILE_STORE(0, sums, PANEL_16 * 4);
  TILE_STORE(1, sums + TILE, PANEL_16 * 4);
  for (int64_t i = 0; i < TILE * PANEL_16; i += VL) store(total + i, load(total + i) + load(sums + i));
}

#else

template <int R>
static void outer_rows_16(const uint16_t* left, const uint16_t* right, int64_t count, float* total) {
  vf acc[R][VECTORS_16] = {};
  for (int64_t t = 0; t < count; t += 2) {
    vi b[VECTORS_16];
    UNROLL_16
    for (int v = 0; v < VECTORS_16; ++v) b[v] = load_pairs(right + t * PANEL_16 + v * 2 * VL);
    UNROLL_16
    for (int r = 0; r < R; ++r) {
      const vi x = broadcast_pair(left + t * OUTER_TILE + 2 * r);
      UNROLL_16
      for (int v = 0; v < VECTORS_16; ++v) acc[r][v] = dot_pairs(acc[r][v], x, b[v]);
    }
  }
  UNROLL_16
  for (int r = 0; r < R; ++r) {
    UNROLL_16
    for (int v = 0; v < VECTORS_16; ++v) {
      float* place = total + r * PANEL_16 + v * VL;
      store(place, load(place) + acc[r][v]);
    }
  }
}

template <int R>
INLINE void outer_some_16(int64_t rows, const uint16_t* left, const uint16_t* right, int64_t count, float* total) {
  if constexpr (R > 0) {
    if (rows == R) return outer_rows_16<R>(left, right, count, total);
    outer_some_16<R - 1>(rows, left, right, count, total);
  }
}

static void outer_tile_16(NoRegisters, const uint16_t* left, const uint16_t* right, int64_t count, int64_t rows,
                          float* total) {
  outer_some_16<OUTER_TILE>(rows, left, right, count, total);
}

#endif

INLINE int64_t outer_tiles_16(int64_t M) { return (M + OUTER_TILE - 1) / OUTER_TILE; }

static int64_t outer_scratch_16(int64_t M) {
  return PAIR_FLOATS * (PANEL_16 + outer_tiles_16(M) * OUTER_TILE + (BF16_TILES ? OUTER_TILE : 0));
}

// Adds to the totals of panels [begin, end). Sums of `left` are added once, where `begin` is 0.
static void add_outer_16(const OuterProduct16& p, int64_t begin, int64_t end, float* totals, float* work) {
#if BF16_TILES
  TileRegisters registers;
  constexpr int64_t OUTER_DEPTH = TILE;
#else
  NoRegisters registers;
  constexpr int64_t OUTER_DEPTH = 1;
#endif
  const int64_t tiles = outer_tiles_16(p.M), panel_floats = round_up(p.M, OUTER_DEPTH) * PANEL_16;
  uint16_t* right = reinterpret_cast<uint16_t*>(work);
  uint16_t* left = reinterpret_cast<uint16_t*>(work + PAIR_FLOATS * PANEL_16);
  [[maybe_unused]] uint16_t* turned = reinterpret_cast<uint16_t*>(work + PAIR_FLOATS * (PANEL_16 + tiles * OUTER_TILE));
  for (int64_t first = 0; first < p.rows; first += OUTER_ROWS) {
    const int64_t count = std::min(OUTER_ROWS, p.rows - first);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t m = tile * OUTER_TILE, columns = std::min(OUTER_TILE, p.M - m);
      float* sums = p.left_sums && begin == 0 ? p.left_sums + m : nullptr;
      uint16_t* to = left + tile * OUTER_TILE * OUTER_ROWS;
#if BF16_TILES
      take_pairs<OUTER_TILE>(p.left, first, m, count, columns, turned, sums);
      turn_pairs(turned, round_up(count, DEPTH_16) / 2, to);
#else
      take_pairs<OUTER_TILE>(p.left, first, m, count, columns, to, sums);
#endif
    }
    for (int64_t panel = begin; panel < end; ++panel) {
      const int64_t n = panel * PANEL_16;
      take_pairs<PANEL_16>(p.right, first, n, count, std::min(PANEL_16, p.N - n), right,
                           p.right_sums ? p.right_sums + n : nullptr);
      float* total = totals + (panel - begin) * panel_floats;
      for (int64_t tile = 0; tile < tiles; ++tile)
        outer_tile_16(registers, left + tile * OUTER_TILE * OUTER_ROWS, right, count,
                      std::min(OUTER_TILE, p.M - tile * OUTER_TILE), total + tile * OUTER_TILE * PANEL_16);
    }
  }
}

}  // namespace transnext::ISA
