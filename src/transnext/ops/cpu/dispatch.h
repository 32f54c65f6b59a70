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

// Products of bfloat16 numbers that this processor can run, the fastest last, behind those that are emulated.
std::vector<const Products16*> available_products16();

// Those in use: the fastest that is not emulated, null if there is none, unless `use_products16` was called.
const Products16* products16();
void use_products16(const Products16* products);

}  // namespace transnext
