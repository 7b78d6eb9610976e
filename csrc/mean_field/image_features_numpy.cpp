#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "../common/buffer.h"
#include "../common/numpy_door.h"
#include "../common/thread_pool.h"
#include "../permutohedral/permutohedral.h"

// Features of a dense CRF's kernels: positions and colours in units of their standard deviations.
namespace fastseg {
namespace {

constexpr const char* kOp = "image_features";
constexpr int64_t kBlock = 1 << 14;

template <typename Body>
void for_blocks(int64_t points, Body&& body) {
  pool_threads()((points + kBlock - 1) / kBlock, [&](int64_t block) {
    body(block * kBlock, std::min(points, (block + 1) * kBlock));
  });
}

// row (N): coordinate of each pixel along `axis`, divided by sigma.
void write_positions(const std::vector<int64_t>& spatial, size_t axis, double sigma, float* row) {
  int64_t stride = 1, points = 1;
  for (size_t i = 0; i < spatial.size(); ++i) {
    points *= spatial[i];
    if (i > axis) stride *= spatial[i];
  }
  const int64_t size = spatial[axis];
  std::vector<float> values(size);
  for (int64_t k = 0; k < size; ++k) values[k] = static_cast<float>(k / sigma);
  for_blocks(points, [&](int64_t begin, int64_t end) {
    if (stride == 1) {
      for (int64_t i = begin, run; i < end; i += run) {
        run = std::min(end - i, size - i % size);
        std::memcpy(row + i, values.data() + i % size, run * sizeof(float));
      }
    } else {
      for (int64_t i = begin, run; i < end; i += run) {
        run = std::min(end - i, stride - i % stride);
        std::fill(row + i, row + i + run, values[i / stride % size]);
      }
    }
  });
}

// rows (C, N) from image (N, C): value(c, sample).
template <typename Sample, typename Value>
void write_channels(const Sample* image, int64_t points, int64_t channels, Value&& value,
                    float* rows) {
  for_blocks(points, [&](int64_t begin, int64_t end) {
    for (int64_t c = 0; c < channels; ++c) {
      float* const row = rows + c * points;
      for (int64_t i = begin; i < end; ++i) row[i] = value(c, image[i * channels + c]);
    }
  });
}

void write_bytes(const uint8_t* image, int64_t points, const std::vector<double>& sigmas,
                 float* rows) {
  std::vector<float> values(256 * sigmas.size());
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(static_cast<double>(i % 256) / sigmas[i / 256]);
  }
  write_channels(
      image, points, static_cast<int64_t>(sigmas.size()),
      [&](int64_t c, uint8_t sample) { return values[256 * c + sample]; }, rows);
}

void write_floats(const float* image, int64_t points, const std::vector<double>& sigmas,
                  float* rows) {
  write_channels(
      image, points, static_cast<int64_t>(sigmas.size()),
      [&](int64_t c, float sample) { return static_cast<float>(sample / sigmas[c]); }, rows);
}

// An array on scratch memory: fresh pages for each call would cost more than the features.
py::array_t<float> scratch_array(int64_t rows, int64_t columns) {
  auto memory = std::make_unique<Buffer<float>>(rows * columns);
  float* const data = memory->data();
  const py::capsule owner(memory.get(),
                          [](void* buffer) { delete static_cast<Buffer<float>*>(buffer); });
  memory.release();
  return py::array_t<float>({rows, columns}, data, owner);
}

Error check_sizes(const std::vector<int64_t>& spatial, size_t sigmas, int64_t dims) {
  const ArgumentInfo argument = {"spatial", spatial, ScalarType::kOther, ""};
  FASTSEG_RETURN_IF_ERROR(check_rank(kOp, argument, !spatial.empty(), "(..., H, W)"));
  for (const int64_t size : spatial) {
    if (size >= 1) continue;
    return value_error(kOp, ": spatial must have at least one pixel, got ", shape_text(spatial));
  }
  if (sigmas != spatial.size()) {
    return value_error(kOp, ": sigma_spatial must have one entry for each axis of spatial, ",
                       spatial.size(), ", got ", sigmas);
  }
  if (dims > kMaxFeatureDims) {
    return value_error(kOp, ": spatial and image must have at most ", kMaxFeatureDims,
                       " axes and channels together, got ", dims);
  }
  std::vector<int64_t> features = spatial;
  features.push_back(dims);
  return check_addressable(kOp, argument, features, sizeof(float));
}

Error check_image(const std::vector<int64_t>& spatial, int64_t channels, const py::array& image,
                  bool given) {
  std::vector<int64_t> expected = spatial;
  expected.push_back(channels);
  const std::vector<int64_t> shape = info_of("image", image).shape;
  if (given ? shape == expected : channels == 0) return {};
  return value_error(kOp, ": image must have shape ", shape_text(expected),
                     " (spatial, and a channel for each entry of sigma_image), got ",
                     given ? shape_text(shape) : "None");
}

py::array_t<float> image_features(const py::object& spatial_in, const py::object& sigma_spatial_in,
                                  const py::object& image_in, const py::object& sigma_image_in) {
  const std::vector<int64_t> spatial = sizes_of(kOp, "spatial", spatial_in);
  const std::vector<double> sigma_spatial = scales_of(kOp, "sigma_spatial", sigma_spatial_in);
  const std::vector<double> sigma_image = scales_of(kOp, "sigma_image", sigma_image_in);
  const int64_t axes = static_cast<int64_t>(spatial.size());
  const int64_t channels = static_cast<int64_t>(sigma_image.size());
  raise_if(check_sizes(spatial, sigma_spatial.size(), axes + channels));
  const int64_t points = checked_product(spatial);

  const bool given = !image_in.is_none();
  const py::array image = given ? number_array(kOp, "image", image_in) : py::array();
  raise_if(check_image(spatial, channels, image, given));
  const bool bytes = given && image.dtype().is(py::dtype::of<uint8_t>());
  using ByteArray = py::array_t<uint8_t, py::array::c_style>;
  const ByteArray samples_u8 = bytes ? ByteArray(image) : ByteArray();
  const FloatArray samples = given && !bytes ? FloatArray(image) : FloatArray();

  py::array_t<float> features = scratch_array(axes + channels, points);
  float* const rows = features.mutable_data();
  const uint8_t* const image_u8 = samples_u8.data();
  const float* const image_f32 = samples.data();
  raise_if([&]() -> Error {
    const py::gil_scoped_release release;
    // x comes first, and is the last axis.
    for (int64_t d = 0; d < axes; ++d) {
      write_positions(spatial, axes - 1 - d, sigma_spatial[d], rows + d * points);
    }
    if (channels == 0) return {};
    if (bytes) {
      write_bytes(image_u8, points, sigma_image, rows + axes * points);
      return {};
    }
    FASTSEG_RETURN_IF_ERROR(
        check_finite(kOp, "image", image_f32, points * channels, pool_threads()));
    write_floats(image_f32, points, sigma_image, rows + axes * points);
    return {};
  }());
  return features;
}

}  // namespace

void define_image_features(py::module_& module) {
  module.def("image_features", &image_features, py::arg("spatial"), py::arg("sigma_spatial"),
             py::arg("image") = py::none(), py::arg("sigma_image") = py::tuple(),
             "Features (D, N) float32 of the pixels of an image: x, y, ..., then channels, each "
             "divided by its sigma.");
}

}  // namespace fastseg
