// Which kernels run, and each thread's scratch memory.
#include "dispatch.h"

#include <cstdlib>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

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

#if defined(__x86_64__)
// A bit of a register of the instruction CPUID's leaf 7.
enum Register { EAX, EBX, ECX, EDX };
bool cpu_has(unsigned subleaf, Register which, int bit) {
  unsigned found[4] = {};
  if (!__get_cpuid_count(7, 0, &found[EAX], &found[EBX], &found[ECX], &found[EDX]) || found[EAX] < subleaf)
    return false;
  __get_cpuid_count(7, subleaf, &found[EAX], &found[EBX], &found[ECX], &found[EDX]);
  return found[which] >> bit & 1;
}

bool has_avx512_bf16() { return supports(avx512_kernels) && cpu_has(1, EAX, 5); }

// The tile registers are large: Linux keeps them for a process only once that has asked for them.
bool has_amx() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr int AMX_BF16 = 22, AMX_TILE = 24;
  constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
  return has_avx512_bf16() && cpu_has(0, EDX, AMX_BF16) && cpu_has(0, EDX, AMX_TILE) &&
         syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
  return false;
#endif
}
#endif

const Products16*& chosen_products16() {
  static const Products16* products = [] {
    const auto all = available_products16();
    const bool emulated = all.back() == emulated_bf16_products || all.back() == emulated_amx_products;
    return emulated ? nullptr : all.back();
  }();
  return products;
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

std::vector<const Products16*> available_products16() {
  std::vector<const Products16*> all{emulated_bf16_products, emulated_amx_products};
#if defined(__x86_64__)
  static const bool avx512_bf16 = has_avx512_bf16(), amx = has_amx();
  if (avx512_bf16 && avx512_bf16_products) all.push_back(avx512_bf16_products);
  if (amx && amx_products) all.push_back(amx_products);
#endif
  return all;
}

const Products16* products16() { return chosen_products16(); }

void use_products16(const Products16* products) { chosen_products16() = products; }

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
