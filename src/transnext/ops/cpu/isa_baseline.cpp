// What every processor of the architecture has: SSE2 on x86-64, NEON on Arm.
#include "headers.h"

#define VL 4
#define ISA baseline
#if defined(__aarch64__)
#define ISA_NAME "NEON"
#else
#define ISA_NAME "baseline"
#endif
#include "isa_body.h"
