#pragma once

#include <string>
#include <vector>

#include "../aspp/aspp.h"
#include "../bilinear_upsample/bilinear_upsample.h"
#include "../dilated_conv/dilated_conv.h"
#include "../mean_field/mean_field.h"
#include "../permutohedral/permutohedral.h"

// The kernels are compiled once per instruction set, from the same sources, each time inside a
// namespace of its own (FASTSEG_ISA); the best one that the machine has is chosen at run time.
namespace fastseg {

struct InstructionSet {
  const char* name;  // "avx512", "avx2" or "baseline"
  PermutohedralKernels permutohedral;
  MeanFieldKernels mean_field;
  DilatedConvKernels dilated_conv;
  AsppKernels aspp;
  BilinearUpsampleKernels bilinear_upsample;
};

// The set in use: the best available one, or that which FASTSEG_ISA=baseline|avx2|avx512 in the
// environment names. std::invalid_argument where that one is not available.
const InstructionSet& instruction_set();

// Sets that this build holds and this machine runs, best first.
std::vector<const InstructionSet*> available_instruction_sets();

// "avx2, baseline on this machine", for messages.
std::string instruction_set_names();

// Makes `name` the set in use; false where it is not available.
bool force_instruction_set(const char* name);

}  // namespace fastseg
