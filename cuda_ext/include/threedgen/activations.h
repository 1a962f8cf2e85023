// What turns the network's four numbers into density and colour, and a density into an opacity.
#pragma once

#include "lane.h"

namespace threedgen {

template <class V>
TG_INLINE V sigmoid(V x) {
    return broadcast<V>(1) / (broadcast<V>(1) + exp_of(-x));
}

// log(1 + u) for 0 <= u <= 1, as 2 artanh(u / (2 + u)); the first term left out is below 2e-9.
template <class V>
TG_INLINE V log1p_of_unit(V u) {
    const V z = u / (u + broadcast<V>(2)), q = z * z;
    V series = broadcast<V>(1.0f / 17);
    series = series * q + broadcast<V>(1.0f / 15);
    series = series * q + broadcast<V>(1.0f / 13);
    series = series * q + broadcast<V>(1.0f / 11);
    series = series * q + broadcast<V>(1.0f / 9);
    series = series * q + broadcast<V>(1.0f / 7);
    series = series * q + broadcast<V>(1.0f / 5);
    series = series * q + broadcast<V>(1.0f / 3);
    series = series * q + broadcast<V>(1.0f);
    return (z + z) * series;
}
TG_INLINE double log1p_of_unit(double u) { return log1p(u); }
#if defined(__CUDACC__)
TG_INLINE float log1p_of_unit(float u) { return log1pf(u); }
#endif

// log(1 + e^x) without overflow; its derivative is sigmoid(x).
template <class V>
TG_INLINE V softplus(V x) {
    const V zero = broadcast<V>(0);
    return larger(x, zero) + log1p_of_unit(exp_of(smaller(x, -x)));
}

// 1 - e^-x for x >= 0 with full relative precision near 0: the opacity of a piece of optical depth x.
template <class V>
TG_INLINE V opacity_of(V x) {
    const V one = broadcast<V>(1);
    // Taylor's first six terms; below a quarter the next one is under 5e-8 of the value
    V series = one - x * broadcast<V>(1.0f / 6);
    series = one - x * series * broadcast<V>(1.0f / 5);
    series = one - x * series * broadcast<V>(1.0f / 4);
    series = one - x * series * broadcast<V>(1.0f / 3);
    series = one - x * series * broadcast<V>(1.0f / 2);
    return x < broadcast<V>(0.25f) ? x * series : one - exp_of(-x);
}
TG_INLINE double opacity_of(double x) { return -expm1(-x); }

// What stands beside the logit of a density at `distance` from the origin (Magic3D, supplement).
template <class V>
TG_INLINE V blob_at(V distance, V blob_density, V blob_radius) {
    return blob_density * (broadcast<V>(1) - distance / blob_radius);
}

// Gradients of the network's numbers from those of a density and of a channel. The derivative of softplus(x) is
// sigmoid(x) = 1 - exp(-softplus(x)): the outputs say all that is needed.
template <class V>
TG_INLINE V grad_of_logit(V density, V grad, V density_scale) {
    return grad * density_scale * opacity_of(density / density_scale);
}
template <class V>
TG_INLINE V grad_of_channel(V channel, V grad) {
    return grad * channel * (broadcast<V>(1) - channel);
}

}  // namespace threedgen
