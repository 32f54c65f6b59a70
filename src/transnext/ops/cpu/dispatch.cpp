// Which kernels run, and each thread's scratch memory.
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

}  // namespace transnext
