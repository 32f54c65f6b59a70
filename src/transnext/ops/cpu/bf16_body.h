// Products of bfloat16 numbers by one kind of instruction. Each bf16_*.cpp sets VL, ISA and BF16_NAME, and turns the
// target on after the standard headers, as isa_*.cpp do.

#include "gemm16.h"
#include "outer16.h"

namespace transnext {
namespace {

const Products16 products = {BF16_NAME,
                             ISA::DEPTH_16,
                             BF16_TILES ? ISA::OUTER_TILE : 1,
                             ISA::round_rows,
                             ISA::pack,
                             ISA::multiply,
                             ISA::outer_scratch_16,
                             ISA::add_outer_16};

}  // namespace

const Products16* const BF16_TABLE = &products;

}  // namespace transnext
