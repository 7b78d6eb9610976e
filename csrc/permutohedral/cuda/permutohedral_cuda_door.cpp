#include "../../common/cuda_door.h"
#include "../permutohedral_door.h"
#include "lattice_status.h"
#include "permutohedral_cuda.h"

// The GPU's kernels behind the operators of the lattice.
namespace fastseg {
namespace {

struct CudaBackend {
  const char* op;
  mutable CudaCall call;

  CudaBackend(const char* name, const Tensor& tensor) : op(name), call(name, tensor) {}

  // Reads back, once, how many vertices there are.
  LatticeTensors build(const Tensor& features, int64_t batch, int64_t dims, int64_t points) const {
    const Device device = features.device();
    const std::vector<int64_t> shape = {batch, points, dims + 1};
    const Tensor vertices = empty_tensor(shape, TensorType::Int, device);
    const Tensor barycentric = empty_tensor(shape, features.scalar_type(), device);
    const Tensor rank = empty_tensor(shape, TensorType::Char, device);
    cuda::LatticePlan plan = {};
    plan.features = features.const_data_ptr();
    plan.double_precision = is_double(features);
    plan.batch = batch;
    plan.dims = dims;
    plan.points = points;
    plan.vertices = mutable_data<int32_t>(vertices);
    plan.barycentric = barycentric.mutable_data_ptr();
    plan.rank = mutable_data<int8_t>(rank);
    const cuda::Allocate allocate = [&](int64_t bytes) { return call.scratch(bytes); };
    int64_t count = 0;
    if (batch > 0) {
      call.refuse_capture("the number of vertices, a shape, depends on the features");
      cuda::LatticePlan* plans[] = {&plan};
      cuda::LatticeStatus* status = nullptr;
      call.check(cuda::place_lattices(plans, 1, 0, allocate, allocate, call.stream(), &status));
      count = checked_count(status);
    }
    const Tensor neighbours = empty_tensor({dims + 1, count, 2}, TensorType::Int, device);
    const Tensor segments = empty_tensor({count + 1}, TensorType::Long, device);
    const Tensor contributors = empty_tensor({plan.contributions()}, TensorType::Long, device);
    if (batch > 0) {
      const int64_t bytes = plan.contributions() * int64_t{sizeof(int32_t)};
      const cuda::LatticeLinks links = {count,
                                        mutable_data<int32_t>(neighbours),
                                        mutable_data<int64_t>(segments),
                                        mutable_data<int64_t>(contributors),
                                        static_cast<int32_t*>(allocate(bytes)),
                                        nullptr};
      call.check(cuda::link_lattice(plan, allocate, call.stream(), links));
    } else {
      call.check(cudaMemsetAsync(segments.mutable_data_ptr(), 0, sizeof(int64_t), call.stream()));
    }
    return {vertices, barycentric, rank, neighbours, segments, contributors};
  }

  // The kernels trust no index, and nothing is read back.
  void check_segments(const int64_t*, int64_t, int64_t) const {}
  template <typename Index>
  void check_indices(const char*, const Index*, int64_t, int64_t, int64_t) const {}

  void splat(const Tensor& values, const Tensor& vertices, const Tensor& weights,
             const int64_t* segments, const Tensor& contributors, const Tensor& lattice) const {
    const cuda::SplatArrays arrays = {values.const_data_ptr(), weights.const_data_ptr(),
                                      data<int32_t>(vertices), segments,
                                      data<int64_t>(contributors)};
    const cuda::Allocate allocate = [&](int64_t bytes) { return call.scratch(bytes); };
    call.check(cuda::splat(arrays, is_double(values), vertices.size(2) - 1, contributors.numel(),
                           lattice.size(0), lattice.size(1), allocate, call.stream(),
                           lattice.mutable_data_ptr()));
  }
  Tensor blur(const Tensor& lattice, const Tensor& neighbours, bool reverse) const {
    const Tensor links = aligned(neighbours, 2 * sizeof(int32_t));
    const Tensor other = empty_tensor(shape_of(lattice), lattice.scalar_type(), lattice.device());
    void* result = nullptr;
    call.check(cuda::blur(lattice.mutable_data_ptr(), other.mutable_data_ptr(),
                          data<int32_t>(links), is_double(lattice), links.size(0) - 1,
                          lattice.size(0), lattice.size(1), reverse, call.stream(), &result));
    return result == lattice.mutable_data_ptr() ? lattice : other;
  }
  void slice(const Tensor& lattice, const Tensor& vertices, const Tensor& weights,
             const Tensor& values) const {
    call.check(cuda::slice(lattice.const_data_ptr(), data<int32_t>(vertices),
                           weights.const_data_ptr(), is_double(lattice), vertices.size(2) - 1,
                           vertices.size(0) * vertices.size(1), lattice.size(0), lattice.size(1),
                           call.stream(), values.mutable_data_ptr()));
  }
  void vertex_products(const Tensor& lattice, const Tensor& values, const Tensor& vertices,
                       const Tensor& products) const {
    call.check(cuda::vertex_products(
        lattice.const_data_ptr(), values.const_data_ptr(), data<int32_t>(vertices),
        is_double(lattice), vertices.size(2) - 1, vertices.size(0) * vertices.size(1),
        lattice.size(0), lattice.size(1), call.stream(), products.mutable_data_ptr()));
  }
  // One order, whichever is asked for.
  void sum(const Tensor& values, bool /*reverse*/, const Tensor& sums) const {
    const cuda::Allocate allocate = [&](int64_t bytes) { return call.scratch(bytes); };
    call.check(cuda::sum_points(values.const_data_ptr(), is_double(values), values.size(0),
                                values.size(1), values.size(2), allocate, call.stream(),
                                sums.mutable_data_ptr()));
  }

 private:
  int64_t checked_count(const cuda::LatticeStatus* on_device) const {
    cuda::LatticeStatus status;
    call.read(on_device, sizeof(status), &status);
    raise_if(from_kernel(op, "features", check_status(status)));
    return status.vertices;
  }
};

}  // namespace

FASTSEG_CUDA_IMPL(m) { implement_permutohedral<CudaBackend>(m); }

}  // namespace fastseg
