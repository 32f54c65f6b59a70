// Digests of memory, by which a weight that was written to is told from one that was not.
#pragma once

#include "vec.h"

namespace transnext::ISA {

constexpr int64_t LINE = DIGEST_NUMBERS * 4;  // bytes: a cache line
constexpr int64_t AHEAD = 16;                 // rows

typedef uint32_t line __attribute__((vector_size(LINE)));
typedef uint32_t line_unaligned __attribute__((vector_size(LINE), aligned(1), may_alias));

// One step is a bijection of the state and of what is read: if one line alone changes, so does the result.
INLINE void mix(line& state, line x) { state = (state ^ (state >> 15)) * 0x9E3779B1u + x; }

// The bytes of `part`, row by row, into DIGEST_NUMBERS numbers.
static void digest(const DigestPart& part, uint32_t* out) {
  line state[4] = {};  // each its own chain, or one would wait for the other
  int64_t from = part.first_row * part.chunk % round_up(part.row_bytes, part.chunk);
  for (int64_t row = part.first_row; row < part.last_row; ++row) {
    const char* data = part.data + row * part.row_bytes + from;
    const int64_t bytes = std::min(part.chunk, part.row_bytes - from);
    // Lines that lie far apart are fetched by nobody but us; they may lie behind the last row.
    __builtin_prefetch(data + AHEAD * (part.row_bytes + part.chunk));
    int64_t i = 0;
    for (; i + 4 * LINE <= bytes; i += 4 * LINE)
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) mix(state[j], *reinterpret_cast<const line_unaligned*>(data + i + j * LINE));
    int j = 0;
    for (; i + LINE <= bytes; i += LINE) mix(state[j++], *reinterpret_cast<const line_unaligned*>(data + i));
    if (i < bytes) {
      line rest{};
      __builtin_memcpy(&rest, data + i, bytes - i);
      mix(state[j], rest);
    }
    if ((from += part.chunk) >= part.row_bytes) from = 0;
  }
  for (int j = 1; j < 4; ++j) mix(state[0], state[j]);
  __builtin_memcpy(out, &state[0], LINE);
}

}  // namespace transnext::ISA
