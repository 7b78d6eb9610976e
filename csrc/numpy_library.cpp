#include <pybind11/stl.h>

#include "common/instruction_set.h"
#include "common/numpy_door.h"
#include "common/thread_pool.h"

// What fastseg._C was built with, set by setup.py; empty without CUDA.
#if !defined(FASTSEG_CUDA_ARCHITECTURES)
#define FASTSEG_CUDA_ARCHITECTURES ""
#define FASTSEG_CUDA_TOOLKIT ""
#endif

// Entry point of fastseg._numpy: the kernels for NumPy arrays, with no torch.
namespace fastseg {
namespace {

std::vector<std::string> available_names() {
  std::vector<std::string> names;
  for (const InstructionSet* set : available_instruction_sets()) names.push_back(set->name);
  return names;
}

void set_instruction_set(const std::string& name) {
  if (force_instruction_set(name.c_str())) return;
  raise(value_error("set_instruction_set: name must be one of ", instruction_set_names(), ", got '",
                    name, "'"));
}

void set_threads(const py::object& threads) {
  const int64_t count = integer_of("set_num_threads", "threads", threads);
  raise_if(check_between("set_num_threads", "threads", count, 1, kMaxThreads));
  set_num_threads(static_cast<int>(count));
}

}  // namespace
}  // namespace fastseg

PYBIND11_MODULE(_numpy, module) {
  using namespace fastseg;
  module.doc() = "The kernels of fastseg for NumPy arrays; imports no torch.";
  module.def(
      "instruction_set", [] { return std::string(instruction_set().name); },
      "Name of the instruction set in use.");
  module.def("set_instruction_set", &set_instruction_set, py::arg("name"),
             "Use the named instruction set.");
  module.def("available_instruction_sets", &available_names,
             "Names of those this machine runs, best first.");
  module.def("get_num_threads", &get_num_threads, "Threads that a call may use.");
  module.def("set_num_threads", &set_threads, py::arg("threads"),
             "Threads that a call may use, from the next call on.");
  module.attr("cuda_architectures") = FASTSEG_CUDA_ARCHITECTURES;
  module.attr("cuda_toolkit") = FASTSEG_CUDA_TOOLKIT;
  define_image_features(module);
  define_mean_field(module);
}
