// Gaussian splatting, first step: every Gaussian in every image, one thread each. On the way back a thread has one
// Gaussian and sums over the cameras in their order; harmonics have a kernel of their own, for want of registers.
#include "launch.h"

#include <type_traits>

#include "threedgen/splats.h"

using namespace threedgen;

namespace {

constexpr int kThreads = 128;

// The harmonics of Gaussian i.
template <class T>
__device__ const T (*coefficients_of(const GaussianArrays<T>& arrays, int64_t i))[3] {
    return reinterpret_cast<const T(*)[3]>(arrays.colors + 3 * arrays.num_coefficients * i);
}

// kCoefficients: arrays.num_coefficients, known to the compiler. splats: [B, N, kSplatNumbers]
template <class T, int kCoefficients>
__global__ void project(GaussianArrays<T> arrays, int64_t num_cameras, int64_t height, int64_t width,
                        const T* __restrict__ camera_to_world, const T* __restrict__ focal, T* __restrict__ splats) {
    const int64_t number = thread_in_grid();
    if (number >= num_cameras * arrays.count) return;
    const int64_t b = number / arrays.count, i = number % arrays.count;
    const Pinhole<T> camera(camera_to_world + 16 * b, focal[b], width, height);
    const T *mean = arrays.means + 3 * i, opacity = arrays.opacities[i];
    T colour[3], out[kSplatNumbers];
    if constexpr (kCoefficients == 0)
        for (int c = 0; c < 3; ++c) colour[c] = arrays.colors[3 * i + c];
    else
        colour_seen_from(camera.position, mean, coefficients_of(arrays, i), kCoefficients, colour);
    const GaussianShape<T> shape(arrays.quaternions + 4 * i, arrays.scales + 3 * i);
    project_splat(camera, mean, shape.axes, opacity, reach_squared(opacity), colour, out);
    for (int n = 0; n < kSplatNumbers; ++n) splats[kSplatNumbers * number + n] = out[n];
}

// grad_colors: null where the colours are harmonics.
template <class T>
__global__ void project_backward(GaussianArrays<T> arrays, int64_t num_cameras, int64_t height, int64_t width,
                                 const T* __restrict__ camera_to_world, const T* __restrict__ focal,
                                 const T* __restrict__ grad_splats, T* __restrict__ grad_means,
                                 T* __restrict__ grad_quaternions, T* __restrict__ grad_scales,
                                 T* __restrict__ grad_opacities, T* __restrict__ grad_colors) {
    const int64_t i = thread_in_grid();
    if (i >= arrays.count) return;
    const T *mean = arrays.means + 3 * i, *scales = arrays.scales + 3 * i;
    const GaussianShape<T> shape(arrays.quaternions + 4 * i, scales);
    T g_mean[3] = {0, 0, 0}, g_axes[9] = {0, 0, 0, 0, 0, 0, 0, 0, 0}, g_opacity = 0, g_colour[3] = {0, 0, 0};
    TG_ROLLED
    for (int64_t b = 0; b < num_cameras; ++b) {
        const Pinhole<T> camera(camera_to_world + 16 * b, focal[b], width, height);
        const T* const arriving = grad_splats + kSplatNumbers * (b * arrays.count + i);
        Projection<T>(camera, mean, shape.axes).backward(camera, shape.axes, arriving, g_mean, g_axes);
        g_opacity += arriving[kOpacity];
        for (int c = 0; c < 3; ++c) g_colour[c] += arriving[kRed + c];
    }
    shape.backward(scales, g_axes, grad_quaternions + 4 * i, grad_scales + 3 * i);
    for (int axis = 0; axis < 3; ++axis) grad_means[3 * i + axis] = g_mean[axis];
    grad_opacities[i] = g_opacity;
    if (grad_colors)
        for (int c = 0; c < 3; ++c) grad_colors[3 * i + c] = g_colour[c];
}

// Adds to grad_means what the directions do to the colours.
template <class T, int kCoefficients>
__global__ void harmonics_backward(GaussianArrays<T> arrays, int64_t num_cameras, const T* __restrict__ camera_to_world,
                                   const T* __restrict__ grad_splats, T* __restrict__ grad_means, T* grad_colors) {
    const int64_t i = thread_in_grid();
    if (i >= arrays.count) return;
    const T* const mean = arrays.means + 3 * i;
    T* const g_colors = grad_colors + 3 * kCoefficients * i;
    T g_mean[3] = {0, 0, 0};
    for (int k = 0; k < 3 * kCoefficients; ++k) g_colors[k] = 0;
    TG_ROLLED
    for (int64_t b = 0; b < num_cameras; ++b) {
        const T* const pose = camera_to_world + 16 * b;
        const T position[3] = {pose[3], pose[7], pose[11]};
        const T* const arriving = grad_splats + kSplatNumbers * (b * arrays.count + i);
        colour_backward(position, mean, coefficients_of(arrays, i), kCoefficients, arriving + kRed, g_mean,
                        [&](int64_t k, int c, T g) { g_colors[3 * k + c] += g; });
    }
    for (int axis = 0; axis < 3; ++axis) grad_means[3 * i + axis] += g_mean[axis];
}

// Calls run(std::integral_constant<int, K>) with the number of coefficients.
template <class Run>
int64_t with_coefficients(int64_t num_coefficients, Run&& run) {
    switch (num_coefficients) {
        case 0: return run(std::integral_constant<int, 0>());
        case 1: return run(std::integral_constant<int, 1>());
        case 4: return run(std::integral_constant<int, 4>());
        case 9: return run(std::integral_constant<int, 9>());
        default: return run(std::integral_constant<int, 16>());
    }
}

}  // namespace

#define TG_SPLAT_PROJECT(suffix, T)                                                                                    \
    TG_API int64_t tg_splat_project_##suffix(                                                                          \
        int64_t num_gaussians, int64_t num_cameras, int64_t height, int64_t width, const T* means,                     \
        const T* quaternions, const T* scales, const T* opacities, const T* colors, int64_t num_coefficients,          \
        const T* camera_to_world, const T* focal, T* splats, void* stream) {                                           \
        const GaussianArrays<T> arrays{num_gaussians, means,  quaternions,     scales,                                 \
                                       opacities,     colors, num_coefficients};                                       \
        return with_coefficients(num_coefficients, [&](auto known) {                                                   \
            return launch(project<T, decltype(known)::value>, blocks_for(num_gaussians * num_cameras, kThreads),       \
                          kThreads, 0, stream, arrays, num_cameras, height, width, camera_to_world, focal, splats);    \
        });                                                                                                            \
    }                                                                                                                  \
    TG_API int64_t tg_splat_project_backward_##suffix(                                                                 \
        int64_t num_gaussians, int64_t num_cameras, int64_t height, int64_t width, const T* means,                     \
        const T* quaternions, const T* scales, const T* colors, int64_t num_coefficients, const T* camera_to_world,    \
        const T* focal, const T* grad_splats, T* grad_means, T* grad_quaternions, T* grad_scales, T* grad_opacities,   \
        T* grad_colors, void* stream) {                                                                                \
        const GaussianArrays<T> arrays{num_gaussians, means,  quaternions,     scales,                                 \
                                       nullptr,       colors, num_coefficients};                                       \
        const int64_t blocks = blocks_for(num_gaussians, kThreads);                                                    \
        const int64_t error =                                                                                          \
            launch(project_backward<T>, blocks, kThreads, 0, stream, arrays, num_cameras, height, width,               \
                   camera_to_world, focal, grad_splats, grad_means, grad_quaternions, grad_scales, grad_opacities,     \
                   num_coefficients == 0 ? grad_colors : nullptr);                                                     \
        if (error || num_coefficients == 0) return error;                                                              \
        return with_coefficients(num_coefficients, [&](auto known) {                                                   \
            return launch(harmonics_backward<T, decltype(known)::value>, blocks, kThreads, 0, stream, arrays,          \
                          num_cameras, camera_to_world, grad_splats, grad_means, grad_colors);                         \
        });                                                                                                            \
    }
TG_SPLAT_PROJECT(f32, float)
TG_SPLAT_PROJECT(f64, double)
