// The kernels for one instruction set. Each isa_*.cpp sets VL, ISA and ISA_NAME, and turns the target on after the
// standard headers: what they define inline must not be compiled for a processor that may not be there.

#include "attention.h"
#include "attention_backward.h"
#include "bias_table.h"
#include "conv_glu_channels.h"
#include "conv_glu_training.h"
#include "digest.h"
#include "factors.h"
#include "gate.h"
#include "gate_backward.h"
#include "global_attention.h"
#include "global_attention_backward.h"
#include "outer.h"
#include "pool.h"
#include "products.h"

namespace transnext {

#define CONCATENATE_(a, b) a##b
#define CONCATENATE(a, b) CONCATENATE_(a, b)
#define ENTRY(result, name, arguments) ISA::name,
const Kernels CONCATENATE(ISA, _kernels) = {ISA_NAME, ISA::PANEL, TRANSNEXT_KERNELS(ENTRY)};
#undef ENTRY

}  // namespace transnext
