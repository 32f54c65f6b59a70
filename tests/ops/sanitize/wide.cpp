// The kernels with vectors as long as those of AVX-512, in the instructions that every processor has: their memory
// accesses are checked on processors without AVX-512 too.
#include "headers.h"

#define VL 16
#define ISA wide
#define ISA_NAME "16 lanes"
namespace transnext {
extern const Kernels wide_kernels;
}
#include "isa_body.h"
