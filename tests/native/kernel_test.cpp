// Kernel tests that need neither Python nor torch: for processors that are only emulated here.
// Every instruction set that the machine runs is tested; names given as arguments must be exactly
// those. Prints one line per set, and exits with 1 where a check fails.

#include "kernel_test.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace fastseg {
namespace {

struct Image {
  static constexpr int64_t kHeight = 13, kWidth = 24, kPoints = kHeight * kWidth;
  std::vector<float> positions, colours;  // features (2, N) and (5, N)

  Image() : positions(2 * kPoints), colours(5 * kPoints) {
    Random random;
    for (int64_t i = 0; i < kPoints; ++i) {
      const float x = static_cast<float>(i % kWidth), y = static_cast<float>(i / kWidth);
      positions[i] = x / 3;
      positions[kPoints + i] = y / 3;
      colours[i] = x / 20;
      colours[kPoints + i] = y / 20;
      for (int c = 0; c < 3; ++c) {
        const double shade = 60 * std::sin(0.3 * x + c) + (y > 6 ? 50 : 0) + 8 * random();
        colours[(2 + c) * kPoints + i] = static_cast<float>(shade / 13);
      }
    }
  }
};

// exp(-|f_i - f_j|^2 / 2), normalised symmetrically.
std::vector<double> exact_kernel(const std::vector<float>& features) {
  const int64_t N = Image::kPoints, D = static_cast<int64_t>(features.size()) / N;
  std::vector<double> kernel(N * N), norm(N, 1e-20);
  for (int64_t i = 0; i < N; ++i) {
    for (int64_t j = 0; j < N; ++j) {
      double squared = 0;
      for (int64_t d = 0; d < D; ++d) {
        const double difference = features[d * N + i] - features[d * N + j];
        squared += difference * difference;
      }
      norm[i] += kernel[i * N + j] = std::exp(-squared / 2);
    }
  }
  for (int64_t i = 0; i < N; ++i) {
    for (int64_t j = 0; j < N; ++j) kernel[i * N + j] /= std::sqrt(norm[i] * norm[j]);
  }
  return kernel;
}

std::vector<double> exact_mean_field(const std::vector<float>& unary, int64_t labels,
                                     const std::vector<std::vector<double>>& kernels,
                                     const std::vector<double>& weights, int iterations) {
  const int64_t N = Image::kPoints;
  std::vector<double> q(labels * N);
  for (int t = 0; t <= iterations; ++t) {
    std::vector<double> logits(unary.begin(), unary.end());
    for (double& logit : logits) logit = -logit;
    for (size_t k = 0; t > 0 && k < kernels.size(); ++k) {
      for (int64_t l = 0; l < labels; ++l) {
        for (int64_t i = 0; i < N; ++i) {
          double sum = 0;
          for (int64_t j = 0; j < N; ++j) sum += kernels[k][i * N + j] * q[l * N + j];
          logits[l * N + i] += weights[k] * sum;
        }
      }
    }
    for (int64_t i = 0; i < N; ++i) {
      double sum = 0;
      for (int64_t l = 0; l < labels; ++l) sum += q[l * N + i] = std::exp(logits[l * N + i]);
      for (int64_t l = 0; l < labels; ++l) q[l * N + i] /= sum;
    }
  }
  return q;
}

std::unique_ptr<MeanField> build_field(const InstructionSet& set, const Image& image,
                                       int64_t labels, Normalization normalization,
                                       Parallel parallel) {
  static const float weights[] = {3, 5};
  std::unique_ptr<MeanField> field(set.mean_field.create({Image::kHeight, Image::kWidth}, labels));
  const KernelSpec position = {image.positions.data(), 2, normalization, &weights[0], 1, true};
  const KernelSpec bilateral = {image.colours.data(), 5, normalization, &weights[1], 1, true};
  for (const KernelSpec& kernel : {position, bilateral}) {
    const Error error = field->add_kernel(kernel, parallel);
    expect(!error, set.name, error.message.c_str());
  }
  return field;
}

// A label for each patch of the image, with noise.
std::vector<float> noisy_unary(int64_t labels) {
  Random random;
  std::vector<float> unary(labels * Image::kPoints);
  for (int64_t i = 0; i < Image::kPoints; ++i) {
    const int64_t patch = i % Image::kWidth / 6 + 3 * (i / Image::kWidth / 7);
    for (int64_t l = 0; l < labels; ++l) {
      const double energy = (l == patch % labels ? 0 : 1.5) + 2 * random();
      unary[l * Image::kPoints + i] = static_cast<float>(energy);
    }
  }
  return unary;
}

std::vector<float> infer(const InstructionSet& set, const Image& image, int64_t labels,
                         Parallel parallel) {
  const auto field = build_field(set, image, labels, Normalization::kSymmetric, parallel);
  const std::vector<float> unary = noisy_unary(labels);
  std::vector<float> q(unary.size(), NAN);
  const Error error = field->run(unary.data(), nullptr, 5, parallel, q.data());
  expect(!error, set.name, error.message.c_str());
  return q;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void test_mean_field(const InstructionSet& set, const Image& image) {
  for (const int64_t labels : {2, 5, 21}) {
    const std::vector<float> q = infer(set, image, labels, serial());
    expect(same_bits(q, infer(set, image, labels, three_threads())), set.name,
           "mean field has equal bits for one and three threads");
    const std::vector<double> exact =
        exact_mean_field(noisy_unary(labels), labels,
                         {exact_kernel(image.positions), exact_kernel(image.colours)}, {3, 5}, 5);
    double difference = 0;
    for (size_t i = 0; i < q.size(); ++i) difference += std::fabs(q[i] - exact[i]) / q.size();
    // What the lattice's approximation of the Gaussian costs; a wrong kernel costs tens of times
    // as much.
    expect(difference < 0.003, set.name, "mean field is close to the exact one", difference);
  }
}

// With "after" a filter's weights sum to one at each pixel.
void test_constant(const InstructionSet& set, const Image& image) {
  const int64_t labels = 3;
  const auto field = build_field(set, image, labels, Normalization::kAfter, serial());
  std::vector<float> q(labels * Image::kPoints, 0.25f), message(q.size(), NAN);
  field->message(q.data(), serial(), message.data());
  double worst = 0;
  for (const float m : message) worst = std::max(worst, std::fabs(m - 8 * 0.25));
  expect(worst < 1e-5, set.name, "a constant image stays constant", worst);
}

struct Lattice {
  int64_t M = 0;
  std::vector<int32_t> vertices, neighbours;
  std::vector<double> barycentric;
  std::vector<int8_t> rank;
  std::vector<int64_t> segments, contributors;
};

Lattice build_lattice(const InstructionSet& set, const std::vector<double>& features, int64_t dims,
                      Parallel parallel) {
  const int64_t N = Image::kPoints, corners = dims + 1;
  LatticeBuild* raw = nullptr;
  const Error error = set.permutohedral.build(features.data(), true, 1, dims, N, parallel, &raw);
  const std::unique_ptr<LatticeBuild> build(raw);
  expect(!error, set.name, error.message.c_str());
  Lattice lattice;
  lattice.M = build->vertex_count();
  lattice.vertices.resize(N * corners);
  lattice.barycentric.resize(N * corners);
  lattice.rank.resize(N * corners);
  lattice.neighbours.resize(corners * lattice.M * 2);
  lattice.segments.resize(lattice.M + 1);
  lattice.contributors.resize(N * corners);
  build->write({lattice.vertices.data(), lattice.barycentric.data(), lattice.rank.data(),
                lattice.neighbours.data(), lattice.segments.data(), lattice.contributors.data()},
               parallel);
  return lattice;
}

// values (N, 2), a random channel and a channel of ones -> values filtered.
std::vector<double> filter(const InstructionSet& set, const Lattice& lattice, int64_t dims,
                           const std::vector<double>& values, Parallel parallel) {
  const PermutohedralKernels& kernels = set.permutohedral;
  std::vector<double> rows(lattice.M * 2, NAN), filtered(values.size(), NAN);
  kernels.splat(values.data(), lattice.barycentric.data(), lattice.segments.data(),
                lattice.contributors.data(), true, dims, lattice.M, 2, parallel, rows.data());
  kernels.blur(rows.data(), lattice.neighbours.data(), true, dims, lattice.M, 2, false, parallel);
  kernels.slice(rows.data(), lattice.vertices.data(), lattice.barycentric.data(), true, dims,
                Image::kPoints, 2, parallel, filtered.data());
  return filtered;
}

void test_lattice_filter(const InstructionSet& set, const Image& image) {
  const int64_t N = Image::kPoints;
  for (const std::vector<float>& single : {image.positions, image.colours}) {
    const int64_t dims = static_cast<int64_t>(single.size()) / N;
    const std::vector<double> features(single.begin(), single.end());
    Random random;
    std::vector<double> values(2 * N, 1);
    for (int64_t i = 0; i < N; ++i) values[2 * i] = random();
    const Lattice lattice = build_lattice(set, features, dims, serial());
    const std::vector<double> filtered = filter(set, lattice, dims, values, serial());

    const Lattice again = build_lattice(set, features, dims, three_threads());
    expect(again.vertices == lattice.vertices && again.barycentric == lattice.barycentric &&
               again.rank == lattice.rank && again.neighbours == lattice.neighbours &&
               again.segments == lattice.segments && again.contributors == lattice.contributors &&
               filter(set, again, dims, values, three_threads()) == filtered,
           set.name, "lattice has equal bits for one and three threads");

    double difference = 0;
    for (int64_t i = 0; i < N; ++i) {
      double sum = 0, norm = 0;
      for (int64_t j = 0; j < N; ++j) {
        double squared = 0;
        for (int64_t d = 0; d < dims; ++d) {
          squared += std::pow(features[d * N + i] - features[d * N + j], 2);
        }
        sum += std::exp(-squared / 2) * values[2 * j];
        norm += std::exp(-squared / 2);
      }
      difference += std::fabs(filtered[2 * i] / filtered[2 * i + 1] - sum / norm) / N;
    }
    expect(difference < 0.02, set.name, "lattice filter is close to the Gaussian", difference);
  }
}

void test_set(const InstructionSet& set) {
  const Image image;
  test_lattice_filter(set, image);
  test_constant(set, image);
  test_mean_field(set, image);
  test_networks(set);
  std::printf("%s: tested\n", set.name);
}

}  // namespace
}  // namespace fastseg

int main(int argc, char** argv) {
  std::vector<std::string> expected(argv + 1, argv + argc), found;
  for (const auto* set : fastseg::available_instruction_sets()) found.push_back(set->name);
  if (!expected.empty()) {
    fastseg::expect(found == expected, fastseg::instruction_set_names().c_str(),
                    "instruction sets are those named as arguments");
  }
  fastseg::expect(fastseg::instruction_set().name == found.front(), found.front().c_str(),
                  "the first instruction set is in use");
  for (const auto* set : fastseg::available_instruction_sets()) fastseg::test_set(*set);
  return fastseg::failures > 0;
}
