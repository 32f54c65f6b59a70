// The choice of kernels at run time.
#pragma once

#include "kernels.h"

namespace transnext {

// Those that this processor can run, the fastest last.
std::vector<const Kernels*> available_kernels();
bool supports(const Kernels& kernels);

// Those in use: the fastest unless `use_kernels` was called.
const Kernels& kernels();
void use_kernels(const Kernels& kernels);

}  // namespace transnext
