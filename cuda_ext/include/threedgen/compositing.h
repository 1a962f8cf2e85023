// Emission and absorption along a ray (Max 1995): w_i = T_i (1 - exp(-density_i dt_i)), T_i = prod_{j<i} exp(-density_j dt_j).
#pragma once

#include "activations.h"

namespace threedgen {

// Light that passes is counted until nothing of it is left; below this it is 0 (and never a slow denormal number).
constexpr float kDark = 1e-30f;

// Front to back over one ray.
template <class T>
struct RaySum {
    T transmittance = 1;
    T rgb[3] = {0, 0, 0}, opacity = 0, depth = 0;

    // Adds a sample of the given opacity in its interval; returns its weight.
    TG_INLINE T add(T alpha, const T* colour, T t_mid) {
        const T weight = attenuate(alpha);
        add_weighted(weight, colour, t_mid);
        return weight;
    }
    // The same in two steps, for many samples at a time.
    TG_INLINE T attenuate(T alpha) {
        const T weight = transmittance * alpha;
        transmittance *= T(1) - alpha;
        if (transmittance < T(kDark)) transmittance = 0;
        return weight;
    }
    TG_INLINE void add_weighted(T weight, const T* colour, T t_mid) {
        for (int c = 0; c < 3; ++c) rgb[c] += weight * colour[c];
        opacity += weight;
        depth += weight * t_mid;
    }
};

// Gradients that arrive at a ray.
template <class T>
struct RayGradient {
    T rgb[3], opacity, depth;

    // dL/dw of a sample, `own` being what arrives at the weight itself
    TG_INLINE T of_weight(const T* colour, T t_mid, T own) const {
        return rgb[0] * colour[0] + rgb[1] * colour[1] + rgb[2] * colour[2] + opacity + depth * t_mid + own;
    }
};

// dL/d(density_i dt_i) = T_{i+1} dL/dw_i - sum_{j>i} w_j dL/dw_j. Exact for losses on single samples too, for which the
// shortcut (T_i - what is behind) * gradient is wrong. Go back to front: `behind` carries the sum.
template <class T>
TG_INLINE T optical_depth_gradient(T transmittance_after, T weight, T weight_gradient, T& behind) {
    const T gradient = transmittance_after * weight_gradient - behind;
    behind += weight * weight_gradient;
    return gradient;
}

}  // namespace threedgen
