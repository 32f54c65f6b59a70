#if defined(__x86_64__) || defined(_M_X64)
#include "headers.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")
#endif

#define VL 16
#define ISA avx512
#define ISA_NAME "AVX-512"
#include "isa_body.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
