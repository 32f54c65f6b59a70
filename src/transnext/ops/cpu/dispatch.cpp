// Which kernels run, each thread's scratch memory, and the index of a bias table.
#include "dispatch.h"

#include <cstdlib>

namespace transnext {
namespace {

struct AlignedFloats {
  float* data = nullptr;
  int64_t capacity = 0;
  ~AlignedFloats() { std::free(data); }
};

const Kernels* best() {
#if defined(__x86_64__) || defined(_M_X64)
  __builtin_cpu_init();
  if (supports(avx512_kernels)) return &avx512_kernels;
  if (supports(avx2_kernels)) return &avx2_kernels;
#endif
  return &baseline_kernels;
}

const Kernels*& chosen() {
  static const Kernels* kernels = best();
  return kernels;
}

// Two neighbours of each of `to` positions among `from`, as in bilinear resizing with align_corners=False.
void blend(int64_t from, int64_t to, std::vector<int32_t>& first, std::vector<int32_t>& second, std::vector<float>& share) {
  for (int64_t i = 0; i < to; ++i) {
    double place = (i + 0.5) * (static_cast<double>(from) / to) - 0.5;
    place = place < 0 ? 0 : place;
    const int64_t left = static_cast<int64_t>(place) < from - 1 ? static_cast<int64_t>(place) : from - 1;
    first.push_back(static_cast<int32_t>(left));
    second.push_back(static_cast<int32_t>(left + 1 < from ? left + 1 : from - 1));
    share.push_back(static_cast<float>(place - left));
  }
}

}  // namespace

std::vector<const Kernels*> available_kernels() {
  std::vector<const Kernels*> all{&baseline_kernels};
#if defined(__x86_64__) || defined(_M_X64)
  for (const Kernels* kernels : {&avx2_kernels, &avx512_kernels})
    if (supports(*kernels)) all.push_back(kernels);
#endif
  return all;
}

bool supports(const Kernels& kernels) {
#if defined(__x86_64__) || defined(_M_X64)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (&kernels == &avx2_kernels) return avx2;
  if (&kernels == &avx512_kernels)
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
#endif
  return &kernels == &baseline_kernels;
}

const Kernels& kernels() { return *chosen(); }

void use_kernels(const Kernels& kernels) { chosen() = &kernels; }

float* scratch(int64_t floats) {
  thread_local AlignedFloats memory;
  if (floats > memory.capacity) {
    std::free(memory.data);
    memory.capacity = 0;
    memory.data = static_cast<float*>(std::aligned_alloc(64, (static_cast<size_t>(floats) * 4 + 63) / 64 * 64));
    if (!memory.data) std::abort();
    memory.capacity = floats;
  }
#ifdef TRANSNEXT_POISON_SCRATCH
  for (int64_t i = 0; i < memory.capacity; ++i) memory.data[i] = __builtin_nanf("");
#endif
  return memory.data;
}

Axis make_axis(int64_t queries, int64_t keys, int64_t trained_queries, int64_t trained_keys) {
  Axis axis;
  axis.resized = queries != trained_queries || keys != trained_keys;
  const int64_t H = trained_queries, P = trained_keys;
  if (H % P == 0) {
    const int64_t width = H / P;
    axis.step = 1;
    axis.entries = 2 * H - width;
    for (int64_t p = 0; p < P; ++p) axis.key_offset.push_back(static_cast<int32_t>(H - width - p * width));
  } else {
    axis.step = 2;
    axis.entries = 4 * H - 3;
    for (int64_t p = 0; p < P; ++p) {
      const int64_t start = p * H / P, end = ((p + 1) * H + P - 1) / P;
      axis.key_offset.push_back(static_cast<int32_t>(2 * (H - 1) - (start + end - 1)));
    }
  }
  if (axis.resized) {
    blend(H, queries, axis.query_first, axis.query_second, axis.query_share);
    blend(P, keys, axis.key_first, axis.key_second, axis.key_share);
  }
  return axis;
}

}  // namespace transnext
