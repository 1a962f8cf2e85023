// 3D Gaussians as a radiance field: what they add to a position's density and light. The definition stands in words in
// threedgen/ops/plain/gaussian_field.py.
#pragma once

#include "lane.h"

namespace threedgen {

// What a field knows of a Gaussian, a row of a table.
enum FieldGaussian {
    kMean,           // x, y, z
    kPrecision = 3,  // xx, xy, xz, yy, yz, zz of the inverse covariance
    kEmission = 9,   // density in the middle, then that times red, green, blue
    kFieldGaussianNumbers = 13
};

// Squared distance of a position from a Gaussian's mean, in its standard deviations.
template <class V, class S>
TG_INLINE V squared_deviations(const S* gaussian, const V* position) {
    const V x = position[0] - gaussian[kMean], y = position[1] - gaussian[kMean + 1],
            z = position[2] - gaussian[kMean + 2];
    const S* const p = gaussian + kPrecision;
    return x * (p[0] * x + S(2) * (p[1] * y + p[2] * z)) + y * (p[3] * y + S(2) * p[4] * z) + p[5] * z * z;
}

// sums[4] += what a Gaussian emits at that distance; nothing beyond the reach.
template <class V, class S>
TG_INLINE void add_emission(const S* gaussian, V squared, S squared_reach, V* sums) {
    const V share = squared < squared_reach ? exp_of(S(-0.5) * larger(squared, broadcast<V>(S(0)))) : broadcast<V>(S(0));
    for (int c = 0; c < 4; ++c) sums[c] = sums[c] + share * gaussian[kEmission + c];
}

}  // namespace threedgen
