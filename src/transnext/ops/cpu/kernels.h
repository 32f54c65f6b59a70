// What the kernels take, and the table of kernels that each instruction set fills. No code of a kernel is here.
//
// Shape legend: `B` batch, `H W` feature map, `M` heads, `D` channels of a head, `w` window side, `K = w * w`, `P_h
// P_w` pooled grid, `P = P_h * P_w`, `F` hidden channels. Maps are channels-last. Strides count elements.
#pragma once

#include <cstdint>
#include <vector>

namespace transnext {

// Length below which a vector is not normalised but divided by this, as torch.nn.functional.normalize does.
constexpr float NORM_EPS = 1e-12f;

enum class Dtype { Float, BFloat16, Half };

// A map `[B, H, W, M, D]` whose channels `D` lie side by side.
struct Map {
  const void* data;
  int64_t b, y, x, m;
};

// How the queries and keys of one axis read the bias table; docs/position_bias.md derives it.
struct Axis {
  int64_t entries;                  // distinct offsets, U
  int64_t step;                     // table entries between neighbouring queries, 1 or 2
  std::vector<int32_t> key_offset;  // entry = step * query + key_offset[key], in trained positions
  // Each position blends two trained ones, (1 - share) first + share second; itself alone unless the bias is resized
  // from a trained size.
  bool resized = false;
  std::vector<int32_t> query_first, query_second, key_first, key_second;
  std::vector<float> query_share, key_share;
};
Axis make_axis(int64_t queries, int64_t keys, int64_t trained_queries, int64_t trained_keys);

// Zeros after each row of a table and of its gradient: what vectors of queries that reach past the map read and write.
constexpr int64_t TABLE_SLACK = 16;

struct Attention {
  Dtype dtype;
  int64_t B, H, W, M, D, P_h, P_w, window;
  Map q, k, v, k_pool, v_pool;
  Axis rows, cols;
  std::vector<float> query_embedding;  // [M, D]
  std::vector<float> softplus;         // [M]
  std::vector<float> sigmoid;          // [M], its derivative
  std::vector<float> local_bias;       // [M, K]
  std::vector<float> tokens;           // [M, K, D]
  std::vector<float> tokens_bias;      // [M, K]
  std::vector<float> log_length;  // [w + 1, w + 1]: log(rows * cols + P) by the rows and columns of the window inside
  // [M, U_h, row_length]: rows of the table, even entries before odd ones where queries step by 2, then TABLE_SLACK
  // zeros.
  std::vector<float> table;
  int64_t row_length, odd_start;

  // Where entry `u` of a row of the table lies.
  int64_t column_of(int64_t u) const { return odd_start ? (u % 2) * odd_start + u / 2 : u; }
  int64_t K() const { return window * window; }
  int64_t P() const { return P_h * P_w; }
};

// Work is cut into strips of rows, ordered by head, image, row: `units`. What strips or workers share is accumulated
// apart, and added up afterwards in an order that depends on the number of workers alone.
struct AttentionGradient {
  Map grad;         // of the output
  void *q, *k, *v;  // results, contiguous [B, H, W, M, D], in the dtype of the inputs
  int64_t strips;   // of each image and head; every strip has at least w - 1 rows
  int64_t workers;
  std::vector<float> seams;  // [units][2 sides][w - 1 rows][k, v][D][W]
  std::vector<float> pool;   // [units][k, v][P][D]
  std::vector<float>
      table;  // [slots][U_h, row_length]; a slot holds one head's, worker w's share of head m is in m + w
  std::vector<double> parameters;  // [slots][K D tokens, K tokens_bias, K local_bias, D query_embedding, 1 temperature]

  int64_t units(const Attention& a) const { return a.M * a.B * strips; }
  int64_t first_unit(const Attention& a, int64_t worker) const { return units(a) * worker / workers; }
  int64_t slots(const Attention& a) const { return a.M + (workers > 1 ? workers : 1) - 1; }
  int64_t parameters_of_slot(const Attention& a) const { return a.K() * a.D + 2 * a.K() + a.D + 1; }
  int64_t seam_floats(const Attention& a) const { return 2 * (a.window - 1) * 2 * a.D * a.W; }
};

// What the shares of strips and workers come to, in the order of the parameters' own elements.
struct AttentionTotals {
  std::vector<float> k_pool, v_pool;                   // [B, P, M, D]
  std::vector<float> query_embedding, temperature;     // [M, D], [M]
  std::vector<float> local_bias, tokens, tokens_bias;  // [M, K], [M, D, K], [M, K]
  std::vector<float> table;                            // [M, U_h, U_w]
};

// Attention of every pixel to every pixel, `N = H * W`.
struct GlobalAttention {
  int64_t B, H, W, M, D;
  Map q, k, v;                         // of floats
  Axis rows, cols;                     // of pixels against pixels: queries step by one entry
  std::vector<float> query_embedding;  // [M, D]
  std::vector<float> scale;            // [M]: softplus(temperature) log(N)
  std::vector<float> slope;            // [M]: its derivative
  std::vector<float> table;            // [M, U_h, U_w], then TABLE_SLACK zeros
  float* statistics;  // [2, M, B, N]: of each query its largest logit times log2(e), and one over the sum of powers

  int64_t N() const { return H * W; }
  int64_t table_floats() const { return rows.entries * cols.entries; }
  bool resized() const { return rows.resized || cols.resized; }
};

// Work is cut into images and heads, ordered by head, image: `units`.
struct GlobalAttentionGradient {
  Map grad, out;     // of and as the output
  float *q, *k, *v;  // results, contiguous [B, H, W, M, D]
  int64_t workers;
  std::vector<float> table;        // [slots][U_h, U_w, TABLE_SLACK]; worker w's share of head m is in m + w
  std::vector<double> parameters;  // [slots][D query_embedding, 1 temperature]

  int64_t first_unit(const GlobalAttention& a, int64_t worker) const { return a.M * a.B * worker / workers; }
  int64_t slots(const GlobalAttention& a) const { return a.M + (workers > 1 ? workers : 1) - 1; }
  int64_t slot_floats(const GlobalAttention& a) const { return a.table_floats() + TABLE_SLACK; }
};

// Depthwise 3x3 convolution, GELU and gate.
struct Gate {
  Dtype dtype;
  int64_t B, H, W, F;
  int64_t all;  // channels of the tensors: F, or more where F of them are taken, from `first` on
  int64_t first;
  const void* x;  // [B, H, W, 2 all]
  int64_t x_b, x_y, x_x;
  const float* weight;  // [9, F]
  const float* bias;    // [F]
  void* out;            // [B, H, W, all]
  // backward
  const void* grad;        // [B, H, W, all]
  void* grad_x;            // [B, H, W, 2 all]
  float* grad_parameters;  // [workers, 9 + 1, all]
};

// Products of bfloat16 numbers, summed in float32, for processors that multiply them: a set of functions for each kind
// of instruction, next to the kernels below, which call them for their products where one was given. Weights are
// panels, `[ceil(N / PANEL_16), depth / 2, PANEL_16, 2]`: of a column, two neighbouring channels lie side by side, as
// the instructions take them. `depth` is K, rounded up to a multiple of Products16::depth, the rest zeros.
constexpr int64_t PANEL_16 = 32;
constexpr int64_t ROWS_16 = 32;  // of left factors: there is room for a multiple of these, zeros or not

// A matrix whose rows are `step` elements apart.
struct Rows {
  Dtype dtype;
  const void* data;
  int64_t step;
};

// out[t, n] = bias[n] + sum over k of left[t, k] weight[n, k], then as in NormLinear.
struct Product16 {
  int64_t rows, depth, N;
  const uint16_t *left, *panels;  // left is [rows, depth]
  const float* bias;              // whole panels
  float* partial;                 // [rows rounded up, PANEL_16], for sums between blocks of the depth
  Dtype dtype;                    // of `residual` and `out`, not Half
  const void* residual;           // [rows, N], or null
  void* out;                      // [rows, N]
  int64_t gelu_from;
};

// Weights `[N, K]`, element (n, k) at `k * k_step + n * n_step`, one of which is 1, to panels.
struct PackPanels16 {
  int64_t N, K;
  Dtype dtype;
  const void* weight;
  int64_t n_step, k_step;
  uint16_t* panels;
};

// As OuterProduct; totals are `[panel][M rounded up to outer_rows][PANEL_16]`.
struct OuterProduct16 {
  int64_t rows, M, N;
  Rows left, right;               // [rows, M], [rows, N]
  float *left_sums, *right_sums;  // or null
};

struct Products16 {
  const char* name;
  int64_t depth, outer_rows;
  void (*round_rows)(const Rows&, int64_t count, int64_t K, uint16_t* to);               // to [count, depth]
  void (*pack)(const PackPanels16&, int64_t begin, int64_t end);                         // panels
  void (*multiply)(const Product16&);                                                    // all rows
  int64_t (*outer_scratch)(int64_t M);                                                   // floats of `work`
  void (*add_outer)(const OuterProduct16&, int64_t begin, int64_t end, float*, float*);  // panels; totals, work
};

// LayerNorm (if `norm_weight`), then a product with packed weights, then GELU on columns from `gelu_from` on, then a
// sum with `residual` (if given). Rows are channels-last pixels.
struct NormLinear {
  Dtype dtype;
  const Products16* products16;  // null for products of floats; then panels are floats, else bfloat16
  int64_t rows, K, N;
  const void* x;  // [rows, K], row stride `x_row`
  int64_t x_row;
  const float *norm_weight, *norm_bias;
  float eps;
  const void* panels;  // floats are [ceil(N / PANEL), K, PANEL]
  const float* bias;   // whole panels
  int64_t gelu_from;
  const void* residual;  // [rows, N]
  void* out;             // [rows, N]
};

// Weights `[N, K]`, element (n, k) at `k * k_step + n * n_step`, to panels `[ceil(N / PANEL), K, PANEL]`.
struct PackPanels {
  int64_t N, K;
  const float* weight;
  int64_t n_step, k_step;
  float* panels;
};

// out[m, n] = sum over t of left[t, m] right[t, n].
struct OuterProduct {
  const Products16* products16;  // null for floats
  int64_t rows, M, N;
  Rows left, right;               // [rows, M], [rows, N]
  float *left_sums, *right_sums;  // column sums are added to these, [M], [N], where they are not null
  float* out;                     // [M, N], or [N, M] if `transposed`
  bool transposed;
};

// The mean of each bin of adaptive average pooling, float sums.
struct Pool {
  Dtype dtype;
  int64_t B, H, W, C, P_h, P_w;
  const void* x;  // [B, H, W, C], channels side by side
  int64_t x_b, x_y, x_x;
  void* out;  // [B, P_h, P_w, C]
};

struct ConvGlu {
  Dtype dtype;
  const Products16* products16;  // or null
  int64_t B, H, W, C, F;
  const void* x;  // [B, H, W, C], also the residual
  const float *norm_weight, *norm_bias;
  float eps;
  const void* panels_in;  // C -> 2 F
  const float* bias_in;
  const float *weight, *bias;  // depthwise, [9, F], [F]
  const void* panels_out;      // F -> C
  const float* bias_out;
  void* out;
  float* gated;  // [B, H, W, F], where threads share out channels
};

// A convolutional GLU in training: out = fc2(gate(fc1(x))), and its gradients.
struct ConvGluTraining {
  const Products16* products16;  // null for floats
  Dtype dtype;                   // of all maps: Float, or BFloat16 with products16
  int64_t B, H, W, C, F;
  const void* x;               // [B, H, W, C]
  void* hidden;                // [B, H, W, 2 F]: fc1(x), written by the forward pass
  const float *weight, *bias;  // depthwise, [9, F], [F]
  // Packed weights, forward of fc1 (C -> 2 F) and fc2 (F -> C), backward of those that undo them (2 F -> C and C -> F).
  const void *panels_in, *panels_out;
  const float *bias_in, *bias_out;  // forward
  void* out;                        // [B, H, W, C]
  const void* grad;                 // backward: of the output
  void* grad_x;
  float *grad_weight_in, *grad_weight_out;  // [2 F, C], [C, F]
  float* totals;  // [workers, conv_glu_totals()], zeros; last come 2 F + C + 10 F of biases and depthwise
};

// out[m, u, v] = out_bias[m] + sum_k out_weight[m, k] relu(row_weight[k] rows[u] + column_weight[k] columns[v] +
// bias[k])
struct BiasTable {
  int64_t M, hidden, rows, columns;
  const float *row_coordinates, *column_coordinates;
  const float *row_weight, *column_weight, *bias;  // [hidden]
  const float *out_weight, *out_bias;              // [M, hidden], [M]
  float* out;                                      // [M, rows, columns]
};

// Gradients of the parameters of a BiasTable, of whose result `grad` is the gradient. Vectors `[hidden]` each.
struct BiasTableGradient {
  const float* grad;  // [M, rows, columns]
  float *row_weight, *column_weight, *bias;
  float* out_weight;  // [M, hidden]
};

// Rows [first_row, last_row) of a matrix in memory, and of each one chunk, another one in each row; all of it if it has
// one.
constexpr int64_t DIGEST_NUMBERS = 16;
struct DigestPart {
  const char* data;
  int64_t row_bytes, chunk, first_row, last_row;
};

// Every kernel: what it returns, its name, what it takes. `begin` and `end` count the units that are named behind it.
#define TRANSNEXT_KERNELS(KERNEL)                                                                                     \
  KERNEL(double, multiply_adds, (int64_t rounds))                                            /* how many were done */ \
  KERNEL(void, attention_forward, (const Attention&, void* out, int64_t begin, int64_t end)) /* rows (b, m, i) */     \
  KERNEL(void, attention_backward, (const Attention&, AttentionGradient&, int64_t worker))                            \
  KERNEL(void, attention_backward_seams,                                                                              \
         (const Attention&, AttentionGradient&, int64_t begin, int64_t end)) /* seams */                              \
  KERNEL(void, attention_backward_totals, (const Attention&, const AttentionGradient&, AttentionTotals&))             \
  KERNEL(void, global_attention,                                                                                      \
         (const GlobalAttention&, float* out, int64_t begin, int64_t end)) /* pixels (m, b, n) */                     \
  KERNEL(void, global_attention_backward, (const GlobalAttention&, GlobalAttentionGradient&, int64_t worker))         \
  KERNEL(void, gate_forward, (const Gate&, int64_t begin, int64_t end)) /* rows (b, i) */                             \
  KERNEL(void, gate_backward, (const Gate&, int64_t worker, int64_t workers))                                         \
  KERNEL(void, bias_table, (const BiasTable&, int64_t begin, int64_t end)) /* rows of the table */                    \
  KERNEL(void, bias_table_backward,                                                                                   \
         (const BiasTable&, const BiasTableGradient&, int64_t begin, int64_t end))      /* hidden units / VL */       \
  KERNEL(void, norm_linear, (const NormLinear&, int64_t begin, int64_t end))            /* rows */                    \
  KERNEL(void, pack_panels, (const PackPanels&, int64_t begin, int64_t end))            /* panels */                  \
  KERNEL(void, outer_product, (const OuterProduct&, int64_t begin, int64_t end))        /* panels of n */             \
  KERNEL(void, pool, (const Pool&, int64_t begin, int64_t end))                         /* rows (b, p) */             \
  KERNEL(void, conv_glu, (const ConvGlu&, int64_t begin, int64_t end))                  /* rows (b, i) */             \
  KERNEL(void, conv_glu_gated, (const ConvGlu&, int64_t begin, int64_t end))            /* panels of F */             \
  KERNEL(void, conv_glu_training, (const ConvGluTraining&, int64_t begin, int64_t end)) /* images */                  \
  KERNEL(int64_t, conv_glu_totals, (const ConvGluTraining&))                            /* floats of a worker */      \
  KERNEL(void, conv_glu_training_backward, (const ConvGluTraining&, int64_t worker, int64_t workers))                 \
  KERNEL(void, conv_glu_weights, (const ConvGluTraining&, int64_t begin, int64_t end)) /* panels of 2 F, then of F */ \
  KERNEL(void, digest, (const DigestPart&, uint32_t* out))                             /* DIGEST_NUMBERS of them */

// One instruction set's.
struct Kernels {
  const char* name;
  int64_t panel;  // columns of a panel of packed weights
#define TRANSNEXT_FIELD(result, name, arguments) result(*name) arguments;
  TRANSNEXT_KERNELS(TRANSNEXT_FIELD)
#undef TRANSNEXT_FIELD
};

// Memory of the calling thread, kept between calls: at least `floats` floats, at a cache line's start, not initialised.
float* scratch(int64_t floats);

extern const Kernels baseline_kernels;
#if defined(__x86_64__) || defined(_M_X64)
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
// Null where the compiler does not know the instructions.
extern const Products16* const avx512_bf16_products;
extern const Products16* const amx_products;
#endif
// The same code, and what the instructions do in plain C++: for tests on processors that lack them.
extern const Products16* const emulated_bf16_products;
extern const Products16* const emulated_amx_products;

}  // namespace transnext
