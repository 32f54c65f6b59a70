// The Python module: what the kernels are, and which of them run.
#include <Python.h>

#include "../dispatch.h"

static PyObject* instruction_sets(PyObject*, PyObject*) {
  const auto all = transnext::available_kernels();
  PyObject* names = PyList_New(0);
  for (const auto* kernels : all) {
    PyObject* name = PyUnicode_FromString(kernels->name);
    PyList_Append(names, name);
    Py_DECREF(name);
  }
  return names;
}

static PyObject* instruction_set(PyObject*, PyObject*) { return PyUnicode_FromString(transnext::kernels().name); }

static PyObject* use_instruction_set(PyObject*, PyObject* name) {
  for (const auto* kernels : transnext::available_kernels())
    if (PyUnicode_Check(name) && PyUnicode_CompareWithASCIIString(name, kernels->name) == 0) {
      transnext::use_kernels(*kernels);
      Py_RETURN_NONE;
    }
  PyErr_SetString(PyExc_ValueError, "this processor has no such instruction set: see instruction_sets()");
  return nullptr;
}

static PyObject* panel_width(PyObject*, PyObject*) { return PyLong_FromLongLong(transnext::kernels().panel); }

static PyObject* multiply_adds(PyObject*, PyObject* rounds) {
  const long long n = PyLong_AsLongLong(rounds);
  if (n == -1 && PyErr_Occurred()) return nullptr;
  double done;
  Py_BEGIN_ALLOW_THREADS done = transnext::kernels().multiply_adds(n);
  Py_END_ALLOW_THREADS return PyFloat_FromDouble(done);
}

static PyMethodDef methods[] = {
    {"instruction_sets", instruction_sets, METH_NOARGS,
     "Names of the kernels this processor can run, the fastest last."},
    {"instruction_set", instruction_set, METH_NOARGS, "Name of the kernels in use."},
    {"use_instruction_set", use_instruction_set, METH_O, "Chooses kernels by name, for tests and comparisons."},
    {"panel_width", panel_width, METH_NOARGS, "Columns of a panel of packed weights, for the kernels in use."},
    {"multiply_adds", multiply_adds, METH_O,
     "Does nothing but multiply-adds in a loop; how many, to time the processor by."},
    {nullptr, nullptr, 0, nullptr},
};

static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_cpu", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

PyMODINIT_FUNC PyInit__cpu() { return PyModule_Create(&module); }
