// The product of bfloat16 rows with packed bfloat16 weights, summed in float32, and what becomes of it: `Product16`.
//
// As in gemm.h a tile of the result stays in registers over a block of the depth, and the block of a panel in the
// first-level cache while all rows pass by. With vectors a tile is 12 rows of 32 columns; with tile registers it is 32.
#pragma once

// bf16_*.cpp set this where tile registers multiply, not vectors.
#ifndef BF16_TILES
#define BF16_TILES 0
#endif

#if BF16_TILES
#include "tile_registers.h"
#else
#include "bfloat16.h"
#endif

namespace transnext::ISA {

constexpr int VECTORS_16 = PANEL_16 / VL;
constexpr int64_t DEPTH_BLOCK = 384;  // a panel's block: 24 KB

// What is wanted of a product, with the type of its result.
template <class T>
struct Result16 {
  const Product16& p;
  T* out;
  const T* residual;  // or null

  explicit Result16(const Product16& p)
      : p(p), out(static_cast<T*>(p.out)), residual(static_cast<const T*>(p.residual)) {}

  // Of a panel: nothing but sums, and sums with the residual, can go from registers to their place.
  bool is_plain(int64_t column) const {
    return column + PANEL_16 <= p.N && p.gelu_from >= std::min(p.N, column + PANEL_16);
  }

  INLINE_MEMBER void put(int64_t row, int64_t column, vf sums) const {
    const int64_t place = row * p.N + column;
    if (residual) sums += load_as_float(residual + place);
    store_result(out + place, sums);
  }

  // Rows of a panel's sums that lie in memory, to which `bias` is added if it is not null.
  void finish(const float* sums, const float* bias, int64_t rows, int64_t row, int64_t column) const {
    for (int64_t r = 0; r < rows; ++r)
      for (int v = 0; v < VECTORS_16; ++v) {
        const int64_t c = column + v * VL;
        vf x = load(sums + r * PANEL_16 + v * VL);
        if (bias) x += load(bias + v * VL);
        if (c + VL <= p.N && (c >= p.gelu_from || c + VL <= p.gelu_from)) {
          put(row + r, c, c >= p.gelu_from ? gelu(x) : x);
          continue;
        }
        const vf curved = gelu(x);
        for (int64_t l = 0; l < VL && c + l < p.N; ++l) {
          const int64_t place = (row + r) * p.N + c + l;
          const float value = c + l >= p.gelu_from ? curved[l] : x[l];
          narrow(residual ? value + widen(residual[place]) : value, out + place);
        }
      }
  }
};

// A block of the depth of a panel, for all rows.
struct Block16 {
  const uint16_t *left, *panel;  // from its first channel on
  int64_t depth, step;           // of the block; elements between rows of `left`
  const float* bias;             // of the panel
  int64_t column;
  bool first, last;
};

#if BF16_TILES

constexpr int64_t TILE_STEP = 2 * TILE;  // channels that a register holds

// Up to 32 rows of the block, to the rows of `sums`.
static void tile_block(TileRegisters& tiles, const Block16& b, int64_t row, int64_t rows, float* sums) {
  constexpr int64_t ROW = PANEL_16 * 4;  // bytes
  const bool both = rows > TILE;
  float* below = sums + TILE * PANEL_16;
  if (b.first) {
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
  } else {
    TILE_LOAD(0, sums, ROW);
    TILE_LOAD(1, sums + TILE, ROW);
    if (both) {
      TILE_LOAD(2, below, ROW);
      TILE_LOAD(3, below + TILE, ROW);
    }
  }
  const uint16_t *left = b.left + row * b.step, *right = b.panel;
  for (int64_t k = 0; k < b.depth; k += TILE_STEP, left += TILE_STEP, right += TILE_STEP * PANEL_16) {
    TILE_LOAD(4, left, b.step * 2);
    TILE_LOAD(6, right, ROW);
    TILE_DOT(0, 4, 6);
    TILE_LOAD(7, right + PANEL_16, ROW);
    TILE_DOT(1, 4, 7);
    if (!both) continue;
    TILE_LOAD(5, left + TILE * b.step, b.step * 2);
    TILE_DOT(2, 5, 6);
    TILE_DOT(3, 5, 7);
  }
  TILE_STORE(0, sums, ROW);
  TILE_STORE(1, sums + TILE, ROW);
  if (!both) return;
  TILE_STORE(2, below, ROW);
  TILE_STORE(3, below + TILE, ROW);
}

template <class T>
static void multiply_block(TileRegisters& tiles, const Result16<T>& result, const Block16& b) {
  for (int64_t t = 0; t < result.p.rows; t += 2 * TILE) {
    const int64_t rows = std::min(2 * TILE, result.p.rows - t);
    float* sums = result.p.partial + t * PANEL_16;
    tile_block(tiles, b, t, rows, sums);
    if (b.last) result.finish(sums, b.bias, rows, t, b.column);
  }
}

#else

constexpr int ROWS_OF_TILE = VL == 16 ? 12 : 4;

struct NoRegisters {};

template <int R, class T>
static void dot_tile(const Result16<T>& result, const Block16& b, int64_t row) {
  vf acc[R][VECTORS_16];
  float* partial = result.p.partial + row * PANEL_16;
  UNROLL_16
  for (int r = 0; r < R; ++r) {
    UNROLL_16
    for (int v = 0; v < VECTORS_16; ++v) acc[r][v] = load((b.first ? b.bias : partial + r * PANEL_16) + v * VL);
  }
  const uint16_t* left = b.left + row * b.step;
  for (int64_t k = 0; k < b.depth; k += 2) {
    vi right[VECTORS_16];
    UNROLL_16
    for (int v = 0; v < VECTORS_16; ++v) right[v] = load_pairs(b.panel + k * PANEL_16 + v * 2 * VL);
    UNROLL_16
    for (int r = 0; r < R; ++r) {
      const vi x = broadcast_pair(left + r * b.step + k);
      UNROLL_16
      for (int v = 0; v < VECTORS_16; ++v) acc[r][v] = dot_pairs(acc[r][v], x, right[v]);
    }
  }
  if (b.last && result.is_plain(b.column)) {
    UNROLL_16
    for (int r = 0; r < R; ++r) {
      UNROLL_16
      for (int v = 0; v < VECTORS_16; ++v) result.put(row + r, b.column + v * VL, acc[r][v]);
    }
    return;
  }
  UNROLL_16
  for (int r = 0; r < R; ++r) {
    UNROLL_16
    for (int v = 0; v < VECTORS_16; ++v) store(partial + r * PANEL_16 + v * VL, acc[r][v]);
  }
  if (b.last) result.finish(partial, nullptr, R, row, b.column);
}

template <int R, class T>
INLINE void dot_rows(int64_t rows, const Result16<T>& result, const Block16& b, int64_t row) {
  if constexpr (R > 0) {
    if (rows == R) return dot_tile<R>(result, b, row);
    dot_rows<R - 1>(rows, result, b, row);
  }
}

template <class T>
static void multiply_block(NoRegisters, const Result16<T>& result, const Block16& b) {
  for (int64_t t = 0; t < result.p.rows; t += ROWS_OF_TILE)
    dot_rows<ROWS_OF_TILE>(std::min<int64_t>(ROWS_OF_TILE, result.p.rows - t), result, b, t);
}

#endif

#if BF16_TILES
constexpr int64_t DEPTH_16 = TILE_STEP;
#else
constexpr int64_t DEPTH_16 = 2;
#endif

INLINE int64_t panels_of_16(int64_t N) { return (N + PANEL_16 - 1) / PANEL_16; }

template <class T>
static void multiply_as(const Product16& p) {
#if BF16_TILES
  TileRegisters registers;
#else
  NoRegisters registers;
#endif
  const Result16<T> result(p);
  const int64_t blocks = std::max<int64_t>(1, (p.depth + DEPTH_BLOCK - 1) / DEPTH_BLOCK);
  const int64_t block = round_up((p.depth + blocks - 1) / blocks, DEPTH_16);
  for (int64_t n = 0; n < panels_of_16(p.N); ++n)
    for (int64_t k = 0; k == 0 || k < p.depth; k += block)
      multiply_block(registers, result,
                     Block16{p.left + k, p.panels + n * p.depth * PANEL_16 + k * PANEL_16, std::min(block, p.depth - k),
                             p.depth, p.bias + n * PANEL_16, n * PANEL_16, k == 0, k + block >= p.depth});
}

static void multiply(const Product16& p) {
  for_factor(p.dtype, [&](auto* type) { multiply_as<std::remove_pointer_t<decltype(type)>>(p); });
}

static void round_rows(const Rows& rows, int64_t count, int64_t K, uint16_t* to) {
  const int64_t depth = round_up(K, DEPTH_16);
  for_factor(rows.dtype, [&](auto* type) {
    const auto* from = static_cast<decltype(type)>(const_cast<void*>(rows.data));
    for (int64_t t = 0; t < count; ++t) round_row(from + t * rows.step, K, depth, to + t * depth);
  });
}

// Panels [begin, end) from weights of type T.
template <class T>
static void pack_as(const PackPanels16& p, int64_t begin, int64_t end) {
  constexpr int64_t PAIRS = 32;  // of a column at a time: 4 KB of a panel, which stay in the first-level cache
  const int64_t depth = round_up(p.K, DEPTH_16);
  const T* weight = static_cast<const T*>(p.weight);
  for (int64_t panel = begin; panel < end; ++panel) {
    uint16_t* to = p.panels + panel * depth * PANEL_16;
    const int64_t first = panel * PANEL_16, count = std::min(PANEL_16, p.N - first);
    if (p.k_step == 1) {
      if (count < PANEL_16) std::fill_n(to, depth * PANEL_16, static_cast<uint16_t>(0));
      for (int64_t k = 0; k < depth; k += 2 * PAIRS)
        for (int64_t n = 0; n < count; ++n) {
          uint16_t column[2 * PAIRS];
          const int64_t channels = std::max<int64_t>(0, std::min(2 * PAIRS, p.K - k)),
                        most = std::min(2 * PAIRS, depth - k);
          round_row(weight + (first + n) * p.n_step + k, channels, most, column);
          for (int64_t i = 0; i < most; i += 2) __builtin_memcpy(to + (k + i) * PANEL_16 + 2 * n, column + i, 4);
        }
      continue;
    }
    for (int64_t k = 0; k < depth; k += 2)
      for (int v = 0; v < VECTORS_16; ++v) {
        const int64_t columns = std::min<int64_t>(VL, std::max<int64_t>(0, count - v * VL));
        const auto row = [&](int64_t channel) ALWAYS_INLINE {
          const T* from = weight + channel * p.k_step + (first + v * VL) * p.n_step;
          if (channel >= p.K) return vf{};
          return columns == VL ? load_as_float(from) : load_some(from, columns);
        };
        store_pairs(to + k * PANEL_16 + v * 2 * VL, pairs_of(row(k), row(k + 1)));
      }
  }
}

static void pack(const PackPanels16& p, int64_t begin, int64_t end) {
  for_factor(p.dtype, [&](auto* type) { pack_as<std::remove_pointer_t<decltype(type)>>(p, begin, end); });
}

}  // namespace transnext::ISA
