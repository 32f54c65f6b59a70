// For tests: the code of bf16_avx512.cpp for every processor.
#include "headers.h"

#if !defined(__clang__)
#pragma GCC optimize("Os")
#endif

#define VL 16
#define ISA emulated_bf16
#define BF16_NAME "AVX-512 BF16, emulated"
#define BF16_TABLE emulated_bf16_products
#include "bf16_body.h"
