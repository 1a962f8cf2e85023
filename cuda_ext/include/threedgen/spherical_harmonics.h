// Real spherical harmonics up to degree 3, as polynomials of a direction (Sloan 2013, "Efficient spherical harmonic
// evaluation"): degree after degree, m = -l .. l, with the Condon-Shortley phase.
#pragma once

#include "lane.h"

namespace threedgen {

TG_INLINE constexpr int sh_degree(int64_t num_coefficients) {
    return num_coefficients >= 16 ? 3 : num_coefficients >= 9 ? 2 : num_coefficients >= 4 ? 1 : 0;
}

// sqrt of 1, 3; 15, 5/4, 15/4; 105, 7/4, 21/8, 105/4, 35/8; all over 4 pi
constexpr double kSh0 = 0.28209479177387814, kSh1 = 0.4886025119029199;
constexpr double kSh2xy = 1.0925484305920792, kSh2m0 = 0.31539156525252005, kSh2m2 = 0.5462742152960396;
constexpr double kSh3xyz = 2.890611442640554, kSh3m0 = 0.3731763325901154, kSh3m1 = 0.4570457994644658,
                 kSh3m2 = 1.445305721320277, kSh3m3 = 0.5900435899266435;

// d: unit length.
template <class V>
TG_INLINE void sh_basis(int degree, const V* d, V* basis) {
    using S = typename Lane<V>::Scalar;
    const V x = d[0], y = d[1], z = d[2];
    basis[0] = broadcast<V>(S(kSh0));
    if (degree < 1) return;
    basis[1] = -S(kSh1) * y;
    basis[2] = S(kSh1) * z;
    basis[3] = -S(kSh1) * x;
    if (degree < 2) return;
    const V xx = x * x, yy = y * y, zz = z * z;
    basis[4] = S(kSh2xy) * x * y;
    basis[5] = -S(kSh2xy) * y * z;
    basis[6] = S(kSh2m0) * (zz + zz - xx - yy);
    basis[7] = -S(kSh2xy) * x * z;
    basis[8] = S(kSh2m2) * (xx - yy);
    if (degree < 3) return;
    const V four_zz = S(4) * zz - xx - yy;
    basis[9] = -S(kSh3m3) * y * (S(3) * xx - yy);
    basis[10] = S(kSh3xyz) * x * y * z;
    basis[11] = -S(kSh3m1) * y * four_zz;
    basis[12] = S(kSh3m0) * z * (zz + zz - S(3) * (xx + yy));
    basis[13] = -S(kSh3m1) * x * four_zz;
    basis[14] = S(kSh3m2) * z * (xx - yy);
    basis[15] = -S(kSh3m3) * x * (xx - S(3) * yy);
}

// g[k] = dL/dbasis[k] -> dL/dd, of the polynomials above (their part along d falls away when d is normalised).
template <class V>
TG_INLINE void sh_basis_backward(int degree, const V* d, const V* g, V* grad) {
    using S = typename Lane<V>::Scalar;
    const V x = d[0], y = d[1], z = d[2];
    for (int i = 0; i < 3; ++i) grad[i] = broadcast<V>(0);
    if (degree < 1) return;
    grad[0] = -S(kSh1) * g[3];
    grad[1] = -S(kSh1) * g[1];
    grad[2] = S(kSh1) * g[2];
    if (degree < 2) return;
    const V a4 = S(kSh2xy) * g[4], a5 = S(kSh2xy) * g[5], a6 = S(2 * kSh2m0) * g[6], a7 = S(kSh2xy) * g[7],
            a8 = S(2 * kSh2m2) * g[8];
    grad[0] = grad[0] + a4 * y - a6 * x - a7 * z + a8 * x;
    grad[1] = grad[1] + a4 * x - a5 * z - a6 * y - a8 * y;
    grad[2] = grad[2] - a5 * y + (a6 + a6) * z - a7 * x;
    if (degree < 3) return;
    const V xx = x * x, yy = y * y, zz = z * z, xy = x * y, xz = x * z, yz = y * z;
    const V a9 = S(3 * kSh3m3) * g[9], a10 = S(kSh3xyz) * g[10], a11 = S(kSh3m1) * g[11], a12 = S(kSh3m0) * g[12],
            a13 = S(kSh3m1) * g[13], a14 = S(kSh3m2) * g[14], a15 = S(3 * kSh3m3) * g[15];
    grad[0] = grad[0] - S(2) * a9 * xy + a10 * yz + S(2) * a11 * xy - S(6) * a12 * xz -
              a13 * (S(4) * zz - S(3) * xx - yy) + S(2) * a14 * xz - a15 * (xx - yy);
    grad[1] = grad[1] - a9 * (xx - yy) + a10 * xz - a11 * (S(4) * zz - xx - S(3) * yy) - S(6) * a12 * yz +
              S(2) * a13 * xy - S(2) * a14 * yz + S(2) * a15 * xy;
    grad[2] = grad[2] + a10 * xy - S(8) * a11 * yz + a12 * (S(6) * zz - S(3) * xx - S(3) * yy) - S(8) * a13 * xz +
              a14 * (xx - yy);
}

}  // namespace threedgen
