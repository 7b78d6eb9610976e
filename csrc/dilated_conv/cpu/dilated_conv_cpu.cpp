#include "../../common/instruction_set.h"
#include "../dilated_conv.h"
#include "depthwise.h"
#include "direct.h"
#include "layout.h"
#include "planar_strassen.h"
#include "pointwise.h"
#include "strassen.h"
#include "winograd.h"

namespace fastseg {
namespace FASTSEG_ISA {
namespace {

bool is_winograd(ConvAlgorithm algorithm) {
  return algorithm == ConvAlgorithm::kWinograd || algorithm == ConvAlgorithm::kWinogradHigh;
}

// use(type) with the type of the elements.
template <typename Use>
void with_type(ElementType type, Use&& use) {
  switch (type) {
    case ElementType::kFloat:
      return use(static_cast<float*>(nullptr));
    case ElementType::kDouble:
      return use(static_cast<double*>(nullptr));
    case ElementType::kHalf:
      return use(static_cast<Half*>(nullptr));
    case ElementType::kBFloat16:
      return use(static_cast<BFloat16*>(nullptr));
  }
}

template <typename T>
void pack_weights(const ConvGeometry& g, ConvAlgorithm algorithm, const ConvWeight& weight,
                  Parallel parallel, Arithmetic<T>* packed) {
  const T* values = static_cast<const T*>(weight.data);
  if constexpr (!std::is_same_v<T, double>) {
    if (is_winograd(algorithm)) {
      return pack_winograd(g, algorithm == ConvAlgorithm::kWinogradHigh, values, weight.stride,
                           parallel, packed);
    }
    if (algorithm == ConvAlgorithm::kStrassen) {
      return pack_strassen(g, values, weight.stride, parallel, packed);
    }
  }
  pack_direct(g, values, weight.stride, parallel, packed);
}

// The weights without their header, packed now where they are not yet.
template <typename T>
const Arithmetic<T>* packed_weights(const ConvCall& call, Parallel parallel,
                                    Buffer<Arithmetic<T>>* buffer) {
  if constexpr (!std::is_same_v<T, double>) {
    if (call.weight.packed) return call.weight.packed + kPackedHeader;
  }
  const ConvGeometry& g = call.geometry;
  // Panels of double are half as wide, and so at most as many values.
  buffer->reset(packed_layout(g, call.algorithm).size);
  pack_weights<T>(g, call.algorithm, call.weight, parallel, buffer->data());
  return buffer->data();
}

// Bias in the type of the arithmetic, with zeros for the panels of a tile that have no channel.
template <typename T>
std::vector<Arithmetic<T>> padded_bias(const ConvCall& call) {
  std::vector<Arithmetic<T>> bias;
  if (call.bias == nullptr) return bias;
  const T* values = static_cast<const T*>(call.bias);
  bias.assign(call.geometry.out_channels + (kTilePanels + 1) * kPanel<float>, 0);
  for (int64_t o = 0; o < call.geometry.out_channels; ++o) {
    bias[o] = static_cast<Arithmetic<T>>(values[o]);
  }
  return bias;
}

// An image by pixels: as it lies where its channels lie side by side, or else a copy in `buffer`.
template <typename T>
Pixels<const Arithmetic<T>> pixels_of(const Image<const void>& image, int64_t batch,
                                      int64_t channels, int64_t height, int64_t width,
                                      Parallel parallel, Buffer<Arithmetic<T>>* buffer) {
  const Image<const T> typed = image.as<const T>();
  if (typed.data == nullptr) return {};
  if constexpr (std::is_same_v<T, Arithmetic<T>>) {
    if (typed.channel == 1 || channels == 1) {
      return {typed.data, typed.batch, typed.row, typed.column};
    }
  }
  buffer->reset(batch * channels * height * width);
  to_pixels<T>(typed, batch, channels, height, width, parallel, buffer->data());
  return {buffer->data(), height * width * channels, width * channels, channels};
}

void run_layer(ConvAlgorithm algorithm, const Layer<float>& layer, Parallel parallel) {
  if (is_winograd(algorithm)) {
    convolve_winograd(layer, algorithm == ConvAlgorithm::kWinogradHigh, parallel);
  } else if (algorithm == ConvAlgorithm::kStrassen) {
    StrassenPointwise(layer).run(parallel);
  } else if (is_depthwise(layer.geometry)) {
    Depthwise<float>(layer).run(parallel);
  } else {
    DirectConvolution<float>(layer).run(parallel);
  }
}

void run_layer(ConvAlgorithm, const Layer<double>& layer, Parallel parallel) {
  if (is_depthwise(layer.geometry)) return Depthwise<double>(layer).run(parallel);
  DirectConvolution<double>(layer).run(parallel);
}

template <typename T>
void convolve_pixels(const ConvCall& call, const Arithmetic<T>* packed, const Arithmetic<T>* bias,
                     Parallel parallel) {
  using A = Arithmetic<T>;
  const ConvGeometry& g = call.geometry;
  const int64_t height = g.out_height(), width = g.out_width();
  Buffer<A> input, residual, output;
  Layer<A> layer = {g, {}, packed, bias, {}, {}, call.activation};
  layer.input =
      pixels_of<T>(call.input, g.batch, g.in_channels, g.height, g.width, parallel, &input);
  layer.residual =
      pixels_of<T>(call.residual, g.batch, g.out_channels, height, width, parallel, &residual);
  const Image<T> image = call.output.as<T>();
  bool direct = false;
  if constexpr (std::is_same_v<T, A>) {
    direct = image.channel == 1 || g.out_channels == 1;
    if (direct) layer.output = {image.data, image.batch, image.row, image.column};
  }
  if (!direct) {
    output.reset(g.batch * g.out_channels * height * width);
    layer.output = {output.data(), height * width * g.out_channels, width * g.out_channels,
                    g.out_channels};
  }
  run_layer(call.algorithm, layer, parallel);
  if (!direct) {
    from_pixels<T>(output.data(), g.batch, g.out_channels, height, width, parallel, image);
  }
}

// Whether output and residual are planar float images, the input's channels are far apart, and the
// layer has a kernel for them.
bool has_planar_kernel(const ConvCall& call) {
  const ConvGeometry& g = call.geometry;
  const bool pointwise =
      call.algorithm == ConvAlgorithm::kPointwise || call.algorithm == ConvAlgorithm::kStrassen;
  return (pointwise || PlanarDepthwise::serves(g)) && call.type == ElementType::kFloat &&
         call.input.channel != 1 && is_planar(call.output, g.out_width()) &&
         (call.residual.data == nullptr || is_planar(call.residual, g.out_width()));
}

void convolve(const ConvCall& call, Parallel parallel) {
  with_type(call.type, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    Buffer<Arithmetic<T>> buffer;
    const Arithmetic<T>* packed = packed_weights<T>(call, parallel, &buffer);
    const auto padded = padded_bias<T>(call);
    const Arithmetic<T>* bias = padded.empty() ? nullptr : padded.data();
    if constexpr (std::is_same_v<T, float>) {
      if (has_planar_kernel(call)) {
        const PlanarLayer layer = {
            call.geometry,  call.input.as<const float>(),    packed,
            bias,           call.residual.as<const float>(), call.output.as<float>(),
            call.activation};
        if (is_depthwise(call.geometry)) return PlanarDepthwise(layer).run(parallel);
        if (call.algorithm == ConvAlgorithm::kStrassen) return PlanarStrassen(layer).run(parallel);
        return PlanarPointwise(layer).run(parallel);
      }
    }
    convolve_pixels<T>(call, packed, bias, parallel);
  });
}

void transform(const ConvGeometry& g, ConvAlgorithm algorithm, ElementType type,
               const ConvWeight& weight, Parallel parallel, float* packed) {
  const PackedLayout layout = packed_layout(g, algorithm);
  std::copy_n(layout.header, kPackedHeader, packed);
  with_type(type, [&](auto* pointer) {
    using T = std::remove_pointer_t<decltype(pointer)>;
    if constexpr (!std::is_same_v<T, double>) {
      pack_weights<T>(g, algorithm, weight, parallel, packed + kPackedHeader);
    }
  });
}

}  // namespace

const DilatedConvKernels& dilated_conv_kernels() {
  static const DilatedConvKernels kernels = {convolve, transform, to_pixels<float>};
  return kernels;
}

}  // namespace FASTSEG_ISA
}  // namespace fastseg
