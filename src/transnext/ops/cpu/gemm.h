// Matrix products of channels-last rows with packed weights: C[T, N] = A[T, K] B[K, N].
//
// Weights come as panels `[ceil(N / PANEL), K, PANEL]`, zero-padded, so that the inner loop reads them in order. One tile of C,
// ROWS x PANEL, is kept in registers over a block of K; the panel's block stays in the first-level cache while all rows of A
// pass by.

constexpr int PANEL = 2 * VL;
constexpr int ROWS = VL == 16 ? 12 : (VL == 8 ? 6 : 4);
constexpr int64_t K_BLOCK = 384;  // a panel's block: 24 KB with 8 lanes

template <int R>
INLINE void multiply_tile(const float* a, int64_t lda, const float* panel, int64_t depth, vf (&acc)[R][2]) {
  for (int64_t k = 0; k < depth; ++k) {
    const vf b0 = load(panel + k * PANEL), b1 = load(panel + k * PANEL + VL);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const vf x = broadcast(a[r * lda + k]);
      acc[r][0] += x * b0;
      acc[r][1] += x * b1;
    }
  }
}

// What happens to a finished tile: `epilogue(row, column, value)` stores lanes column .. column + VL - 1 of a row.
template <int R, class Epilogue>
static void gemm_tile(const float* a, int64_t lda, const float* panel, int64_t depth, const float* bias, float* partial,
                      int64_t ld_partial, bool first, bool last, int64_t row, int64_t column, const Epilogue& epilogue) {
  vf acc[R][2];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    acc[r][0] = first ? load(bias) : load(partial + r * ld_partial);
    acc[r][1] = first ? load(bias + VL) : load(partial + r * ld_partial + VL);
  }
  multiply_tile<R>(a, lda, panel, depth, acc);
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    if (last) {
      epilogue(row + r, column, acc[r][0]);
      epilogue(row + r, column + VL, acc[r][1]);
    } else {
      store(partial + r * ld_partial, acc[r][0]);
      store(partial + r * ld_partial + VL, acc[r][1]);
    }
  }
}

template <int R, class Epilogue>
struct TileOfRows {
  static void run(int64_t rows, const float* a, int64_t lda, const float* panel, int64_t depth, const float* bias,
                  float* partial, int64_t ld_partial, bool first, bool last, int64_t row, int64_t column,
                  const Epilogue& epilogue) {
    if (rows == R)
      gemm_tile<R>(a, lda, panel, depth, bias, partial, ld_partial, first, last, row, column, epilogue);
    else
      TileOfRows<R - 1, Epilogue>::run(rows, a, lda, panel, depth, bias, partial, ld_partial, first, last, row, column,
                                       epilogue);
  }
};
template <class Epilogue>
struct TileOfRows<0, Epilogue> {
  static void run(int64_t, const float*, int64_t, const float*, int64_t, const float*, float*, int64_t, bool, bool, int64_t,
                  int64_t, const Epilogue&) {}
};

// `bias` has ceil(N / PANEL) * PANEL entries. `scratch` holds T * PANEL floats. The epilogue sees columns up to that many.
template <class Epilogue>
static void gemm(const float* a, int64_t lda, int64_t T, int64_t K, const float* panels, int64_t num_panels,
                 const float* bias, float* scratch, const Epilogue& epilogue) {
  const int64_t blocks = std::max<int64_t>(1, (K + K_BLOCK - 1) / K_BLOCK), block = (K + blocks - 1) / blocks;
  for (int64_t n = 0; n < num_panels; ++n)
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t k = b * block, depth = std::min(block, K - k);
      const float* panel = panels + (n * K + k) * PANEL;
      for (int64_t t = 0; t < T; t += ROWS)
        TileOfRows<ROWS, Epilogue>::run(std::min<int64_t>(ROWS, T - t), a + t * lda + k, lda, panel, depth, bias + n * PANEL,
                                        scratch + t * PANEL, PANEL, b == 0, b == blocks - 1, t, n * PANEL, epilogue);
    }
}
