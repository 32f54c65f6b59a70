// For tests: the code of bf16_amx.cpp for every processor.
#include "headers.h"

#if !defined(__clang__)
#pragma GCC optimize("Os")
#endif

#define VL 16
#define ISA emulated_amx
#define BF16_TILES 1
#define BF16_NAME "AMX, emulated"
#define BF16_TABLE emulated_amx_products
#include "bf16_body.h"
