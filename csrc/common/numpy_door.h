#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <vector>

#include "check.h"

// What the functions of fastseg._numpy need of pybind11, and how their errors leave it.
namespace fastseg {

namespace py = pybind11;

// C-contiguous, aligned and in the machine's byte order; any real dtype is converted.
using FloatArray = py::array_t<float, py::array::c_style | py::array::forcecast |
                                          py::detail::npy_api::NPY_ARRAY_ALIGNED_>;

[[noreturn]] void raise(const Error& error);
inline void raise_if(const Error& error) {
  if (error) raise(error);
}

// Anything that numpy.asarray makes an array of numbers from, not yet converted or copied: checks
// of its shape come first. TypeError for complex numbers, strings and objects.
py::array number_array(const char* op, const char* name, const py::handle& value);

// What a check may know of the array. The dtype is that which the kernels will see, float32.
ArgumentInfo info_of(const char* name, const py::array& array);

// A tuple of integers, or of numbers above zero and finite.
std::vector<int64_t> sizes_of(const char* op, const char* name, const py::handle& value);
std::vector<double> scales_of(const char* op, const char* name, const py::handle& value);
int64_t integer_of(const char* op, const char* name, const py::handle& value);

// repr(value), cut where it is long, for messages.
std::string text_of(const py::handle& value);

// One for each room; numpy_library.cpp calls them.
void define_mean_field(py::module_& module);
void define_image_features(py::module_& module);

}  // namespace fastseg
