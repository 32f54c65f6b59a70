// The softmax of a tile of queries over keys that come in blocks, `[keys][TQ]`: no more than a block is held at once.
#pragma once

#include "vec.h"

namespace transnext::ISA {

constexpr int64_t KEYS = 96;  // of a block: with their values, and the logits of 32 queries, in the first-level cache

// exp(logit - top) with shift = top log2(e), whose rounding is the same for all keys and drops out of the softmax.
INLINE vf power_below(vf logit, vf shift) { return exp2_nonpositive(logit * LOG2_E - shift); }

template <int QV>
struct RunningSoftmax {
  vf top[QV], shift[QV], sum[QV];  // largest logit so far, the same times log2(e), and the sum of powers below it

  INLINE_MEMBER RunningSoftmax() {
    for (int v = 0; v < QV; ++v) top[v] = broadcast(-1e38f), shift[v] = top[v] * LOG2_E, sum[v] = vf{};
  }

  // Looks at more logits, which come as they are made or lie in memory.
  INLINE_MEMBER void look(int v, vf logits) { top[v] = maximum(top[v], logits); }
  INLINE_MEMBER void look(const float* logits, int64_t keys) {
    for (int64_t n = 0; n < keys; ++n)
#pragma GCC unroll 2
      for (int v = 0; v < QV; ++v) look(v, load(logits + (n * QV + v) * VL));
  }

  // Turns logits that were looked at into powers below the largest so far. What was made of earlier ones is to be
  // multiplied by `factor`.
  INLINE_MEMBER void take(float* logits, int64_t keys, vf (&factor)[QV]) {
    vf block[QV] = {};
    for (int v = 0; v < QV; ++v) {
      const vf before = shift[v];
      shift[v] = top[v] * LOG2_E;
      factor[v] = exp2_nonpositive(before - shift[v]);
    }
    for (int64_t n = 0; n < keys; ++n)
#pragma GCC unroll 2
      for (int v = 0; v < QV; ++v) {
        const vf power = power_below(load(logits + (n * QV + v) * VL), shift[v]);
        store(logits + (n * QV + v) * VL, power);
        block[v] += power;
      }
    for (int v = 0; v < QV; ++v) sum[v] = sum[v] * factor[v] + block[v];
  }
};

}  // namespace transnext::ISA
