// The Python module: what the kernels are, which of them run, and digests of memory.
#include <Python.h>

#include "tensors.h"

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

static PyObject* name_or_none(const transnext::Products16* products) {
  if (!products) Py_RETURN_NONE;
  return PyUnicode_FromString(products->name);
}

static PyObject* bfloat16_instruction_sets(PyObject*, PyObject*) {
  PyObject* names = PyList_New(0);
  for (const auto* products : transnext::available_products16()) {
    PyObject* name = name_or_none(products);
    PyList_Append(names, name);
    Py_DECREF(name);
  }
  return names;
}

static PyObject* bfloat16_instruction_set(PyObject*, PyObject*) { return name_or_none(transnext::products16()); }

static PyObject* use_bfloat16_instruction_set(PyObject*, PyObject* name) {
  if (name == Py_None) {
    transnext::use_products16(nullptr);
    Py_RETURN_NONE;
  }
  for (const auto* products : transnext::available_products16())
    if (PyUnicode_Check(name) && PyUnicode_CompareWithASCIIString(name, products->name) == 0) {
      transnext::use_products16(products);
      Py_RETURN_NONE;
    }
  PyErr_SetString(PyExc_ValueError, "this processor has no such instructions: see bfloat16_instruction_sets()");
  return nullptr;
}

static PyObject* bfloat16_panel(PyObject*, PyObject*) {
  const auto* products = transnext::products16();
  if (!products) Py_RETURN_NONE;
  return Py_BuildValue("LL", static_cast<long long>(transnext::PANEL_16), static_cast<long long>(products->depth));
}

static PyObject* panel_width(PyObject*, PyObject*) { return PyLong_FromLongLong(transnext::kernels().panel); }

static PyObject* multiply_adds(PyObject*, PyObject* rounds) {
  const long long n = PyLong_AsLongLong(rounds);
  if (n == -1 && PyErr_Occurred()) return nullptr;
  double done;
  Py_BEGIN_ALLOW_THREADS done = transnext::kernels().multiply_adds(n);
  Py_END_ALLOW_THREADS return PyFloat_FromDouble(done);
}

constexpr int64_t PART_BYTES = 1 << 16;                         // of a digest, that are worth a thread of their own
constexpr int64_t CHUNK_BYTES = transnext::DIGEST_NUMBERS * 4;  // what is read of a row where not all is: a cache line
constexpr int64_t SCATTERED = 8;  // lines of memory side by side that are read in the time of one that lies alone
constexpr int64_t WHOLE_BYTES = 1 << 14;  // up to which a matrix is always read whole

static PyObject* digest(PyObject*, PyObject* args) {
  PyObject* matrices;
  int whole;
  if (!PyArg_ParseTuple(args, "O!p", &PyList_Type, &matrices, &whole)) return nullptr;
  std::vector<transnext::DigestPart> parts;
  const auto add = [&](const char* data, int64_t rows, int64_t row_bytes, int64_t chunk, int64_t at_once) {
    for (int64_t row = 0; row < rows; row += at_once)
      parts.push_back({data, row_bytes, chunk, row, std::min(rows, row + at_once)});
  };
  int64_t bytes_read = 0;
  for (Py_ssize_t i = 0; i < PyList_Size(matrices); ++i) {
    long long address, rows, bytes;
    if (!PyArg_ParseTuple(PyList_GetItem(matrices, i), "LLL", &address, &rows, &bytes)) return nullptr;
    const char* data = reinterpret_cast<const char*>(static_cast<intptr_t>(address));
    // Every column has its turn only where there are as many rows as a row has chunks.
    if (whole || bytes <= WHOLE_BYTES || rows * rows * CHUNK_BYTES < bytes) {
      const int64_t full = bytes / PART_BYTES, rest = bytes % PART_BYTES;
      add(data, full, PART_BYTES, PART_BYTES, 1);
      if (rest) add(data + full * PART_BYTES, 1, rest, rest, 1);
      bytes_read += bytes;
    } else {
      add(data, rows, bytes / rows, CHUNK_BYTES, PART_BYTES / (SCATTERED * CHUNK_BYTES));
      bytes_read += rows * SCATTERED * CHUNK_BYTES;
    }
  }
  std::vector<uint32_t> results(parts.size() * transnext::DIGEST_NUMBERS);
  uint32_t total[transnext::DIGEST_NUMBERS] = {};
  Py_BEGIN_ALLOW_THREADS;
  const int64_t count = static_cast<int64_t>(parts.size()), grain = bytes_read < 2 * PART_BYTES ? count : 1;
  torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      transnext::kernels().digest(parts[i], &results[i * transnext::DIGEST_NUMBERS]);
  });
  for (size_t i = 0; i < results.size(); ++i) {
    uint32_t& lane = total[i % transnext::DIGEST_NUMBERS];
    lane = (lane ^ (lane >> 15)) * 0x9E3779B1u + results[i];
  }
  Py_END_ALLOW_THREADS;
  return PyBytes_FromStringAndSize(reinterpret_cast<const char*>(total), sizeof(total));
}

static PyMethodDef methods[] = {
    {"digest", digest, METH_VARARGS, "Of matrices, (address, rows, bytes) each: of all bytes, or of some in each row."},
    {"instruction_sets", instruction_sets, METH_NOARGS,
     "Names of the kernels this processor can run, the fastest last."},
    {"instruction_set", instruction_set, METH_NOARGS, "Name of the kernels in use."},
    {"use_instruction_set", use_instruction_set, METH_O, "Chooses kernels by name, for tests and comparisons."},
    {"bfloat16_instruction_sets", bfloat16_instruction_sets, METH_NOARGS,
     "Names of what can multiply bfloat16 numbers: emulations for tests, then what the processor has, the fastest "
     "last."},
    {"bfloat16_instruction_set", bfloat16_instruction_set, METH_NOARGS,
     "Name of what multiplies bfloat16 numbers; None if they are multiplied as floats."},
    {"use_bfloat16_instruction_set", use_bfloat16_instruction_set, METH_O, "Chooses it by name, or None."},
    {"bfloat16_panel", bfloat16_panel, METH_NOARGS,
     "Columns of a panel of bfloat16 weights, and what its depth is a multiple of; None if there are none."},
    {"panel_width", panel_width, METH_NOARGS, "Columns of a panel of packed weights, for the kernels in use."},
    {"multiply_adds", multiply_adds, METH_O,
     "Does nothing but multiply-adds in a loop; how many, to time the processor by."},
    {nullptr, nullptr, 0, nullptr},
};

static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_cpu", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

PyMODINIT_FUNC PyInit__cpu() { return PyModule_Create(&module); }
