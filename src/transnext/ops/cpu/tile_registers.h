// The tile registers of AMX: eight, of 16 rows of 16 floats or pairs of bfloat16 numbers. Or plain C++ that gives the
// same bits. Numbers of registers are literals, as the instructions want them.
#pragma once

#include "bfloat16.h"

// bf16_amx.cpp sets this.
#ifndef AMX_NATIVE
#define AMX_NATIVE 0
#endif

namespace transnext::ISA {

constexpr int64_t TILE = 16;  // rows, and lanes of 4 bytes in each

#if AMX_NATIVE

// Instructions by name: compilers' own functions for them do not say which memory a load reads.
#define TILE_ZERO(n) asm volatile("tilezero %%tmm" #n::)
#define TILE_LOAD(n, from, bytes) \
  asm volatile("tileloadd (%0,%1,1), %%tmm" #n::"r"(from), "r"(static_cast<int64_t>(bytes)) : "memory")
#define TILE_STORE(n, to, bytes) \
  asm volatile("tilestored %%tmm" #n ", (%0,%1,1)" ::"r"(to), "r"(static_cast<int64_t>(bytes)) : "memory")
#define TILE_DOT(sum, a, b) asm volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #sum::)

// All registers at their full size while it lives. A thread that is in none of them is cheaper to switch from.
class TileRegisters {
 public:
  TileRegisters() {
    alignas(64) uint8_t configuration[64] = {1};  // the palette
    for (int n = 0; n < 8; ++n) {
      configuration[16 + 2 * n] = TILE * 4;  // bytes of a row, 16 bits
      configuration[48 + n] = TILE;          // rows
    }
    asm volatile("ldtilecfg %0" ::"m"(configuration));
  }
  ~TileRegisters() { asm volatile("tilerelease" ::); }
  TileRegisters(const TileRegisters&) = delete;
};

#else

#define TILE_ZERO(n) tiles.zero(n)
#define TILE_LOAD(n, from, bytes) tiles.load(n, from, bytes)
#define TILE_STORE(n, to, bytes) tiles.store(n, to, bytes)
#define TILE_DOT(sum, a, b) tiles.dot(sum, a, b)

// Undefined until they are written to, which shows as NaN.
class TileRegisters {
 public:
  TileRegisters() { std::fill_n(&data_[0][0][0], 8 * TILE * TILE, 0x7fc07fc0); }
  void zero(int n) { std::fill_n(&data_[n][0][0], TILE * TILE, 0); }
  void load(int n, const void* from, int64_t bytes) {
    for (int64_t r = 0; r < TILE; ++r)
      __builtin_memcpy(data_[n][r], static_cast<const char*>(from) + r * bytes, TILE * 4);
  }
  void store(int n, void* to, int64_t bytes) const {
    for (int64_t r = 0; r < TILE; ++r) __builtin_memcpy(static_cast<char*>(to) + r * bytes, data_[n][r], TILE * 4);
  }

  // TDPBF16PS (Intel's Software Developer's Manual, volume 2): products of lower halves and of upper halves are summed
  // apart from zero on, each sum rounded once, and their sum is added to what was there.
  void dot(int sum, int a, int b) {
    for (int64_t m = 0; m < TILE; ++m)
      for (int64_t n = 0; n < TILE; ++n) {
        float lower = 0, upper = 0, total;
        for (int64_t k = 0; k < TILE; ++k) {
          lower = flushed(__builtin_fmaf(half_of(data_[a][m][k], false), half_of(data_[b][k][n], false), lower));
          upper = flushed(__builtin_fmaf(half_of(data_[a][m][k], true), half_of(data_[b][k][n], true), upper));
        }
        __builtin_memcpy(&total, &data_[sum][m][n], 4);
        total = flushed(flushed(total) + flushed(lower + upper));
        __builtin_memcpy(&data_[sum][m][n], &total, 4);
      }
  }

 private:
  int32_t data_[8][TILE][TILE];
};

#endif

}  // namespace transnext::ISA
