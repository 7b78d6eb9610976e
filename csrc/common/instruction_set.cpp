#include "instruction_set.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace fastseg {

#define FASTSEG_DECLARE_KERNELS(isa)                          \
  namespace isa {                                             \
  const PermutohedralKernels& permutohedral_kernels();        \
  const MeanFieldKernels& mean_field_kernels();               \
  const DilatedConvKernels& dilated_conv_kernels();           \
  const AsppKernels& aspp_kernels();                          \
  const BilinearUpsampleKernels& bilinear_upsample_kernels(); \
  }

FASTSEG_DECLARE_KERNELS(baseline)
#if defined(__x86_64__)
FASTSEG_DECLARE_KERNELS(avx2)
FASTSEG_DECLARE_KERNELS(avx512)
#endif

namespace {

std::vector<const InstructionSet*> find_available() {
  std::vector<const InstructionSet*> available;
#if defined(__x86_64__)
  // The compiler's own test also asks whether the operating system saves the wide registers.
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c")) {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      static const InstructionSet avx512_set = {"avx512",
                                                avx512::permutohedral_kernels(),
                                                avx512::mean_field_kernels(),
                                                avx512::dilated_conv_kernels(),
                                                avx512::aspp_kernels(),
                                                avx512::bilinear_upsample_kernels()};
      available.push_back(&avx512_set);
    }
    static const InstructionSet avx2_set = {"avx2",
                                            avx2::permutohedral_kernels(),
                                            avx2::mean_field_kernels(),
                                            avx2::dilated_conv_kernels(),
                                            avx2::aspp_kernels(),
                                            avx2::bilinear_upsample_kernels()};
    available.push_back(&avx2_set);
  }
#endif
  static const InstructionSet baseline_set = {"baseline",
                                              baseline::permutohedral_kernels(),
                                              baseline::mean_field_kernels(),
                                              baseline::dilated_conv_kernels(),
                                              baseline::aspp_kernels(),
                                              baseline::bilinear_upsample_kernels()};
  available.push_back(&baseline_set);
  return available;
}

const InstructionSet* find(const char* name) {
  for (const InstructionSet* set : available_instruction_sets()) {
    if (std::strcmp(set->name, name) == 0) return set;
  }
  return nullptr;
}

const InstructionSet* choose() {
  const char* name = std::getenv("FASTSEG_ISA");
  if (name == nullptr || *name == '\0') return available_instruction_sets().front();
  if (const InstructionSet* set = find(name)) return set;
  throw std::invalid_argument("fastseg: FASTSEG_ISA must be one of " + instruction_set_names() +
                              ", got '" + name + "'");
}

// The only mutable state. Threads that choose at the same time choose the same.
std::atomic<const InstructionSet*> in_use{nullptr};

}  // namespace

std::vector<const InstructionSet*> available_instruction_sets() {
  static const std::vector<const InstructionSet*> available = find_available();
  return available;
}

std::string instruction_set_names() {
  std::string names;
  for (const InstructionSet* set : available_instruction_sets()) {
    names += (names.empty() ? "" : ", ") + std::string(set->name);
  }
  return names + " on this machine";
}

const InstructionSet& instruction_set() {
  const InstructionSet* set = in_use.load(std::memory_order_acquire);
  if (set == nullptr) {
    set = choose();
    in_use.store(set, std::memory_order_release);
  }
  return *set;
}

bool force_instruction_set(const char* name) {
  const InstructionSet* set = find(name);
  if (set == nullptr) return false;
  in_use.store(set, std::memory_order_release);
  return true;
}

}  // namespace fastseg
