#include <Python.h>

#include <stdexcept>
#include <string>

#include "common/instruction_set.h"

// Entry point of fastseg._C. Importing it registers the operators (static objects in the rooms'
// <op>.cpp); the module itself only says and sets which instruction set they run.
namespace {

PyObject* get_instruction_set(PyObject*, PyObject*) {
  try {
    return PyUnicode_FromString(fastseg::instruction_set().name);
  } catch (const std::invalid_argument& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
    return nullptr;
  }
}

PyObject* set_instruction_set(PyObject*, PyObject* name) {
  const char* text = PyUnicode_AsUTF8AndSize(name, nullptr);
  if (text == nullptr) return nullptr;
  if (fastseg::force_instruction_set(text)) Py_RETURN_NONE;
  PyErr_Format(PyExc_ValueError, "set_instruction_set: name must be one of %s, got '%s'",
               fastseg::instruction_set_names().c_str(), text);
  return nullptr;
}

PyObject* available_instruction_sets(PyObject*, PyObject*) {
  const auto sets = fastseg::available_instruction_sets();
  PyObject* names = PyList_New(static_cast<Py_ssize_t>(sets.size()));
  for (size_t i = 0; names && i < sets.size(); ++i) {
    PyObject* name = PyUnicode_FromString(sets[i]->name);
    if (name == nullptr) {
      Py_DECREF(names);
      return nullptr;
    }
    PyList_SetItem(names, static_cast<Py_ssize_t>(i), name);
  }
  return names;
}

PyMethodDef functions[] = {
    {"instruction_set", get_instruction_set, METH_NOARGS, "Name of the instruction set in use."},
    {"set_instruction_set", set_instruction_set, METH_O, "Use the named instruction set."},
    {"available_instruction_sets", available_instruction_sets, METH_NOARGS,
     "Names of those this machine runs, best first."},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                          "_C",
                          "Loads the operators torch.ops.fastseg.*",
                          -1,
                          functions,
                          nullptr,
                          nullptr,
                          nullptr,
                          nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&definition); }
