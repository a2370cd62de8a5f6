// Holding and calling Python reference functions from MLX's transforms.
#include "bindings/python_reference.h"

namespace nb = nanobind;

namespace ltx2rt {
namespace {

bool finalising() {
#if PY_VERSION_HEX >= 0x030D0000
  return !Py_IsInitialized() || Py_IsFinalizing();
#else
  return !Py_IsInitialized() || _Py_IsFinalizing();
#endif
}

void release(PyObject* function) {
  if (finalising()) return;
  const nb::gil_scoped_acquire gil;
  Py_DECREF(function);
}

}  // namespace

Reference python_reference(nb::callable reference) {
  const std::shared_ptr<PyObject> function(reference.release().ptr(), release);
  return [function](const std::vector<mx::array>& inputs) {
    const nb::gil_scoped_acquire gil;
    nb::list arguments;
    for (const auto& input : inputs) arguments.append(nb::cast(input));
    const nb::object output = nb::handle(function.get())(*arguments);
    return std::vector<mx::array>{nb::cast<mx::array>(output)};
  };
}

OpContext op_context(nb::callable reference, bool use_reference, const mx::StreamOrDevice& stream, bool fenced) {
  return {mx::to_stream(stream), python_reference(std::move(reference)), use_reference, fenced};
}

}  // namespace ltx2rt
