// Vectors of pairs of bfloat16 numbers: rounding floats to them, and the instruction that multiplies them, or plain C++
// that gives the same bits.
#pragma once

#include "vec.h"

// bf16_*.cpp set this where the target has AVX-512 BF16, and include <immintrin.h> before the target is turned on.
#ifndef BF16_NATIVE
#define BF16_NATIVE 0
#endif

namespace transnext::ISA {

typedef uint32_t vu __attribute__((vector_size(VL * 4)));
typedef int32_t vi_unaligned __attribute__((vector_size(VL * 4), aligned(2), may_alias));
typedef uint16_t vh __attribute__((vector_size(VL * 2)));
typedef uint16_t vh_unaligned __attribute__((vector_size(VL * 2), aligned(2), may_alias));
typedef int32_t pair_unaligned __attribute__((aligned(2), may_alias));

// VL pairs, or one in all lanes.
INLINE vi load_pairs(const uint16_t* p) { return *reinterpret_cast<const vi_unaligned*>(p); }
INLINE void store_pairs(uint16_t* p, vi x) { *reinterpret_cast<vi_unaligned*>(p) = x; }
INLINE vi broadcast_pair(const uint16_t* p) { return vi{} + *reinterpret_cast<const pair_unaligned*>(p); }

#if BF16_NATIVE

#define UNROLL_16 _Pragma("GCC unroll 12")

INLINE vf dot_pairs(vf sum, vi a, vi b) { return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b); }

INLINE vh rounded(vf x) { return (vh)_mm512_cvtneps_pbh((__m512)x); }

INLINE vi pairs_of(vf even, vf odd) {
  const vh first = rounded(even), second = rounded(odd);
  return (vi) __builtin_convertvector(first, vu) | (vi)(__builtin_convertvector(second, vu) << 16);
}

#else

#define UNROLL_16 _Pragma("GCC unroll 1")  // small: nobody waits for it

// As the instructions have it: a number below the normal ones is 0, whether it comes in or goes out.
INLINE float flushed(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  if (!(bits & 0x7f800000)) bits &= 0x80000000;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}
INLINE float half_of(int32_t pair, bool upper) {
  const uint32_t bits = upper ? static_cast<uint32_t>(pair) & 0xffff0000 : static_cast<uint32_t>(pair) << 16;
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return flushed(x);
}

// VDPBF16PS (Intel's Software Developer's Manual, volume 2): the product of the upper halves is added first, then that
// of the lower ones, each sum rounded once to nearest even, whatever the processor is set to.
[[maybe_unused]] static __attribute__((noinline)) vf dot_pairs(vf sum, vi a, vi b) {
  for (int i = 0; i < VL; ++i) {
    const float first = flushed(__builtin_fmaf(half_of(a[i], true), half_of(b[i], true), flushed(sum[i])));
    sum[i] = flushed(__builtin_fmaf(half_of(a[i], false), half_of(b[i], false), first));
  }
  return sum;
}

// VCVTNEPS2BF16: to nearest even; NaN is made quiet and keeps its upper bits.
static __attribute__((noinline)) vu rounded_bits(vf x) {
  const vu bits = (vu)x, size = bits & 0x7fffffff;
  const vu nearest = bits + 0x7fff + ((bits >> 16) & 1);
  const vu number = (size < 0x00800000) ? (bits & 0x80000000) : nearest;
  return ((size > 0x7f800000) ? (bits | 0x00400000) : number) >> 16;
}

INLINE vh rounded(vf x) { return __builtin_convertvector(rounded_bits(x), vh); }
INLINE vi pairs_of(vf even, vf odd) { return (vi)(rounded_bits(even) | (rounded_bits(odd) << 16)); }

#endif

INLINE void store_rounded(uint16_t* p, vf x) { *reinterpret_cast<vh_unaligned*>(p) = rounded(x); }
INLINE void store_result(float* p, vf x) { store(p, x); }
INLINE void store_result(BFloat16* p, vf x) { store_rounded(reinterpret_cast<uint16_t*>(p), x); }

// As `for_dtype`, of the two dtypes that there are here.
template <class Use>
INLINE void for_factor(Dtype dtype, const Use& use) {
  dtype == Dtype::Float ? use(static_cast<float*>(nullptr)) : use(static_cast<BFloat16*>(nullptr));
}

// Fewer than VL numbers, one after the other in a vector, zeros behind them.
template <class T>
INLINE vf load_some(const T* p, int64_t count) {
  vf x{};
  for (int64_t i = 0; i < count; ++i) x[i] = widen(p[i]);
  return x;
}

template <class T>
static void round_row(const T* from, int64_t K, int64_t depth, uint16_t* to) {
  int64_t k = 0;
  for (; k + VL <= K; k += VL) store_rounded(to + k, load_as_float(from + k));
  if (k < K) {
    const vh rest = rounded(load_some(from + k, K - k));
    for (int64_t i = 0; k + i < K; ++i) to[k + i] = rest[i];
  }
  std::fill(to + K, to + depth, static_cast<uint16_t>(0));
}

}  // namespace transnext::ISA
