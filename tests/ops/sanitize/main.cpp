// Runs every kernel of every instruction set on many odd sizes, for sanitizers to watch: inputs and outputs lie in heap
// blocks of just their size, and each call gets a thread of its own, so that scratch memory is new and no larger than
// it asked for.
//
// Results must be finite, where outputs and (with TRANSNEXT_POISON_SCRATCH) scratch begin as NaN, and must be those of
// the baseline kernels run as a single piece of work.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <thread>

#include "dispatch.h"
#include "headers.h"

namespace transnext {
extern const Kernels wide_kernels;
}

namespace {

using namespace transnext;

std::mt19937 generator(0);

int64_t pick(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(generator); }
float normal() { return std::normal_distribution<float>()(generator); }

// Elements of one dtype in a block of their own.
class Block {
 public:
  Block(Dtype dtype, int64_t count)
      : dtype_(dtype), count_(count), bytes_(new char[count * (dtype == Dtype::Float ? 4 : 2)]) {
    for (int64_t i = 0; i < count; ++i) set(i, NAN);
  }
  static Block random(Dtype dtype, int64_t count) {
    Block block(dtype, count);
    for (int64_t i = 0; i < count; ++i) block.set(i, normal());
    return block;
  }

  void* data() const { return bytes_.get(); }
  const void* at(int64_t i) const { return bytes_.get() + i * (dtype_ == Dtype::Float ? 4 : 2); }
  void append_to(std::vector<float>& values) const {
    for (int64_t i = 0; i < count_; ++i) values.push_back(get(i));
  }

 private:
  void set(int64_t i, float x) {
    if (dtype_ == Dtype::Float) reinterpret_cast<float*>(bytes_.get())[i] = x;
    if (dtype_ == Dtype::BFloat16) reinterpret_cast<BFloat16*>(bytes_.get())[i] = BFloat16(x);
    if (dtype_ == Dtype::Half) reinterpret_cast<Half*>(bytes_.get())[i] = Half(x);
  }
  float get(int64_t i) const {
    if (dtype_ == Dtype::Float) return reinterpret_cast<const float*>(bytes_.get())[i];
    if (dtype_ == Dtype::BFloat16) return reinterpret_cast<const BFloat16*>(bytes_.get())[i];
    return reinterpret_cast<const Half*>(bytes_.get())[i];
  }

  Dtype dtype_;
  int64_t count_;
  std::unique_ptr<char[]> bytes_;
};

std::vector<float> random_floats(int64_t count) {
  std::vector<float> values(count);
  for (float& x : values) x = normal();
  return values;
}

template <class Call>
void on_new_thread(const Call& call) {
  std::thread(call).join();
}

// Calls `kernel(begin, end)` for `pieces` uneven pieces of `count` units.
template <class Kernel>
void in_pieces(int64_t count, int64_t pieces, const Kernel& kernel) {
  for (int64_t piece = 0; piece < pieces; ++piece) {
    const int64_t begin = count * piece * piece / (pieces * pieces),
                  end = count * (piece + 1) * (piece + 1) / (pieces * pieces);
    if (begin < end) on_new_thread([&] { kernel(begin, end); });
  }
}

std::string text(const char* name, std::initializer_list<int64_t> sizes) {
  std::string result = name;
  for (const int64_t size : sizes) result += " " + std::to_string(size);
  return result;
}

void fail(const Kernels& kernels, const std::string& description, const char* what) {
  std::printf("%s, %s: %s\n", kernels.name, description.c_str(), what);
  std::exit(1);
}

// Compares with the baseline's results, relative to their size.
void check(const Kernels& kernels, const std::string& description, Dtype dtype, const std::vector<float>& found,
           const std::vector<float>& expected) {
  double error = 0, size = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    if (!std::isfinite(found[i])) fail(kernels, description, "a result is not finite");
    error += std::pow(static_cast<double>(found[i]) - expected[i], 2);
    size += std::pow(static_cast<double>(expected[i]), 2);
  }
  const double allowed = dtype == Dtype::Float ? 1e-4 : 1e-2;
  if (found.size() != expected.size() || std::sqrt(error) > allowed * std::sqrt(size) + 1e-5)
    fail(kernels, description, "results are not those of the baseline");
}

std::vector<const Kernels*> all_kernels() {
  std::vector<const Kernels*> all = available_kernels();
  all.push_back(&wide_kernels);
  return all;
}

// `run(kernels, pieces)` returns results as floats: of the baseline in one piece, then of all in several.
template <class Run>
void compare(const std::string& description, Dtype dtype, const Run& run) {
  const std::vector<float> expected = run(baseline_kernels, 1);
  check(baseline_kernels, description, dtype, expected, expected);
  for (const Kernels* kernels : all_kernels())
    for (const int64_t pieces : {1, 3}) check(*kernels, description, dtype, run(*kernels, pieces), expected);
}

void run_attention(Dtype dtype, int64_t B, int64_t H, int64_t W, int64_t M, int64_t D, int64_t P_h, int64_t P_w,
                   int64_t window, bool resize_rows, bool resize_cols) {
  const std::string description =
      text("attention", {static_cast<int64_t>(dtype), B, H, W, M, D, P_h, P_w, window, resize_rows, resize_cols});
  const int64_t pixels = B * H * W, C = M * D, K = window * window;
  Attention a;
  a.dtype = dtype, a.B = B, a.H = H, a.W = W, a.M = M, a.D = D, a.P_h = P_h, a.P_w = P_w, a.window = window;
  const Block q = Block::random(dtype, pixels * C), kv = Block::random(dtype, pixels * 2 * C);
  const Block pooled = Block::random(dtype, B * P_h * P_w * 2 * C), grad = Block::random(dtype, pixels * C);
  const auto map = [&](const Block& block, int64_t offset, int64_t rows, int64_t columns, int64_t pixel) {
    return Map{block.at(offset), rows * columns * pixel, columns * pixel, pixel, D};
  };
  a.q = map(q, 0, H, W, C), a.k = map(kv, 0, H, W, 2 * C), a.v = map(kv, C, H, W, 2 * C);
  a.k_pool = map(pooled, 0, P_h, P_w, 2 * C), a.v_pool = map(pooled, C, P_h, P_w, 2 * C);
  a.rows = resize_rows ? make_axis(H, P_h, pick(1, H + 2), pick(1, 4)) : make_axis(H, P_h, H, P_h);
  a.cols = resize_cols ? make_axis(W, P_w, pick(1, W + 2), pick(1, 4)) : make_axis(W, P_w, W, P_w);
  a.query_embedding = random_floats(C), a.local_bias = random_floats(M * K);
  a.tokens = random_floats(C * K), a.tokens_bias = random_floats(M * K);
  a.softplus.assign(M, 0.7f), a.sigmoid.assign(M, 0.5f);
  for (int64_t y = 0; y <= window; ++y)
    for (int64_t x = 0; x <= window; ++x) a.log_length.push_back(std::log(static_cast<float>(y * x + P_h * P_w)));
  a.row_length = a.cols.entries + TABLE_SLACK;
  a.odd_start = a.cols.step == 2 && !a.cols.resized ? (a.cols.entries + 1) / 2 : 0;
  a.table = random_floats(M * a.rows.entries * a.row_length);
  for (size_t i = 0; i < a.table.size(); ++i)
    if (static_cast<int64_t>(i) % a.row_length >= a.cols.entries) a.table[i] = 0;

  compare(description, dtype, [&](const Kernels& kernels, int64_t pieces) {
    const Block out(dtype, pixels * C);
    in_pieces(B * M * H, pieces,
              [&](int64_t begin, int64_t end) { kernels.attention_forward(a, out.data(), begin, end); });
    std::vector<float> values;
    out.append_to(values);
    return values;
  });
  compare(description + ", gradient", dtype, [&](const Kernels& kernels, int64_t workers) {
    const Block grad_q(dtype, pixels * C), grad_k(dtype, pixels * C), grad_v(dtype, pixels * C);
    AttentionGradient g;
    g.grad = map(grad, 0, H, W, C);
    g.q = grad_q.data(), g.k = grad_k.data(), g.v = grad_v.data();
    g.workers = workers;
    g.strips = std::max<int64_t>(1, std::min(2 * workers, H / std::max<int64_t>(window - 1, 1)));
    const int64_t slots = M + workers - 1, units = M * B * g.strips, table_floats = a.rows.entries * a.row_length;
    if (g.strips > 1) g.seams.assign(units * g.seam_floats(a), NAN);
    g.pool.assign(units * 2 * P_h * P_w * D, NAN);
    // Adding 0 to -0 gives 0: this shows who writes where, even where nothing is added.
    g.table.assign(slots * table_floats, -0.0f);
    g.parameters.assign(slots * g.parameters_of_slot(a), 0.0);
    for (int64_t worker = 0; worker < workers; ++worker) {
      const std::vector<float> before = g.table;
      on_new_thread([&] { kernels.attention_backward(a, g, worker); });
      const int64_t first = units * worker / workers, last = units * (worker + 1) / workers;
      for (int64_t slot = 0; slot < slots && first < last; ++slot) {
        const int64_t head = slot - worker;
        if (head >= first / (B * g.strips) && head <= (last - 1) / (B * g.strips)) continue;
        for (int64_t i = slot * table_floats; i < (slot + 1) * table_floats; ++i)
          if (std::signbit(before[i]) != std::signbit(g.table[i]))
            fail(kernels, description, "a worker writes to the table of another, which may do so at the same time");
      }
    }
    in_pieces(B * M * (g.strips - 1), workers,
              [&](int64_t begin, int64_t end) { kernels.attention_backward_seams(a, g, begin, end); });
    std::vector<float> values;
    for (const Block* block : {&grad_q, &grad_k, &grad_v}) block->append_to(values);
    // Heads' sums over all their units, however many those are.
    std::vector<double> sums(M * (2 * P_h * P_w * D + table_floats + g.parameters_of_slot(a)));
    const int64_t pool_floats = 2 * P_h * P_w * D, per_head = static_cast<int64_t>(sums.size()) / M;
    for (int64_t unit = 0; unit < units; ++unit)
      for (int64_t i = 0; i < pool_floats; ++i)
        sums[unit / (B * g.strips) * per_head + i] += g.pool[unit * pool_floats + i];
    for (int64_t m = 0; m < M; ++m)
      for (int64_t worker = 0; worker < workers; ++worker) {
        const int64_t first = units * worker / workers, last = units * (worker + 1) / workers;
        if (first >= last || m < first / (B * g.strips) || m > (last - 1) / (B * g.strips)) continue;
        double* to = sums.data() + m * per_head + pool_floats;
        for (int64_t i = 0; i < table_floats; ++i) *to++ += g.table[(m + worker) * table_floats + i];
        for (int64_t i = 0; i < g.parameters_of_slot(a); ++i)
          *to++ += g.parameters[(m + worker) * g.parameters_of_slot(a) + i];
      }
    values.insert(values.end(), sums.begin(), sums.end());
    return values;
  });
}

void run_global_attention(int64_t B, int64_t H, int64_t W, int64_t M, int64_t D, bool resize_rows, bool resize_cols) {
  const std::string description = text("global_attention", {B, H, W, M, D, resize_rows, resize_cols});
  const int64_t N = H * W, C = M * D, floats = B * N * C;
  GlobalAttention a;
  a.B = B, a.H = H, a.W = W, a.M = M, a.D = D;
  const Block qkv = Block::random(Dtype::Float, 3 * floats), grad = Block::random(Dtype::Float, floats);
  const auto map = [&](const Block& block, int64_t offset, int64_t pixel) {
    return Map{block.at(offset), N * pixel, W * pixel, pixel, D};
  };
  a.q = map(qkv, 0, 3 * C), a.k = map(qkv, C, 3 * C), a.v = map(qkv, 2 * C, 3 * C);
  const int64_t trained_H = resize_rows ? pick(1, H + 2) : H, trained_W = resize_cols ? pick(1, W + 2) : W;
  a.rows = make_axis(H, H, trained_H, trained_H), a.cols = make_axis(W, W, trained_W, trained_W);
  a.query_embedding = random_floats(C);
  a.scale.assign(M, 0.7f), a.slope.assign(M, 0.5f);
  a.table = random_floats(M * a.table_floats());
  a.table.resize(a.table.size() + TABLE_SLACK, 0.0f);
  std::vector<float> statistics(2 * M * B * N, NAN);
  a.statistics = statistics.data();
  const Block out(Dtype::Float, floats);
  const auto forward = [&](const Kernels& kernels, int64_t pieces) {
    auto* to = static_cast<float*>(out.data());
    in_pieces(M * B * N, pieces, [&](int64_t begin, int64_t end) { kernels.global_attention(a, to, begin, end); });
    std::vector<float> values = statistics;
    out.append_to(values);
    return values;
  };
  compare(description, Dtype::Float, forward);
  forward(baseline_kernels, 1);
  compare(description + ", gradient", Dtype::Float, [&](const Kernels& kernels, int64_t workers) {
    const Block grad_q(Dtype::Float, floats), grad_k(Dtype::Float, floats), grad_v(Dtype::Float, floats);
    GlobalAttentionGradient g;
    g.grad = map(grad, 0, C), g.out = map(out, 0, C);
    g.q = static_cast<float*>(grad_q.data());
    g.k = static_cast<float*>(grad_k.data());
    g.v = static_cast<float*>(grad_v.data());
    g.workers = std::min(workers, M * B);
    g.table.assign(g.slots(a) * g.slot_floats(a), 0.0f);
    g.parameters.assign(g.slots(a) * (D + 1), 0.0);
    for (int64_t worker = 0; worker < g.workers; ++worker)
      on_new_thread([&] { kernels.global_attention_backward(a, g, worker); });
    std::vector<float> values;
    for (const Block* block : {&grad_q, &grad_k, &grad_v}) block->append_to(values);
    const int64_t per_head = a.table_floats() + D + 1;
    std::vector<double> sums(M * per_head);
    for (int64_t m = 0; m < M; ++m)
      for (int64_t worker = 0; worker < g.workers; ++worker) {
        const int64_t first = g.first_unit(a, worker), last = g.first_unit(a, worker + 1);
        if (first >= last || m < first / B || m > (last - 1) / B) continue;
        double* to = sums.data() + m * per_head;
        for (int64_t i = 0; i < a.table_floats(); ++i) *to++ += g.table[(m + worker) * g.slot_floats(a) + i];
        for (int64_t i = 0; i <= D; ++i) *to++ += g.parameters[(m + worker) * (D + 1) + i];
      }
    values.insert(values.end(), sums.begin(), sums.end());
    return values;
  });
}

void run_gate(Dtype dtype, int64_t B, int64_t H, int64_t W, int64_t F) {
  const std::string description = text("gate", {static_cast<int64_t>(dtype), B, H, W, F});
  const int64_t pixels = B * H * W, pixel = 2 * F + 3;
  // Pixels are `pixel` apart, and the block ends with the last one's channels.
  const Block x = Block::random(dtype, pixels * pixel - 3), grad = Block::random(dtype, pixels * F);
  const std::vector<float> weight = random_floats(9 * F), bias = random_floats(F);
  Gate g{};
  g.dtype = dtype, g.B = B, g.H = H, g.W = W, g.F = g.all = F;
  g.x = x.data(), g.x_b = H * W * pixel, g.x_y = W * pixel, g.x_x = pixel;
  g.weight = weight.data(), g.bias = bias.data(), g.grad = grad.data();
  compare(description, dtype, [&](const Kernels& kernels, int64_t pieces) {
    const Block out(dtype, pixels * F);
    g.out = out.data();
    in_pieces(B * H, pieces, [&](int64_t begin, int64_t end) { kernels.gate_forward(g, begin, end); });
    std::vector<float> values;
    out.append_to(values);
    return values;
  });
  compare(description + ", gradient", dtype, [&](const Kernels& kernels, int64_t workers) {
    const Block grad_x(dtype, pixels * 2 * F);
    std::vector<float> parts(workers * 10 * F), values(10 * F);
    g.grad_x = grad_x.data(), g.grad_parameters = parts.data();
    for (int64_t worker = 0; worker < workers; ++worker)
      on_new_thread([&] { kernels.gate_backward(g, worker, workers); });
    for (size_t i = 0; i < parts.size(); ++i) values[i % values.size()] += parts[i];
    grad_x.append_to(values);
    return values;
  });
}

// Packed weights of `K` to `N` channels: the values are the same for every panel width.
struct Packed {
  std::vector<float> panels, bias;
  Packed(const std::vector<float>& weight, int64_t N, int64_t K, int64_t panel) {
    const int64_t count = (N + panel - 1) / panel;
    panels.assign(count * K * panel, 0.0f), bias.assign(count * panel, 0.0f);
    for (int64_t n = 0; n < N; ++n) {
      bias[n] = weight[n];
      for (int64_t k = 0; k < K; ++k)
        panels[(n / panel * K + k) * panel + n % panel] = weight[N + n * K + k] / std::sqrt(static_cast<float>(K));
    }
  }
};

// The same weights for products of bfloat16 numbers, in memory of just their size.
struct Packed16 {
  std::vector<uint16_t> panels;
  std::vector<float> bias;
  Packed16(const Products16& products, const std::vector<float>& weight, int64_t N, int64_t K, bool transposed) {
    const int64_t count = (N + PANEL_16 - 1) / PANEL_16,
                  depth = (K + products.depth - 1) / products.depth * products.depth;
    panels.assign(count * depth * PANEL_16, 0x7fc0), bias.assign(count * PANEL_16, 0.0f);
    const PackPanels16 p{N, K, Dtype::Float, weight.data(), transposed ? 1 : K, transposed ? N : 1, panels.data()};
    in_pieces(count, 2, [&](int64_t begin, int64_t end) { products.pack(p, begin, end); });
  }
};

// Compares results of products of bfloat16 numbers with those of floats, by all kernels and all products.
template <class Run>
void compare16(const std::string& description, const std::vector<float>& expected, const Run& run) {
  for (const Products16* products : available_products16())
    for (const Kernels* kernels : all_kernels())
      for (const int64_t pieces : {1, 3})
        check(*kernels, description + ", " + products->name, Dtype::BFloat16, run(*kernels, *products, pieces),
              expected);
}

void run_norm_linear16(Dtype dtype, int64_t rows, int64_t K, int64_t N, bool norm, bool with_residual,
                       int64_t gelu_from) {
  const int64_t x_row = K + 5;
  const Block x = Block::random(dtype, rows * x_row - 5), residual = Block::random(dtype, rows * N);
  std::vector<float> weight = random_floats(N * K), norm_weight = random_floats(K), norm_bias = random_floats(K);
  for (float& w : weight) w /= std::sqrt(static_cast<float>(K));
  const auto call = [&](const Kernels& kernels, const Products16* products, int64_t pieces, const void* panels,
                        const float* bias) {
    const Block out(dtype, rows * N);
    NormLinear n{};
    n.dtype = dtype, n.products16 = products;
    n.rows = rows, n.K = K, n.N = N, n.x = x.data(), n.x_row = x_row;
    if (norm) n.norm_weight = norm_weight.data(), n.norm_bias = norm_bias.data();
    n.eps = 1e-5f, n.panels = panels, n.bias = bias, n.gelu_from = gelu_from;
    n.residual = with_residual ? residual.data() : nullptr, n.out = out.data();
    in_pieces(rows, pieces, [&](int64_t begin, int64_t end) { kernels.norm_linear(n, begin, end); });
    std::vector<float> values;
    out.append_to(values);
    return values;
  };
  std::vector<float> of_floats(N, 0.0f);
  of_floats.insert(of_floats.end(), weight.begin(), weight.end());
  for (size_t i = N; i < of_floats.size(); ++i) of_floats[i] *= std::sqrt(static_cast<float>(K));  // Packed divides
  const Packed floats(of_floats, N, K, baseline_kernels.panel);
  compare16(text("norm_linear", {static_cast<int64_t>(dtype), rows, K, N, norm, with_residual, gelu_from}),
            call(baseline_kernels, nullptr, 1, floats.panels.data(), floats.bias.data()),
            [&](const Kernels& kernels, const Products16& products, int64_t pieces) {
              const Packed16 packed(products, weight, N, K, false);
              return call(kernels, &products, pieces, packed.panels.data(), packed.bias.data());
            });
}

void run_norm_linear(Dtype dtype, int64_t rows, int64_t K, int64_t N, bool norm, bool with_residual,
                     int64_t gelu_from) {
  const std::string description =
      text("norm_linear", {static_cast<int64_t>(dtype), rows, K, N, norm, with_residual, gelu_from});
  const int64_t x_row = K + 5;
  const Block x = Block::random(dtype, rows * x_row - 5), residual = Block::random(dtype, rows * N);
  const std::vector<float> weight = random_floats(N * (K + 1)), norm_weight = random_floats(K),
                           norm_bias = random_floats(K);
  compare(description, dtype, [&](const Kernels& kernels, int64_t pieces) {
    const Packed packed(weight, N, K, kernels.panel);
    const Block out(dtype, rows * N);
    const NormLinear n{dtype,
                       nullptr,
                       rows,
                       K,
                       N,
                       x.data(),
                       x_row,
                       norm ? norm_weight.data() : nullptr,
                       norm ? norm_bias.data() : nullptr,
                       1e-5f,
                       packed.panels.data(),
                       packed.bias.data(),
                       gelu_from,
                       with_residual ? residual.data() : nullptr,
                       out.data()};
    in_pieces(rows, pieces, [&](int64_t begin, int64_t end) { kernels.norm_linear(n, begin, end); });
    std::vector<float> values;
    out.append_to(values);
    return values;
  });
}

void run_pool(Dtype dtype, int64_t B, int64_t H, int64_t W, int64_t C, int64_t P_h, int64_t P_w) {
  const int64_t pixel = C + 2;
  const Block x = Block::random(dtype, B * H * W * pixel - 2);
  compare(text("pool", {static_cast<int64_t>(dtype), B, H, W, C, P_h, P_w}), dtype,
          [&](const Kernels& kernels, int64_t pieces) {
            const Block out(dtype, B * P_h * P_w * C);
            const Pool p{dtype, B, H, W, C, P_h, P_w, x.data(), H * W * pixel, W * pixel, pixel, out.data()};
            in_pieces(B * P_h, pieces, [&](int64_t begin, int64_t end) { kernels.pool(p, begin, end); });
            std::vector<float> values;
            out.append_to(values);
            return values;
          });
}

void run_conv_glu(Dtype dtype, int64_t B, int64_t H, int64_t W, int64_t C, int64_t F) {
  const Block x = Block::random(dtype, B * H * W * C);
  const std::vector<float> weight_in = random_floats(2 * F * (C + 1)), weight_out = random_floats(C * (F + 1));
  const std::vector<float> norm_weight = random_floats(C), norm_bias = random_floats(C), weight = random_floats(9 * F),
                           bias = random_floats(F);
  compare(text("conv_glu", {static_cast<int64_t>(dtype), B, H, W, C, F}), dtype,
          [&](const Kernels& kernels, int64_t pieces) {
            const Packed in(weight_in, 2 * F, C, kernels.panel), back(weight_out, C, F, kernels.panel);
            const Block out(dtype, B * H * W * C);
            const ConvGlu g{dtype,
                            nullptr,
                            B,
                            H,
                            W,
                            C,
                            F,
                            x.data(),
                            norm_weight.data(),
                            norm_bias.data(),
                            1e-5f,
                            in.panels.data(),
                            in.bias.data(),
                            weight.data(),
                            bias.data(),
                            back.panels.data(),
                            back.bias.data(),
                            out.data(),
                            nullptr};
            in_pieces(B * H, pieces, [&](int64_t begin, int64_t end) { kernels.conv_glu(g, begin, end); });
            std::vector<float> values;
            out.append_to(values);
            return values;
          });
}

void run_conv_glu_gated(int64_t B, int64_t H, int64_t W, int64_t C, int64_t F) {  // F of whole panels for all kernels
  const std::vector<float> x = random_floats(B * H * W * C), weight_in = random_floats(2 * F * (C + 1));
  const std::vector<float> norm_weight = random_floats(C), norm_bias = random_floats(C), weight = random_floats(9 * F),
                           bias = random_floats(F);
  compare(text("conv_glu_gated", {B, H, W, C, F}), Dtype::Float, [&](const Kernels& kernels, int64_t pieces) {
    const Packed in(weight_in, 2 * F, C, kernels.panel);
    std::vector<float> gated(B * H * W * F, NAN);
    ConvGlu g{};
    g.dtype = Dtype::Float, g.B = B, g.H = H, g.W = W, g.C = C, g.F = F;
    g.x = x.data(), g.norm_weight = norm_weight.data(), g.norm_bias = norm_bias.data(), g.eps = 1e-5f;
    g.panels_in = in.panels.data(), g.bias_in = in.bias.data(), g.weight = weight.data(), g.bias = bias.data();
    g.gated = gated.data();
    in_pieces(F / kernels.panel, pieces, [&](int64_t begin, int64_t end) { kernels.conv_glu_gated(g, begin, end); });
    return gated;
  });
}

void run_bias_table(int64_t M, int64_t hidden, int64_t rows, int64_t columns) {
  const std::vector<float> row_coordinates = random_floats(rows), column_coordinates = random_floats(columns);
  const std::vector<float> row_weight = random_floats(hidden), column_weight = random_floats(hidden),
                           bias = random_floats(hidden);
  const std::vector<float> out_weight = random_floats(M * hidden), out_bias = random_floats(M);
  compare(text("bias_table", {M, hidden, rows, columns}), Dtype::Float, [&](const Kernels& kernels, int64_t pieces) {
    std::vector<float> out(M * rows * columns, NAN);
    const BiasTable t{M,
                      hidden,
                      rows,
                      columns,
                      row_coordinates.data(),
                      column_coordinates.data(),
                      row_weight.data(),
                      column_weight.data(),
                      bias.data(),
                      out_weight.data(),
                      out_bias.data(),
                      out.data()};
    in_pieces(rows, pieces, [&](int64_t begin, int64_t end) { kernels.bias_table(t, begin, end); });
    return out;
  });
}

void run_bias_table_gradient(int64_t M, int64_t hidden, int64_t rows, int64_t columns) {
  const std::vector<float> row_coordinates = random_floats(rows), column_coordinates = random_floats(columns),
                           grad = random_floats(M * rows * columns);
  const std::vector<float> row_weight = random_floats(hidden), column_weight = random_floats(hidden),
                           bias = random_floats(hidden), out_weight = random_floats(M * hidden);
  compare(text("bias_table, gradient", {M, hidden, rows, columns}), Dtype::Float,
          [&](const Kernels& kernels, int64_t pieces) {
            std::vector<float> a(hidden, NAN), b(hidden, NAN), c(hidden, NAN), out(M * hidden, NAN);
            const BiasTable t{M,
                              hidden,
                              rows,
                              columns,
                              row_coordinates.data(),
                              column_coordinates.data(),
                              row_weight.data(),
                              column_weight.data(),
                              bias.data(),
                              out_weight.data(),
                              nullptr,
                              nullptr};
            const BiasTableGradient g{grad.data(), a.data(), b.data(), c.data(), out.data()};
            const int64_t lanes = kernels.panel / 2;
            in_pieces((hidden + lanes - 1) / lanes, pieces,
                      [&](int64_t begin, int64_t end) { kernels.bias_table_backward(t, g, begin, end); });
            for (const auto* part : {&a, &b, &c}) out.insert(out.end(), part->begin(), part->end());
            return out;
          });
}

// Weights packed by the kernels, of `[N, K]` or of its transpose.
std::vector<float> packed(const Kernels& kernels, const std::vector<float>& weight, int64_t N, int64_t K,
                          bool transposed) {
  const int64_t count = (N + kernels.panel - 1) / kernels.panel;
  std::vector<float> panels(count * K * kernels.panel, NAN);
  const PackPanels p{N, K, weight.data(), transposed ? 1 : K, transposed ? N : 1, panels.data()};
  in_pieces(count, 2, [&](int64_t begin, int64_t end) { kernels.pack_panels(p, begin, end); });
  return panels;
}

void run_outer_product(int64_t rows, int64_t M, int64_t N, bool transposed) {
  const std::vector<float> left = random_floats(rows * M), right = random_floats(rows * N);
  compare(text("outer_product", {rows, M, N, transposed}), Dtype::Float, [&](const Kernels& kernels, int64_t pieces) {
    std::vector<float> left_sums(M), right_sums(N), out(M * N, NAN);
    const OuterProduct p{nullptr,
                         rows,
                         M,
                         N,
                         {Dtype::Float, left.data(), M},
                         {Dtype::Float, right.data(), N},
                         left_sums.data(),
                         right_sums.data(),
                         out.data(),
                         transposed};
    in_pieces((N + kernels.panel - 1) / kernels.panel, pieces,
              [&](int64_t begin, int64_t end) { kernels.outer_product(p, begin, end); });
    out.insert(out.end(), left_sums.begin(), left_sums.end());
    out.insert(out.end(), right_sums.begin(), right_sums.end());
    return out;
  });
}

void run_outer_product16(int64_t rows, int64_t M, int64_t N, bool transposed) {
  const Block left = Block::random(Dtype::BFloat16, rows * M);
  const std::vector<float> right = random_floats(rows * N);
  std::vector<float> wide;
  left.append_to(wide);
  const auto call = [&](const Kernels& kernels, const Products16* products, int64_t pieces) {
    std::vector<float> left_sums(M), right_sums(N), out(M * N, NAN);
    const Rows of_left = products ? Rows{Dtype::BFloat16, left.data(), M} : Rows{Dtype::Float, wide.data(), M};
    const OuterProduct p{
        products,          rows,       M,         N, of_left, {Dtype::Float, right.data(), N}, left_sums.data(),
        right_sums.data(), out.data(), transposed};
    const int64_t panel = products ? PANEL_16 : kernels.panel;
    in_pieces((N + panel - 1) / panel, pieces,
              [&](int64_t begin, int64_t end) { kernels.outer_product(p, begin, end); });
    out.insert(out.end(), left_sums.begin(), left_sums.end());
    out.insert(out.end(), right_sums.begin(), right_sums.end());
    return out;
  };
  compare16(text("outer_product", {rows, M, N, transposed}), call(baseline_kernels, nullptr, 1),
            [&](const Kernels& kernels, const Products16& products, int64_t pieces) {
              return call(kernels, &products, pieces);
            });
}

void run_conv_glu16(Dtype dtype, int64_t B, int64_t H, int64_t W, int64_t C, int64_t F) {
  const Block x = Block::random(dtype, B * H * W * C);
  std::vector<float> weight_in = random_floats(2 * F * C), weight_out = random_floats(C * F);
  const std::vector<float> norm_weight = random_floats(C), norm_bias = random_floats(C), weight = random_floats(9 * F),
                           bias = random_floats(F);
  ConvGlu g{};
  g.dtype = dtype, g.B = B, g.H = H, g.W = W, g.C = C, g.F = F;
  g.x = x.data(), g.norm_weight = norm_weight.data(), g.norm_bias = norm_bias.data(), g.eps = 1e-5f;
  g.weight = weight.data(), g.bias = bias.data();
  const auto call = [&](const Kernels& kernels, int64_t pieces) {
    const Block out(dtype, B * H * W * C);
    g.out = out.data();
    in_pieces(B * H, pieces, [&](int64_t begin, int64_t end) { kernels.conv_glu(g, begin, end); });
    std::vector<float> values;
    out.append_to(values);
    return values;
  };
  const std::vector<float> in = packed(baseline_kernels, weight_in, 2 * F, C, false),
                           back = packed(baseline_kernels, weight_out, C, F, false), no_bias(2 * (F + C) + PANEL_16);
  g.panels_in = in.data(), g.panels_out = back.data(), g.bias_in = g.bias_out = no_bias.data();
  compare16(text("conv_glu", {static_cast<int64_t>(dtype), B, H, W, C, F}), call(baseline_kernels, 1),
            [&](const Kernels& kernels, const Products16& products, int64_t pieces) {
              const Packed16 first(products, weight_in, 2 * F, C, false), second(products, weight_out, C, F, false);
              g.products16 = &products;
              g.panels_in = first.panels.data(), g.bias_in = first.bias.data();
              g.panels_out = second.panels.data(), g.bias_out = second.bias.data();
              return call(kernels, pieces);
            });
}

void run_conv_glu_training16(int64_t B, int64_t H, int64_t W, int64_t C, int64_t F) {
  const int64_t pixels = B * H * W;
  const Block x = Block::random(Dtype::BFloat16, pixels * C), grad = Block::random(Dtype::BFloat16, pixels * C);
  std::vector<float> wide_x, wide_grad;
  x.append_to(wide_x), grad.append_to(wide_grad);
  const std::vector<float> weight = random_floats(9 * F), bias = random_floats(F), in = random_floats(2 * F * C),
                           back = random_floats(C * F), no_bias(2 * (F + C) + PANEL_16);
  // `panels`: forward of fc1 and fc2, backward of both.
  const auto call = [&](const Kernels& kernels, const Products16* products, int64_t workers,
                        const std::vector<const void*>& panels) {
    const Dtype dtype = products ? Dtype::BFloat16 : Dtype::Float;
    const Block hidden(dtype, pixels * 2 * F), out(dtype, pixels * C), grad_x(dtype, pixels * C);
    std::vector<float> grad_in(2 * F * C, NAN), grad_back(C * F, NAN), values;
    ConvGluTraining t{};
    t.products16 = products, t.dtype = dtype;
    t.B = B, t.H = H, t.W = W, t.C = C, t.F = F;
    t.x = products ? x.data() : wide_x.data(), t.grad = products ? grad.data() : wide_grad.data();
    t.hidden = hidden.data(), t.out = out.data(), t.weight = weight.data(), t.bias = bias.data();
    t.panels_in = panels[0], t.panels_out = panels[1], t.bias_in = t.bias_out = no_bias.data();
    in_pieces(B, workers, [&](int64_t begin, int64_t end) { kernels.conv_glu_training(t, begin, end); });
    const int64_t floats = kernels.conv_glu_totals(t), panel = products ? PANEL_16 : kernels.panel;
    std::vector<float> totals(workers * floats);
    t.panels_in = panels[2], t.panels_out = panels[3];
    t.grad_x = grad_x.data(), t.totals = totals.data();
    t.grad_weight_in = grad_in.data(), t.grad_weight_out = grad_back.data();
    for (int64_t worker = 0; worker < workers; ++worker)
      on_new_thread([&] { kernels.conv_glu_training_backward(t, worker, workers); });
    for (int64_t i = floats; i < workers * floats; ++i) totals[i % floats] += totals[i];
    in_pieces((2 * F + panel - 1) / panel + (F + panel - 1) / panel, workers,
              [&](int64_t begin, int64_t end) { kernels.conv_glu_weights(t, begin, end); });
    out.append_to(values), grad_x.append_to(values);
    for (const auto* part : {&grad_in, &grad_back}) values.insert(values.end(), part->begin(), part->end());
    values.insert(values.end(), totals.begin() + floats - (12 * F + C), totals.begin() + floats);
    return values;
  };
  const Kernels& base = baseline_kernels;
  const std::vector<float> floats[] = {packed(base, in, 2 * F, C, false), packed(base, back, C, F, false),
                                       packed(base, in, C, 2 * F, true), packed(base, back, F, C, true)};
  compare16(text("conv_glu_training", {B, H, W, C, F}),
            call(base, nullptr, 1, {floats[0].data(), floats[1].data(), floats[2].data(), floats[3].data()}),
            [&](const Kernels& kernels, const Products16& products, int64_t workers) {
              const Packed16 pairs[] = {{products, in, 2 * F, C, false},
                                        {products, back, C, F, false},
                                        {products, in, C, 2 * F, true},
                                        {products, back, F, C, true}};
              return call(
                  kernels, &products, workers,
                  {pairs[0].panels.data(), pairs[1].panels.data(), pairs[2].panels.data(), pairs[3].panels.data()});
            });
}

void run_conv_glu_training(int64_t B, int64_t H, int64_t W, int64_t C, int64_t F) {
  const std::vector<float> x = random_floats(B * H * W * C), grad = random_floats(B * H * W * C),
                           weight = random_floats(9 * F), bias = random_floats(F);
  const std::vector<float> in = random_floats(2 * F * C), back = random_floats(C * F);
  compare(text("conv_glu_training", {B, H, W, C, F}), Dtype::Float, [&](const Kernels& kernels, int64_t workers) {
    std::vector<float> hidden(B * H * W * 2 * F, NAN), out(B * H * W * C, NAN), grad_x(B * H * W * C, NAN);
    std::vector<float> grad_in(2 * F * C, NAN), grad_back(C * F, NAN);
    const std::vector<float> no_bias(2 * (F + C) + kernels.panel);
    const std::vector<float> forward_in = packed(kernels, in, 2 * F, C, false),
                             forward_back = packed(kernels, back, C, F, false);
    const std::vector<float> backward_in = packed(kernels, in, C, 2 * F, true),
                             backward_back = packed(kernels, back, F, C, true);
    ConvGluTraining t{};
    t.B = B, t.H = H, t.W = W, t.C = C, t.F = F;
    t.x = x.data(), t.hidden = hidden.data(), t.out = out.data(), t.weight = weight.data(), t.bias = bias.data();
    t.panels_in = forward_in.data(), t.panels_out = forward_back.data(), t.bias_in = t.bias_out = no_bias.data();
    in_pieces(B, workers, [&](int64_t begin, int64_t end) { kernels.conv_glu_training(t, begin, end); });
    std::vector<float> totals(workers * kernels.conv_glu_totals(t));
    const int64_t floats = kernels.conv_glu_totals(t);
    t.panels_in = backward_in.data(), t.panels_out = backward_back.data();
    t.grad = grad.data(), t.grad_x = grad_x.data(), t.totals = totals.data();
    t.grad_weight_in = grad_in.data(), t.grad_weight_out = grad_back.data();
    for (int64_t worker = 0; worker < workers; ++worker)
      on_new_thread([&] { kernels.conv_glu_training_backward(t, worker, workers); });
    for (int64_t i = floats; i < workers * floats; ++i) totals[i % floats] += totals[i];
    const int64_t panels = (2 * F + kernels.panel - 1) / kernels.panel + (F + kernels.panel - 1) / kernels.panel;
    in_pieces(panels, workers, [&](int64_t begin, int64_t end) { kernels.conv_glu_weights(t, begin, end); });
    for (const auto* part : {&grad_x, &grad_in, &grad_back}) out.insert(out.end(), part->begin(), part->end());
    out.insert(out.end(), totals.begin() + floats - (12 * F + C), totals.begin() + floats);
    return out;
  });
}

// Every set of kernels gives the same numbers, and another one where a byte that is read is another.
void run_digest(int64_t rows, int64_t row_bytes, int64_t chunk) {
  std::unique_ptr<char[]> data(new char[rows * row_bytes]);
  for (int64_t i = 0; i < rows * row_bytes; ++i) data[i] = static_cast<char>(pick(0, 255));
  const auto run = [&](const Kernels& kernels) {
    std::vector<uint32_t> found(DIGEST_NUMBERS);
    kernels.digest({data.get(), row_bytes, chunk, rows / 2, rows}, found.data());
    return found;
  };
  const std::vector<uint32_t> expected = run(baseline_kernels);
  data[(rows - 1) * row_bytes + (rows - 1) * chunk % ((row_bytes + chunk - 1) / chunk * chunk)] ^=
      1;  // the last row's chunk
  const std::vector<uint32_t> changed = run(baseline_kernels);
  for (const Kernels* kernels : all_kernels())
    if (changed == expected || run(*kernels) != changed)
      fail(*kernels, text("digest", {rows, row_bytes, chunk}), "a change is overlooked, or digests differ");
}

}  // namespace

int main() {
  const int64_t windows[] = {1, 3, 5, 7};
  for (const Dtype dtype : {Dtype::Float, Dtype::BFloat16, Dtype::Half}) {
    run_attention(dtype, 1, 1, 1, 1, 1, 1, 1, 3, false, false);
    run_attention(dtype, 1, 2, 3, 1, 80, 1, 1, 7, false, false);
    run_attention(dtype, 1, 12, 6, 1, 5, 3, 2, 3, true, false);
    run_attention(dtype, 1, 11, 40, 2, 4, 2, 5, 5, false, true);
    for (int n = 0; n < 12; ++n)
      run_attention(dtype, pick(1, 2), pick(1, 12), pick(1, 40), pick(1, 3), pick(1, 26), pick(1, 4), pick(1, 4),
                    windows[pick(0, 3)], pick(0, 3) == 0, pick(0, 3) == 0);
    for (int n = 0; n < 16; ++n) run_gate(dtype, pick(1, 2), pick(1, 9), pick(1, 7), pick(1, 37));
    for (int n = 0; n < 12; ++n) {
      const int64_t N = pick(1, 70);
      const bool residual = pick(0, 1) == 1;
      run_norm_linear(dtype, pick(1, 40), pick(1, 70), N, pick(0, 1) == 1, residual, residual ? N : pick(0, N));
      run_pool(dtype, pick(1, 2), pick(1, 9), pick(1, 9), pick(1, 37), pick(1, 5), pick(1, 5));
      run_conv_glu(dtype, pick(1, 2), pick(1, 9), pick(1, 9), pick(1, 37), pick(1, 37));
    }
    run_norm_linear(dtype, 3, 800, 33, true, false, 17);  // a product in several blocks of its depth
    run_norm_linear(dtype, 700, 130, 3, false, true, 3);  // several strips of rows
    run_conv_glu(dtype, 1, 40, 30, 3, 120);
  }
  run_global_attention(1, 1, 1, 1, 1, false, false);
  run_global_attention(1, 11, 19, 1, 24, false, false);  // several blocks of keys
  run_global_attention(2, 10, 11, 1, 5, true, true);
  for (int n = 0; n < 16; ++n)
    run_global_attention(pick(1, 3), pick(1, 9), pick(1, 20), pick(1, 3), pick(1, 26), pick(0, 3) == 0,
                         pick(0, 3) == 0);
  for (int n = 0; n < 12; ++n) run_bias_table(pick(1, 9), pick(1, 150), pick(1, 9), pick(1, 70));
  for (int n = 0; n < 12; ++n) {
    run_bias_table_gradient(pick(1, 9), pick(1, 50), pick(1, 9), pick(1, 20));
    run_outer_product(pick(1, 40), pick(1, 70), pick(1, 70), pick(0, 1) == 1);
    run_conv_glu_training(pick(1, 3), pick(1, 9), pick(1, 9), pick(1, 37), pick(1, 37));
  }
  for (int n = 0; n < 4; ++n) {
    const Dtype dtype = n % 2 ? Dtype::Float : Dtype::BFloat16;
    const int64_t N = pick(1, 70);
    const bool residual = pick(0, 1) == 1;
    run_norm_linear16(dtype, pick(1, 40), pick(1, 70), N, pick(0, 1) == 1, residual, residual ? N : pick(0, N));
    run_conv_glu16(dtype, pick(1, 2), pick(1, 9), pick(1, 9), pick(1, 37), pick(1, 37));
    run_outer_product16(pick(1, 40), pick(1, 70), pick(1, 70), pick(0, 1) == 1);
    run_conv_glu_training16(pick(1, 3), pick(1, 9), pick(1, 9), pick(1, 37), pick(1, 37));
  }
  run_norm_linear16(Dtype::BFloat16, 3, 800, 33, true, false, 17);  // a product in several blocks of its depth
  run_outer_product16(300, 7, 33, false);
  for (int n = 0; n < 8; ++n) run_conv_glu_gated(pick(1, 3), pick(1, 9), pick(1, 9), pick(1, 37), 32 * pick(1, 4));
  run_conv_glu_gated(1, 30, 40, 3, 96);     // a panel at a time
  run_outer_product(600, 7, 33, false);     // several blocks of rows
  run_conv_glu_training(2, 40, 30, 5, 40);  // several strips
  for (int n = 0; n < 40; ++n) {
    const int64_t row_bytes = pick(1, 900);
    run_digest(pick(1, 40), row_bytes, pick(0, 1) ? row_bytes : 64);
  }
  std::printf("checked");
  for (const Kernels* kernels : all_kernels()) std::printf(", %s", kernels->name);
  std::printf("\n");
}
