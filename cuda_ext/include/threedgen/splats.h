// 3D Gaussians seen by pinhole cameras: Kerbl et al. 2023, "3D Gaussian Splatting", with the projection of Zwicker et
// al. 2001, "EWA Splatting". The rules and conventions stand in words in threedgen/ops/splats.py.
#pragma once

#include "lane.h"
#include "spherical_harmonics.h"

namespace threedgen {

constexpr double kNearPlane = 0.01;         // world units; what is nearer is not drawn
constexpr double kDilation = 0.3;           // square pixels, added to the variance of every footprint
constexpr double kFrustumMargin = 1.3;      // the projection is linearised no further out than this, in half images
constexpr double kMinAlpha = 1.0 / 255;     // below it a splat does not touch a pixel
constexpr double kMaxAlpha = 0.99;
constexpr double kMinTransmittance = 1e-4;  // the first splat that would leave less is left out, and all behind it
constexpr int kMaxCoefficients = 16;        // of spherical harmonics

// What a camera makes of a Gaussian. An offset (dx, dy) from its centre is sqrt((xx dx + xy dy)^2 + (yy dy)^2) standard
// deviations away; beyond its reach its alpha is below kMinAlpha.
enum SplatNumber {
    kX, kY,                // centre, pixels from the image's upper left corner
    kXX, kXY, kYY,         // the factor of the inverse covariance
    kOpacity,
    kRed, kGreen, kBlue,
    kDepth,                // along the camera's axis, world units
    kReachX, kReachY,      // half the box around what can be seen of it, pixels; negative: nothing can
    kSplatNumbers
};

TG_INLINE float log_of(float x) { return logf(x); }
TG_INLINE double log_of(double x) { return log(x); }
#if !defined(__CUDACC__)
TG_INLINE f32x8 log_of(f32x8 x) {
    for (int i = 0; i < 8; ++i) x[i] = logf(x[i]);
    return x;
}
#endif

template <class V>
TG_INLINE V dot3(const V* a, const V* b) {
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

// All Gaussians, as arrays. num_coefficients: of the spherical harmonics; 0 if `colors` are colours.
template <class T>
struct GaussianArrays {
    int64_t count;
    const T *means, *quaternions, *scales, *opacities, *colors;
    int64_t num_coefficients;
};

// ---- A Gaussian in the world --------------------------------------------------------------------------------------

// Its covariance is A A^T with A = rotation * diag(scales).
template <class V>
struct GaussianShape {
    V unit[4], inverse_norm;  // the quaternion (w, x, y, z) divided by its length
    V rotation[9];            // row after row
    V axes[9];                // A

    TG_INLINE GaussianShape(const V* quaternion, const V* scales) {
        using S = typename Lane<V>::Scalar;
        V square = quaternion[0] * quaternion[0];
        for (int i = 1; i < 4; ++i) square = square + quaternion[i] * quaternion[i];
        inverse_norm = broadcast<V>(1) / sqrt_of(larger(square, broadcast<V>(S(1e-24))));
        for (int i = 0; i < 4; ++i) unit[i] = quaternion[i] * inverse_norm;
        const V w = unit[0], x = unit[1], y = unit[2], z = unit[3];
        const V one = broadcast<V>(1), two = broadcast<V>(2);
        rotation[0] = one - two * (y * y + z * z);
        rotation[1] = two * (x * y - w * z);
        rotation[2] = two * (x * z + w * y);
        rotation[3] = two * (x * y + w * z);
        rotation[4] = one - two * (x * x + z * z);
        rotation[5] = two * (y * z - w * x);
        rotation[6] = two * (x * z - w * y);
        rotation[7] = two * (y * z + w * x);
        rotation[8] = one - two * (x * x + y * y);
        for (int i = 0; i < 9; ++i) axes[i] = rotation[i] * scales[i % 3];
    }

    // dL/dA -> dL/dquaternion, dL/dscales
    TG_INLINE void backward(const V* scales, const V* grad_axes, V* grad_quaternion, V* grad_scales) const {
        V g[9];  // dL/drotation
        for (int i = 0; i < 9; ++i) g[i] = grad_axes[i] * scales[i % 3];
        for (int j = 0; j < 3; ++j)
            grad_scales[j] = grad_axes[j] * rotation[j] + grad_axes[3 + j] * rotation[3 + j] +
                             grad_axes[6 + j] * rotation[6 + j];
        const V w = unit[0], x = unit[1], y = unit[2], z = unit[3], two = broadcast<V>(2);
        const V g_unit[4] = {
            two * (x * (g[7] - g[5]) + y * (g[2] - g[6]) + z * (g[3] - g[1])),
            two * (w * (g[7] - g[5]) + y * (g[1] + g[3]) + z * (g[2] + g[6]) - two * x * (g[4] + g[8])),
            two * (w * (g[2] - g[6]) + x * (g[1] + g[3]) + z * (g[5] + g[7]) - two * y * (g[0] + g[8])),
            two * (w * (g[3] - g[1]) + x * (g[2] + g[6]) + y * (g[5] + g[7]) - two * z * (g[0] + g[4])),
        };
        const V along = w * g_unit[0] + x * g_unit[1] + y * g_unit[2] + z * g_unit[3];
        for (int i = 0; i < 4; ++i) grad_quaternion[i] = (g_unit[i] - along * unit[i]) * inverse_norm;
    }
};

// ---- A Gaussian in an image ---------------------------------------------------------------------------------------

template <class S>
struct Pinhole {
    S axis[3][3];  // right, down, forward in the world
    S position[3];
    S focal, width, height;  // pixels

    // camera_to_world: [4, 4] with columns right, up, back, position.
    TG_INLINE Pinhole(const S* camera_to_world, S focal, int64_t width, int64_t height)
        : focal(focal), width(S(width)), height(S(height)) {
        for (int i = 0; i < 3; ++i) {
            axis[0][i] = camera_to_world[4 * i];
            axis[1][i] = -camera_to_world[4 * i + 1];
            axis[2][i] = -camera_to_world[4 * i + 2];
            position[i] = camera_to_world[4 * i + 3];
        }
    }
};

template <class V>
struct Projection {
    using S = typename Lane<V>::Scalar;

    V at[3];                        // the mean in the camera's axes; where it is nearer than the near plane z is 1
    V inverse_z, x, y;              // x / z, y / z
    V u, v;                         // the same, kept within the margin
    V to_pixels[2][3];              // d pixel / d world, at (u, v)
    V half_axes[2][3];              // to_pixels * A: the footprint's covariance is its product with its transpose
    V var_x, cov, var_y, det;       // of the dilated footprint
    decltype(V() < V()) in_front;   // of the near plane

    TG_INLINE Projection(const Pinhole<S>& camera, const V* mean, const V* axes) {
        V offset[3];
        for (int i = 0; i < 3; ++i) offset[i] = mean[i] - camera.position[i];
        for (int i = 0; i < 3; ++i)
            at[i] = offset[0] * camera.axis[i][0] + offset[1] * camera.axis[i][1] + offset[2] * camera.axis[i][2];
        in_front = at[2] >= broadcast<V>(S(kNearPlane));
        at[2] = in_front ? at[2] : broadcast<V>(1);
        inverse_z = broadcast<V>(1) / at[2];
        x = at[0] * inverse_z;
        y = at[1] * inverse_z;
        const V u_limit = broadcast<V>(limit(camera.width, camera));
        const V v_limit = broadcast<V>(limit(camera.height, camera));
        u = clamp(x, -u_limit, u_limit);
        v = clamp(y, -v_limit, v_limit);
        const V scale = inverse_z * camera.focal;
        for (int i = 0; i < 3; ++i) {
            to_pixels[0][i] = scale * (camera.axis[0][i] - u * camera.axis[2][i]);
            to_pixels[1][i] = scale * (camera.axis[1][i] - v * camera.axis[2][i]);
        }
        for (int k = 0; k < 2; ++k)
            for (int j = 0; j < 3; ++j)
                half_axes[k][j] =
                    to_pixels[k][0] * axes[j] + to_pixels[k][1] * axes[3 + j] + to_pixels[k][2] * axes[6 + j];
        const V *a = half_axes[0], *b = half_axes[1];
        const S dilation = S(kDilation);
        const V aa = dot3(a, a), bb = dot3(b, b);
        cov = dot3(a, b);
        var_x = aa + dilation;
        var_y = bb + dilation;
        // aa * bb - cov^2 is the square of a x b (Lagrange's identity), which cannot cancel for a needle
        const V cross[3] = {a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]};
        det = dot3(cross, cross) + dilation * (aa + bb) + dilation * dilation;
    }

    TG_INLINE V centre_x(const Pinhole<S>& camera) const { return x * camera.focal + S(0.5) * camera.width; }
    TG_INLINE V centre_y(const Pinhole<S>& camera) const { return y * camera.focal + S(0.5) * camera.height; }

    // The factor of the inverse covariance: F^T F with F = [[xx, xy], [0, yy]].
    TG_INLINE V xx() const { return sqrt_of(var_y / det); }
    TG_INLINE V xy() const { return -cov / sqrt_of(var_y * det); }
    TG_INLINE V yy() const { return broadcast<V>(1) / sqrt_of(var_y); }

    // From the gradients of centre, factor and depth: adds to dL/dmean and dL/dA.
    TG_INLINE void backward(const Pinhole<S>& camera, const V* axes, const V* grad, V* grad_mean, V* grad_axes) const {
        const V zero = broadcast<V>(0), half = broadcast<V>(S(0.5));
        const V f_xx = xx(), f_xy = xy(), f_yy = yy();
        const V inverse_var_y = f_yy * f_yy;
        const V g_det = -half * (grad[kXX] * f_xx + grad[kXY] * f_xy) / det;
        const V g_var_x = g_det * var_y;
        const V g_var_y =
            half * (grad[kXX] * f_xx - grad[kXY] * f_xy - grad[kYY] * f_yy) * inverse_var_y + g_det * var_x;
        const V g_cov = -grad[kXY] * f_xx * inverse_var_y - (g_det + g_det) * cov;

        V g_half[2][3], g_to_pixels[2][3];
        for (int j = 0; j < 3; ++j) {
            g_half[0][j] = (g_var_x + g_var_x) * half_axes[0][j] + g_cov * half_axes[1][j];
            g_half[1][j] = (g_var_y + g_var_y) * half_axes[1][j] + g_cov * half_axes[0][j];
        }
        for (int k = 0; k < 2; ++k)
            for (int i = 0; i < 3; ++i) g_to_pixels[k][i] = dot3(g_half[k], axes + 3 * i);
        for (int i = 0; i < 3; ++i)
            for (int j = 0; j < 3; ++j) {
                const V g = to_pixels[0][i] * g_half[0][j] + to_pixels[1][i] * g_half[1][j];
                grad_axes[3 * i + j] = grad_axes[3 * i + j] + (in_front ? g : zero);
            }

        V forward[3];
        for (int i = 0; i < 3; ++i) forward[i] = broadcast<V>(camera.axis[2][i]);
        const V scale = inverse_z * camera.focal;
        const V g_u = -scale * dot3(g_to_pixels[0], forward), g_v = -scale * dot3(g_to_pixels[1], forward);
        const V g_x = grad[kX] * camera.focal + (u == x ? g_u : zero);
        const V g_y = grad[kY] * camera.focal + (v == y ? g_v : zero);
        const V g_inverse_z = g_x * at[0] + g_y * at[1] +
                              at[2] * (dot3(g_to_pixels[0], to_pixels[0]) + dot3(g_to_pixels[1], to_pixels[1]));
        const V g_at[3] = {g_x * inverse_z, g_y * inverse_z, grad[kDepth] - g_inverse_z * inverse_z * inverse_z};
        for (int i = 0; i < 3; ++i) {
            const V g = g_at[0] * camera.axis[0][i] + g_at[1] * camera.axis[1][i] + g_at[2] * camera.axis[2][i];
            grad_mean[i] = grad_mean[i] + (in_front ? g : zero);
        }
    }

private:
    TG_INLINE static S limit(S pixels, const Pinhole<S>& camera) {
        return S(kFrustumMargin) * S(0.5) * pixels / camera.focal;
    }
};

// The square of a splat's reach in standard deviations: where opacity * exp(-r / 2) falls to kMinAlpha. A thousandth
// more, so that no rounding of alpha can bring a pixel outside of it to life. An opacity below kMinAlpha reaches nothing;
// what is returned for it has no meaning.
template <class V>
TG_INLINE V reach_squared(V opacity) {
    using S = typename Lane<V>::Scalar;
    const V opaque = opacity >= broadcast<V>(S(kMinAlpha)) ? opacity : broadcast<V>(1);
    return log_of(opaque * S(1 / kMinAlpha)) * S(2.002) + S(0.001);
}

// What a camera makes of a Gaussian with this mean, A, opacity and colour. reach: `reach_squared` of the opacity.
template <class V>
TG_INLINE void project_splat(const Pinhole<typename Lane<V>::Scalar>& camera, const V* mean, const V* axes, V opacity,
                             V reach, const V* colour, V* out) {
    using S = typename Lane<V>::Scalar;
    const V zero = broadcast<V>(0);
    const Projection<V> seen(camera, mean, axes);
    out[kX] = seen.centre_x(camera);
    out[kY] = seen.centre_y(camera);
    out[kXX] = seen.xx();
    out[kXY] = seen.xy();
    out[kYY] = seen.yy();
    out[kOpacity] = opacity;
    for (int c = 0; c < 3; ++c) out[kRed + c] = colour[c];
    out[kDepth] = seen.at[2];
    const V reach_x = sqrt_of(reach * seen.var_x), reach_y = sqrt_of(reach * seen.var_y);
    const auto visible = (opacity >= broadcast<V>(S(kMinAlpha))) & seen.in_front & (out[kX] + reach_x > zero) &
                         (out[kY] + reach_y > zero) & (out[kX] - reach_x < broadcast<V>(camera.width)) &
                         (out[kY] - reach_y < broadcast<V>(camera.height));
    for (int i = 0; i < kReachX; ++i) out[i] = visible ? out[i] : zero;
    out[kReachX] = visible ? reach_x : broadcast<V>(-1);
    out[kReachY] = visible ? reach_y : broadcast<V>(-1);
}

// ---- Colour -------------------------------------------------------------------------------------------------------

// The direction from a camera to a Gaussian, and back from dL/d(unit) to dL/dmean.
template <class V>
struct ViewDirection {
    V unit[3], inverse_length;

    TG_INLINE ViewDirection(const typename Lane<V>::Scalar* position, const V* mean) {
        using S = typename Lane<V>::Scalar;
        for (int i = 0; i < 3; ++i) unit[i] = mean[i] - position[i];
        inverse_length = broadcast<V>(1) / sqrt_of(larger(dot3(unit, unit), broadcast<V>(S(1e-24))));
        for (int i = 0; i < 3; ++i) unit[i] = unit[i] * inverse_length;
    }

    TG_INLINE void backward(const V* grad_unit, V* grad_mean) const {
        const V along = dot3(grad_unit, unit);
        for (int i = 0; i < 3; ++i) grad_mean[i] = grad_mean[i] + (grad_unit[i] - along * unit[i]) * inverse_length;
    }
};

// max(0, 1/2 + sum of coefficients times basis)
template <class V>
TG_INLINE void evaluate_sh(const V (*coefficients)[3], const V* basis, int64_t num_coefficients, V* colour) {
    for (int c = 0; c < 3; ++c) {
        V total = broadcast<V>(typename Lane<V>::Scalar(0.5));
        for (int64_t k = 0; k < num_coefficients; ++k) total = total + basis[k] * coefficients[k][c];
        colour[c] = larger(total, broadcast<V>(0));
    }
}

// The colour that spherical harmonics give a Gaussian as seen from `position`.
template <class V>
TG_INLINE void colour_seen_from(const typename Lane<V>::Scalar* position, const V* mean, const V (*coefficients)[3],
                                int64_t num_coefficients, V* colour) {
    V basis[kMaxCoefficients];
    sh_basis(sh_degree(num_coefficients), ViewDirection<V>(position, mean).unit, basis);
    evaluate_sh(coefficients, basis, num_coefficients, colour);
}

// From dL/dcolour: calls add(k, c, dL/dcoefficient) and adds to dL/dmean.
template <class V, class Add>
TG_INLINE void colour_backward(const typename Lane<V>::Scalar* position, const V* mean, const V (*coefficients)[3],
                               int64_t num_coefficients, const V* grad_colour, V* grad_mean, Add&& add) {
    const V zero = broadcast<V>(0);
    const int degree = sh_degree(num_coefficients);
    const ViewDirection<V> direction(position, mean);
    V basis[kMaxCoefficients], colour[3], g_colour[3], g_basis[kMaxCoefficients], g_direction[3];
    sh_basis(degree, direction.unit, basis);
    evaluate_sh(coefficients, basis, num_coefficients, colour);
    for (int c = 0; c < 3; ++c) g_colour[c] = colour[c] > zero ? grad_colour[c] : zero;
    for (int64_t k = 0; k < num_coefficients; ++k) {
        g_basis[k] = dot3(coefficients[k], g_colour);
        for (int c = 0; c < 3; ++c) add(k, c, basis[k] * g_colour[c]);
    }
    sh_basis_backward(degree, direction.unit, g_basis, g_direction);
    direction.backward(g_direction, grad_mean);
}

}  // namespace threedgen
