#pragma once

#include "../common/host_device.h"

// The arithmetic that places a point in the permutohedral lattice (Adams, Baek and Davis 2010,
// section 3), written once for scalars and for vectors of points.
namespace fastseg {

// Scale of feature i of D: with it the lattice's blur has standard deviation one.
FASTSEG_HOST_DEVICE inline double feature_scale(int i, int dims) {
  return __builtin_sqrt(2.0 / 3.0) * (dims + 1) / __builtin_sqrt((i + 1.0) * (i + 2.0));
}

// Lifts a feature vector, already scaled, into the hyperplane of D + 1 coordinates that sum to
// zero. Scalar is the element of Real, which may be a vector.
template <typename Scalar, typename Real, int kDims>
FASTSEG_HOST_DEVICE inline void elevate(const Real* feature, Real* elevated) {
  Real sum = feature[0] - feature[0];
  for (int j = kDims; j > 0; --j) {
    elevated[j] = sum - feature[j - 1] * static_cast<Scalar>(j);
    sum = sum + feature[j - 1];
  }
  elevated[0] = sum;
}

// The simplex around an elevated point. A lattice vertex of remainder k has the coordinates
// (D + 1) * cell_i + k; the simplex has one vertex of each remainder, and the one of remainder k
// has cell_i one lower wherever rank_i > D - k.
//
// weight[k] is the barycentric weight of the vertex of remainder k. Ties of equal differences are
// broken towards the lower coordinate.
template <typename Scalar, typename Real, typename Integer, int kDims, typename Round,
          typename ToInteger, typename ToReal>
FASTSEG_HOST_DEVICE inline void enclosing_simplex(const Real* elevated, Integer* cell,
                                                  Integer* rank, Real* weight, Round round,
                                                  ToInteger to_integer, ToReal to_real) {
  constexpr int kVertices = kDims + 1;
  constexpr Scalar kSize = kVertices, kInverse = 1 / kSize;
  const Integer zero = {}, one = zero + 1;
  Real delta[kVertices];
  Integer sum = zero;
  for (int i = 0; i < kVertices; ++i) {
    const Real nearest = round(elevated[i] * kInverse);
    cell[i] = to_integer(nearest);
    sum = sum + cell[i];
    delta[i] = elevated[i] - nearest * kSize;
    rank[i] = zero;
  }
  for (int i = 0; i < kDims; ++i) {
    for (int j = i + 1; j < kVertices; ++j) {
      const Integer lower = delta[i] < delta[j] ? one : zero;
      rank[i] = rank[i] + lower;
      rank[j] = rank[j] + (one - lower);
    }
  }
  // The rounded point may lie off the hyperplane by `sum` steps: the coordinates that were
  // rounded furthest take one step back.
  Real sorted[kVertices];
  for (int i = 0; i < kVertices; ++i) {
    rank[i] = rank[i] + sum;
    const Integer step = (rank[i] < zero ? one : zero) - (rank[i] > zero + kDims ? one : zero);
    cell[i] = cell[i] + step;
    rank[i] = rank[i] + step * kVertices;
    sorted[i] = delta[i] * kInverse - to_real(step);
  }
  for (int pass = 0; pass < kVertices; ++pass) {
    for (int i = pass & 1; i + 1 < kVertices; i += 2) {
      const Real high = sorted[i] > sorted[i + 1] ? sorted[i] : sorted[i + 1];
      const Real low = sorted[i] > sorted[i + 1] ? sorted[i + 1] : sorted[i];
      sorted[i] = high;
      sorted[i + 1] = low;
    }
  }
  weight[0] = (sorted[kDims] - sorted[0]) + Scalar(1);
  for (int k = 1; k < kVertices; ++k) weight[k] = sorted[kDims - k] - sorted[kVertices - k];
}

}  // namespace fastseg
