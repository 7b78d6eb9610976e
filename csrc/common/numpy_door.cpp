#include "numpy_door.h"

#include <cmath>
#include <cstring>

namespace fastseg {
namespace {

// TypeError for anything but a sequence.
py::sequence sequence_of(const char* op, const char* name, const py::handle& value) {
  if (py::isinstance<py::sequence>(value) && !py::isinstance<py::str>(value)) {
    return py::reinterpret_borrow<py::sequence>(value);
  }
  raise(type_error(op, ": ", name, " must be a tuple, got ", text_of(value)));
}

}  // namespace

void raise(const Error& error) {
  if (error.kind == ErrorKind::kType) throw py::type_error(error.message);
  throw py::value_error(error.message);
}

std::string text_of(const py::handle& value) {
  std::string text = py::str(py::repr(value));
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

py::array number_array(const char* op, const char* name, const py::handle& value) {
  const py::array array = py::array::ensure(value);
  if (!array) {
    raise(type_error(op, ": ", name, " must be an array of real numbers, got ", text_of(value)));
  }
  if (std::strchr("fiub", array.dtype().kind()) == nullptr) {
    raise(type_error(op, ": ", name, " must be an array of real numbers, got dtype ",
                     std::string(py::str(array.dtype()))));
  }
  return array;
}

ArgumentInfo info_of(const char* name, const py::array& array) {
  return {name, {array.shape(), array.shape() + array.ndim()}, ScalarType::kFloat32, "float32"};
}

int64_t integer_of(const char* op, const char* name, const py::handle& value) {
  if (PyIndex_Check(value.ptr())) {
    const py::object index = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
    int overflow = 0;
    const long long number = index ? PyLong_AsLongLongAndOverflow(index.ptr(), &overflow) : -1;
    if (index && !overflow) return number;
    PyErr_Clear();
    raise(value_error(op, ": ", name, " must be less than 2^63, got ", text_of(value)));
  }
  raise(type_error(op, ": ", name, " must be an integer, got ", text_of(value)));
}

std::vector<int64_t> sizes_of(const char* op, const char* name, const py::handle& value) {
  std::vector<int64_t> sizes;
  for (const py::handle& item : sequence_of(op, name, value)) {
    sizes.push_back(integer_of(op, name, item));
  }
  return sizes;
}

std::vector<double> scales_of(const char* op, const char* name, const py::handle& value) {
  std::vector<double> scales;
  for (const py::handle& item : sequence_of(op, name, value)) {
    const double number = PyFloat_AsDouble(item.ptr());
    if (number == -1 && PyErr_Occurred()) {
      PyErr_Clear();
      raise(type_error(op, ": ", name, " must hold numbers, got ", text_of(item)));
    }
    if (!(number > 0) || !std::isfinite(number)) {
      raise(value_error(op, ": ", name, " must be positive and finite, got ", text_of(item)));
    }
    scales.push_back(number);
  }
  return scales;
}

}  // namespace fastseg
