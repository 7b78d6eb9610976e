#include <memory>
#include <mutex>
#include <utility>

#include "../common/instruction_set.h"
#include "../common/numpy_door.h"
#include "../common/thread_pool.h"
#include "mean_field.h"
#include "mean_field_check.h"

// Mean-field inference for NumPy arrays: one image, whose lattices are built once.
namespace fastseg {
namespace {

class NumpyMeanField {
 public:
  NumpyMeanField(const py::object& spatial, const py::object& labels) {
    spatial_ = sizes_of("MeanField", "spatial", spatial);
    labels_ = integer_of("MeanField", "labels", labels);
    raise_if(check_mean_field_image("MeanField", spatial_, labels_));
    points_ = checked_product(spatial_);
    create_ = instruction_set().mean_field.create;
  }

  void add_kernel(const py::object& features, const py::object& transform,
                  const std::string& normalization, bool self_message) {
    const char* op = "MeanField.add_kernel";
    const py::array features_in = number_array(op, "features", features);
    const py::array transform_in = number_array(op, "transform", transform);
    raise_if(check_mean_field_kernel(op, info_of("features", features_in),
                                     info_of("transform", transform_in), normalization, labels_,
                                     points_));
    const FloatArray rows(features_in), map(transform_in);
    raise_if(check_finite(op, "transform", map.data(), map.size(), serial()));
    const KernelSpec spec = {rows.data(), rows.shape(0), *normalization_from_name(normalization),
                             map.data(),  map.size(),    self_message};
    raise_if(from_kernel(op, "features",
                         without_gil([&] { return field_->add_kernel(spec, pool_threads()); })));
  }

  FloatArray run(const py::object& unary, const py::object& iterations, const py::object& initial) {
    const char* op = "MeanField.run";
    const int64_t count = integer_of(op, "iterations", iterations);
    raise_if(check_mean_field_iterations(op, count));
    const FloatArray energy = field_array(op, "unary", unary);
    const FloatArray start = initial.is_none() ? FloatArray() : field_array(op, "initial", initial);
    FloatArray q({labels_, points_});
    float* const out = q.mutable_data();
    const float* const from = initial.is_none() ? nullptr : start.data();
    const float* const in = energy.data();
    raise_if(without_gil([&]() -> Error {
      if (from) {
        FASTSEG_RETURN_IF_ERROR(
            check_finite(op, "initial", from, labels_ * points_, pool_threads()));
      }
      return from_kernel(op, "unary", field_->run(in, from, count, pool_threads(), out));
    }));
    return q;
  }

  FloatArray message(const py::object& q) {
    const char* op = "MeanField.message";
    const FloatArray in = field_array(op, "q", q);
    FloatArray sum({labels_, points_});
    float* const out = sum.mutable_data();
    const float* const from = in.data();
    raise_if(without_gil([&]() -> Error {
      FASTSEG_RETURN_IF_ERROR(check_finite(op, "q", from, labels_ * points_, pool_threads()));
      return from_kernel(op, "q", field_->message(from, pool_threads(), out));
    }));
    return sum;
  }

 private:
  FloatArray field_array(const char* op, const char* name, const py::object& value) const {
    const py::array array = number_array(op, name, value);
    raise_if(check_mean_field_field(op, info_of(name, array), labels_, points_));
    return FloatArray(array);
  }

  // Two Python threads may hold one object: the second waits, and waits without the GIL.
  template <typename Body>
  Error without_gil(Body&& body) {
    const py::gil_scoped_release release;
    const std::lock_guard<std::mutex> lock(mutex_);
    // Only now: what it holds grows with the image, and until there is an array of that size the
    // size is but a claim.
    if (!field_) field_.reset(create_(spatial_, labels_));
    return body();
  }

  std::vector<int64_t> spatial_;
  int64_t labels_ = 0, points_ = 0;
  MeanField* (*create_)(const std::vector<int64_t>& spatial, int64_t labels);
  std::unique_ptr<MeanField> field_;
  std::mutex mutex_;
};

}  // namespace

void define_mean_field(py::module_& module) {
  py::class_<NumpyMeanField>(module, "MeanField",
                             "Lattices of one image, and mean-field inference over them.")
      .def(py::init<const py::object&, const py::object&>(), py::arg("spatial"), py::arg("labels"))
      .def("add_kernel", &NumpyMeanField::add_kernel, py::arg("features"), py::arg("transform"),
           py::arg("normalization") = "symmetric", py::arg("self_message") = true)
      .def("run", &NumpyMeanField::run, py::arg("unary"), py::arg("iterations"),
           py::arg("initial") = py::none())
      .def("message", &NumpyMeanField::message, py::arg("q"));
}

}  // namespace fastseg
