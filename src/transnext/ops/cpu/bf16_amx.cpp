#include "headers.h"

#if defined(__x86_64__) && defined(__linux__) && __has_include(<amxbf16intrin.h>)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma,f16c")
#endif

#define VL 16
#define ISA amx
#define BF16_NATIVE 1
#define AMX_NATIVE 1
#define BF16_TILES 1
#define BF16_NAME "AMX"
#define BF16_TABLE amx_products
#include "bf16_body.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#elif defined(__x86_64__) || defined(_M_X64)
const transnext::Products16* const transnext::amx_products = nullptr;
#endif
