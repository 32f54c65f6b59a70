// The kernels for one instruction set. Each isa_*.cpp sets VL, ISA and ISA_NAME, and turns the target on after the standard
// headers: what they define inline must not be compiled for a processor that may not be there.

namespace transnext {
namespace ISA {
#include "vec.h"
#include "gemm.h"
#include "attention.h"
#include "attention_backward.h"
#include "gate.h"
#include "gate_backward.h"
#include "bias_table.h"
#include "fused.h"
#include "linear.h"
#include "conv_glu_training.h"
#include "digest.h"
}  // namespace ISA

#define CONCATENATE_(a, b) a##b
#define CONCATENATE(a, b) CONCATENATE_(a, b)
const Kernels CONCATENATE(ISA, _kernels) = {
    ISA_NAME,
    ISA::PANEL,
    ISA::multiply_adds,
    ISA::attention_forward,
    ISA::attention_backward,
    ISA::attention_backward_seams,
    ISA::gate_forward,
    ISA::gate_backward,
    ISA::bias_table,
    ISA::bias_table_backward,
    ISA::norm_linear,
    ISA::pack_panels,
    ISA::outer_product,
    ISA::pool,
    ISA::conv_glu,
    ISA::conv_glu_training,
    ISA::conv_glu_totals,
    ISA::conv_glu_training_backward,
    ISA::conv_glu_weights,
    ISA::digest,
};
}  // namespace transnext
