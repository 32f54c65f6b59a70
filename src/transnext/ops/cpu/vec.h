// Vectors of VL floats in the compiler's own vector types, so that one source serves every instruction set, and what is
// done to them: functions, rows of other dtypes, loops over channels.
#pragma once

#include "headers.h"

// Each isa_*.cpp sets these, under its target options. A header that is read alone, by an editor, is of the smallest
// set.
#ifndef VL
#define VL 4
#define ISA baseline
#endif

namespace transnext::ISA {

typedef float vf __attribute__((vector_size(VL * 4)));
typedef int32_t vi __attribute__((vector_size(VL * 4)));
typedef float vf_unaligned __attribute__((vector_size(VL * 4), aligned(4), may_alias));
typedef float vf4 __attribute__((vector_size(16)));
typedef float vf4_unaligned __attribute__((vector_size(16), aligned(4), may_alias));

#define ALWAYS_INLINE __attribute__((always_inline))
#define INLINE static inline ALWAYS_INLINE
#define INLINE_MEMBER inline ALWAYS_INLINE

INLINE vf load(const float* p) { return *reinterpret_cast<const vf_unaligned*>(p); }
INLINE void store(float* p, vf x) { *reinterpret_cast<vf_unaligned*>(p) = x; }
INLINE vf broadcast(float x) { return x - vf{}; }
INLINE vi as_int(vf x) { return (vi)x; }  // the bits as they are
INLINE vf as_float(vi x) { return (vf)x; }
INLINE vf select(vi mask, vf yes, vf no) { return as_float((mask & as_int(yes)) | (~mask & as_int(no))); }
// NaN in `b` is kept: comparisons with NaN are false.
INLINE vf maximum(vf a, vf b) { return a > b ? a : b; }  // one instruction, which `select` would not become
INLINE vf minimum(vf a, vf b) { return a < b ? a : b; }
INLINE vf magnitude(vf x) { return as_float(as_int(x) & 0x7fffffff); }

INLINE float sum_lanes(vf x) {
  float total = 0;
  for (int i = 0; i < VL; ++i) total += x[i];
  return total;
}

// 16-bit floats are widened to float on load and rounded to nearest even on store.

INLINE float widen(float x) { return x; }
INLINE float widen(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.x) << 16;
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}
INLINE float widen(Half x) { return static_cast<float>(x); }

INLINE void narrow(float x, float* to) { *to = x; }
INLINE void narrow(float x, BFloat16* to) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  to->x = x != x ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
INLINE void narrow(float x, Half* to) { *to = Half(x); }

template <class T>
INLINE vf load_as_float(const T* p) {
  vf x{};
  for (int i = 0; i < VL; ++i) x[i] = widen(p[i]);
  return x;
}
INLINE vf load_as_float(const float* p) { return load(p); }

template <class T>
INLINE void store_as(T* p, vf x) {
  for (int i = 0; i < VL; ++i) narrow(x[i], p + i);
}
INLINE void store_as(float* p, vf x) { store(p, x); }

template <class T>
INLINE vf4 load4(const T* p) {
  return vf4{widen(p[0]), widen(p[1]), widen(p[2]), widen(p[3])};
}
INLINE vf4 load4(const float* p) { return *reinterpret_cast<const vf4_unaligned*>(p); }

template <class T>
INLINE void store4(T* p, vf4 x) {
  for (int i = 0; i < 4; ++i) narrow(x[i], p + i);
}
INLINE void store4(float* p, vf4 x) { *reinterpret_cast<vf4_unaligned*>(p) = x; }

// Two vectors that go through the same steps: the processor works on one while the other waits for its last result.
struct Pair {
  vf a, b;
};
struct PairMask {
  vi a, b;
};
INLINE Pair operator+(Pair x, Pair y) { return {x.a + y.a, x.b + y.b}; }
INLINE Pair operator-(Pair x, Pair y) { return {x.a - y.a, x.b - y.b}; }
INLINE Pair operator*(Pair x, Pair y) { return {x.a * y.a, x.b * y.b}; }
INLINE Pair operator/(Pair x, Pair y) { return {x.a / y.a, x.b / y.b}; }
INLINE Pair operator+(Pair x, float y) { return {x.a + y, x.b + y}; }
INLINE Pair operator*(Pair x, float y) { return {x.a * y, x.b * y}; }
INLINE PairMask operator<(Pair x, float y) { return {x.a < y, x.b < y}; }
INLINE Pair select(PairMask mask, Pair yes, Pair no) {
  return {select(mask.a, yes.a, no.a), select(mask.b, yes.b, no.b)};
}

INLINE vf filled(vf, float x) { return broadcast(x); }
INLINE Pair filled(Pair, float x) { return {broadcast(x), broadcast(x)}; }
INLINE Pair maximum(Pair x, Pair y) { return {maximum(x.a, y.a), maximum(x.b, y.b)}; }
INLINE Pair minimum(Pair x, Pair y) { return {minimum(x.a, y.a), minimum(x.b, y.b)}; }
INLINE Pair magnitude(Pair x) { return {magnitude(x.a), magnitude(x.b)}; }
// The float whose biased exponent stands in the last bits of another.
INLINE vf power_in_last_bits(vf x) { return as_float(as_int(x) << 23); }
INLINE Pair power_in_last_bits(Pair x) { return {power_in_last_bits(x.a), power_in_last_bits(x.b)}; }

// 2^x for x < 126, within 1 unit in the last place, 1 for 0; 0 below -126.5; NaN stays. x = n + r, and our own minimax
// fit to 2^r for |r| <= 1/2, relative error 2e-9.
template <class V>
INLINE V exp2_nonpositive(V x) {
  const V magic = filled(x, 12583039.0f);  // 1.5 * 2^23 + 127: adding it rounds to an integer and biases an exponent
  const V clamped = maximum(filled(x, -127.0f), x), shifted = clamped + magic, r = clamped - (shifted - magic);
  V p = r * 1.5353362e-4f + 1.3398875e-3f;
  p = p * r + 9.6184369e-3f;
  p = p * r + 5.5503324e-2f;
  p = p * r + 2.4022648e-1f;
  p = p * r + 6.9314718e-1f;
  p = p * r + 1.0f;
  return p * power_in_last_bits(shifted);
}

constexpr float LOG2_E = 1.44269504f;

// Lane l becomes lane l - 1; the last one 0.
INLINE vf shift_down(vf x) {
#if VL == 4
  return __builtin_shufflevector(x, vf{}, 1, 2, 3, 4);
#elif VL == 8
  return __builtin_shufflevector(x, vf{}, 1, 2, 3, 4, 5, 6, 7, 8);
#else
  return __builtin_shufflevector(x, vf{}, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16);
#endif
}

// `x` in the first `count` lanes, 0 in the others.
INLINE vf first_lanes(vf x, int64_t count) {
  vi lanes;
  for (int i = 0; i < VL; ++i) lanes[i] = i;
  return select(lanes < static_cast<int32_t>(count), x, vf{});
}

// The normal distribution function and exp(-x^2 / 2). Its tail is exp(-x^2 / 2) P(|x|) / Q(|x|), our own minimax fit
// for |x| < 6, relative error 6e-8: small results of GELU are not differences of large ones, as 1 + erf would have
// them.
template <class V>
INLINE V normal_cdf(V x, V& exponential) {
  const V a = minimum(filled(x, 15.0f), magnitude(x));
  exponential = exp2_nonpositive(a * a * (-0.5f * LOG2_E));
  V p = a * 1.36327312e-02f + 1.04482246e-01f;
  p = p * a + 3.34602498e-01f;
  p = p * a + 4.99999970e-01f;
  V q = a * 3.41927710e-02f + 2.61345606e-01f;
  q = q * a + 8.79564040e-01f;
  q = q * a + 1.46708595f;
  q = q * a + 1.0f;
  const V tail = exponential * (p / q);
  return select(x < 0.0f, tail, filled(x, 1.0f) - tail);
}

template <class V>
INLINE V gelu(V x) {
  V exponential;
  return x * normal_cdf(x, exponential);
}

// Calls `use` with a null pointer of the element type that `dtype` names.
template <class Use>
INLINE void for_dtype(Dtype dtype, const Use& use) {
  switch (dtype) {
    case Dtype::Float: return use(static_cast<float*>(nullptr));
    case Dtype::BFloat16: return use(static_cast<BFloat16*>(nullptr));
    case Dtype::Half: return use(static_cast<Half*>(nullptr));
  }
}

template <class T>
static void widen_row(const T* from, int64_t n, float* to) {
  int64_t i = 0;
  for (; i + VL <= n; i += VL) store(to + i, load_as_float(from + i));
  for (; i < n; ++i) to[i] = widen(from[i]);
}

template <class T>
static void narrow_row(const float* from, int64_t n, T* to) {
  int64_t i = 0;
  for (; i + VL <= n; i += VL) store_as(to + i, load(from + i));
  for (; i < n; ++i) narrow(from[i], to + i);
}

// `count` pieces of `n` elements, `step` elements apart from `offset` on, to or from floats that lie side by side.
[[maybe_unused]] static void widen_rows(Dtype dtype, const void* from, int64_t offset, int64_t step, int64_t count,
                                        int64_t n, float* to) {
  for_dtype(dtype, [&](auto* type) {
    for (int64_t i = 0; i < count; ++i)
      widen_row(static_cast<decltype(type)>(const_cast<void*>(from)) + offset + i * step, n, to + i * n);
  });
}

[[maybe_unused]] static void narrow_rows(Dtype dtype, const float* from, int64_t count, int64_t n, void* to,
                                         int64_t offset, int64_t step) {
  for_dtype(dtype, [&](auto* type) {
    for (int64_t i = 0; i < count; ++i)
      narrow_row(from + i * n, n, static_cast<decltype(type)>(to) + offset + i * step);
  });
}

INLINE int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Calls `vector(c)` for whole vectors of channels and `single(c)` for the rest.
template <class Vector, class Single>
INLINE void for_channels(int64_t F, const Vector& vector, const Single& single) {
  int64_t c = 0;
  for (; c + VL <= F; c += VL) vector(c);
  for (; c < F; ++c) single(c);
}

INLINE vf first_lane(float x) {
  vf v{};
  v[0] = x;
  return v;
}

}  // namespace transnext::ISA
