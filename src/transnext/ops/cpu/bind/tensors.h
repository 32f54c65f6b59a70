// What the bindings of all ops share: checks of tensors, their elements as floats, new tensors. Schemas are defined in
// Python. What users can get wrong is checked there too, in their words; the checks here keep memory safe.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#if __has_include(<sys/mman.h>)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "../dispatch.h"

namespace transnext {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

using Shape = std::vector<int64_t>;

inline Dtype dtype_of(const Tensor& t, const char* name) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return Dtype::Float;
    case ScalarType::BFloat16: return Dtype::BFloat16;
    case ScalarType::Half: return Dtype::Half;
    default: STD_TORCH_CHECK(false, name, " must be float32, bfloat16 or float16");
  }
}

inline void check(const Tensor& t, const char* name, const Shape& shape) {
  const auto sizes = t.sizes();
  bool same = sizes.size() == shape.size() && t.is_cpu();
  for (size_t i = 0; same && i < shape.size(); ++i) same = sizes[i] == shape[i];
  STD_TORCH_CHECK(same, name, " has another shape or device than the other arguments ask for");
}

inline void check_like(const Tensor& t, const char* name, const Shape& shape, ScalarType type) {
  check(t, name, shape);
  STD_TORCH_CHECK(t.scalar_type() == type, name, " has another dtype than the first argument");
}

// The elements of a small tensor of any strides as floats, in order. Every axis is copied by the row.
inline void append(const char* data, ScalarType type, const Shape& sizes, const Shape& strides, size_t dim,
                   std::vector<float>& to) {
  const auto rows = [&](auto* typed) {
    for (int64_t i = 0; i < sizes[dim]; ++i) to.push_back(static_cast<float>(typed[i * strides[dim]]));
  };
  if (dim + 1 < sizes.size()) {
    const int64_t bytes = (type == ScalarType::Float ? 4 : type == ScalarType::Double ? 8 : 2) * strides[dim];
    for (int64_t i = 0; i < sizes[dim]; ++i) append(data + i * bytes, type, sizes, strides, dim + 1, to);
    return;
  }
  switch (type) {
    case ScalarType::Float: return rows(reinterpret_cast<const float*>(data));
    case ScalarType::Double: return rows(reinterpret_cast<const double*>(data));
    case ScalarType::BFloat16: return rows(reinterpret_cast<const c10::BFloat16*>(data));
    case ScalarType::Half: return rows(reinterpret_cast<const c10::Half*>(data));
    default: STD_TORCH_CHECK(false, "parameters must be of a floating-point dtype");
  }
}

inline std::vector<float> floats_of(const Tensor& t) {
  std::vector<float> result;
  result.reserve(t.numel());
  const auto sizes = t.sizes(), strides = t.strides();
  const char* data = static_cast<const char*>(t.const_data_ptr());
  if (t.numel() > 0 && t.scalar_type() == ScalarType::Float && t.is_contiguous())
    result.assign(reinterpret_cast<const float*>(data), reinterpret_cast<const float*>(data) + t.numel());
  else if (t.numel() > 0)
    append(data, t.scalar_type(), {sizes.begin(), sizes.end()}, {strides.begin(), strides.end()}, 0, result);
  return result;
}

// A map whose channels lie side by side, copied if they do not.
inline Tensor with_dense_channels(const Tensor& t) {
  const int64_t last = static_cast<int64_t>(t.sizes().size()) - 1;
  return t.size(last) <= 1 || t.stride(last) == 1 ? t : torch::stable::contiguous(t);
}

inline Map map_of(const Tensor& t) { return {t.const_data_ptr(), t.stride(0), t.stride(1), t.stride(2), t.stride(3)}; }

// A new tensor like `t`, not initialised. Large ones ask for huge pages: to fault in each small page of a map costs as
// much as a matrix product that fills it.
inline Tensor new_map(const Tensor& t, const Shape& shape) {
  Tensor result = torch::stable::new_empty(t, shape);
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t HUGE_PAGE = 2 << 20;
  const auto start = reinterpret_cast<uintptr_t>(result.mutable_data_ptr());
  const uintptr_t end = start + result.numel() * (result.scalar_type() == ScalarType::Float ? 4 : 2);
  const uintptr_t first = (start + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE, last = end / HUGE_PAGE * HUGE_PAGE;
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
  return result;
}

// Writes `values`, in order, to a new tensor of a parameter's dtype.
inline Tensor tensor_of(const std::vector<float>& values, const Tensor& like) {
  const auto sizes = like.sizes();
  Tensor result = torch::stable::new_empty(like, sizes);
  const auto fill = [&](auto* to) {
    for (size_t i = 0; i < values.size(); ++i) to[i] = static_cast<std::remove_pointer_t<decltype(to)>>(values[i]);
  };
  switch (like.scalar_type()) {
    case ScalarType::Float: fill(static_cast<float*>(result.mutable_data_ptr())); break;
    case ScalarType::Double: fill(static_cast<double*>(result.mutable_data_ptr())); break;
    case ScalarType::BFloat16: fill(static_cast<c10::BFloat16*>(result.mutable_data_ptr())); break;
    case ScalarType::Half: fill(static_cast<c10::Half*>(result.mutable_data_ptr())); break;
    default: STD_TORCH_CHECK(false, "parameters must be of a floating-point dtype");
  }
  return result;
}

inline int64_t workers() { return std::max<int64_t>(1, torch::stable::get_num_threads()); }

// Runs `work(kernels, begin, end)` on ranges of `count` units, `grain` at least, by all threads.
template <class Work>
void in_parallel(int64_t count, int64_t grain, const Work& work) {
  const Kernels& isa = kernels();
  torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) { work(isa, begin, end); });
}

// Depthwise weights `[F, 1, 3, 3]` as `[9, F]`, and a bias that is there.
struct GateParameters {
  std::vector<float> weight, bias;

  GateParameters(const Tensor& tensor, const std::optional<Tensor>& bias_tensor, int64_t F) {
    check(tensor, "weight", {F, 1, 3, 3});
    const std::vector<float> source = floats_of(tensor);
    weight.resize(source.size());
    for (int64_t c = 0; c < F; ++c)
      for (int64_t t = 0; t < 9; ++t) weight[t * F + c] = source[c * 9 + t];
    if (bias_tensor) check(*bias_tensor, "bias", {F});
    bias = bias_tensor ? floats_of(*bias_tensor) : std::vector<float>(F, 0.0f);
  }
};

}  // namespace transnext
