// Gaussian splatting, first step: every Gaussian in every image, and the way back.
#include "splats.h"

#include <vector>

#include "api.h"
#include "parallel.h"
#include "vectors.h"

using namespace threedgen;

namespace {

constexpr int64_t kGaussiansPerPiece = 256;

// As many Gaussians as there are lanes; at the end of the array the last one fills the lanes that are left over.
template <class V>
struct Group {
    using S = typename Lane<V>::Scalar;
    static constexpr int width = Lane<V>::width;
    int64_t first, end;

    TG_INLINE int count() const { return int(end - first < width ? end - first : width); }

    // Column `column` of rows of `stride` numbers.
    TG_INLINE V gather(const S* rows, int64_t stride, int64_t column) const {
        S values[width];
        for (int lane = 0; lane < width; ++lane)
            values[lane] = rows[(first + lane < end ? first + lane : end - 1) * stride + column];
        return load_as<V>(values);
    }

    template <int columns>
    TG_INLINE void scatter(const V (&values)[columns], S* rows) const {
        S lanes[columns][width];
        memcpy(lanes, values, sizeof lanes);
        for (int lane = 0; lane < count(); ++lane)
            for (int c = 0; c < columns; ++c) rows[(first + lane) * columns + c] = lanes[c][lane];
    }
};

template <class T>
std::vector<Pinhole<T>> cameras_of(int64_t num_cameras, const T* camera_to_world, const T* focal, int64_t height,
                                   int64_t width) {
    std::vector<Pinhole<T>> cameras;
    for (int64_t b = 0; b < num_cameras; ++b)
        cameras.emplace_back(camera_to_world + 16 * b, focal[b], width, height);
    return cameras;
}

// What a group of them is, apart from any camera.
template <class V>
struct Gaussians {
    using S = typename Lane<V>::Scalar;
    V mean[3], scales[3], quaternion[4], colour[3], coefficients[kMaxCoefficients][3];

    TG_INLINE Gaussians(const Group<V>& group, const GaussianArrays<S>& arrays) {
        for (int i = 0; i < 3; ++i) mean[i] = group.gather(arrays.means, 3, i);
        for (int i = 0; i < 3; ++i) scales[i] = group.gather(arrays.scales, 3, i);
        for (int i = 0; i < 4; ++i) quaternion[i] = group.gather(arrays.quaternions, 4, i);
        if (arrays.num_coefficients == 0)
            for (int c = 0; c < 3; ++c) colour[c] = group.gather(arrays.colors, 3, c);
        for (int64_t k = 0; k < arrays.num_coefficients; ++k)
            for (int c = 0; c < 3; ++c)
                coefficients[k][c] = group.gather(arrays.colors, 3 * arrays.num_coefficients, 3 * k + c);
    }
};

// splats: [B, N, kSplatNumbers]
template <class T>
void project(const GaussianArrays<T>& arrays, const std::vector<Pinhole<T>>& cameras, T* splats, int num_threads) {
    using V = LaneOf<T>;
    const int64_t num_coefficients = arrays.num_coefficients;
    parallel_ranges(arrays.count, kGaussiansPerPiece, num_threads, [&](int64_t begin, int64_t end) {
        for (Group<V> group{begin, end}; group.first < end; group.first += group.width) {
            const Gaussians<V> all(group, arrays);
            const GaussianShape<V> shape(all.quaternion, all.scales);
            const V opacity = group.gather(arrays.opacities, 1, 0), reach = reach_squared(opacity);
            for (size_t b = 0; b < cameras.size(); ++b) {
                const Pinhole<T>& camera = cameras[b];
                V colour[3], out[kSplatNumbers];
                for (int c = 0; c < 3; ++c) colour[c] = all.colour[c];
                if (num_coefficients > 0)
                    colour_seen_from(camera.position, all.mean, all.coefficients, num_coefficients, colour);
                project_splat(camera, all.mean, shape.axes, opacity, reach, colour, out);
                group.scatter(out, splats + b * arrays.count * kSplatNumbers);
            }
        }
    });
}

// A Gaussian's gradient is summed over the cameras in their order, by whoever has the Gaussian.
template <class T>
void project_backward(const GaussianArrays<T>& arrays, const std::vector<Pinhole<T>>& cameras, const T* grad_splats,
                      T* grad_means, T* grad_quaternions, T* grad_scales, T* grad_opacities, T* grad_colors,
                      int num_threads) {
    using V = LaneOf<T>;
    const int64_t num_coefficients = arrays.num_coefficients;
    parallel_ranges(arrays.count, kGaussiansPerPiece, num_threads, [&](int64_t begin, int64_t end) {
        for (Group<V> group{begin, end}; group.first < end; group.first += group.width) {
            const Gaussians<V> all(group, arrays);
            const GaussianShape<V> shape(all.quaternion, all.scales);
            const V zero = broadcast<V>(0);
            V g_mean[3] = {zero, zero, zero}, g_colour[3] = {zero, zero, zero}, g_opacity[1] = {zero};
            V g_axes[9], g_coefficients[kMaxCoefficients][3];
            for (V& g : g_axes) g = zero;
            for (int64_t k = 0; k < num_coefficients; ++k)
                for (V& g : g_coefficients[k]) g = zero;
            for (size_t b = 0; b < cameras.size(); ++b) {
                V arriving[kSplatNumbers];
                for (int i = 0; i < kReachX; ++i)
                    arriving[i] = group.gather(grad_splats + b * arrays.count * kSplatNumbers, kSplatNumbers, i);
                const Pinhole<T>& camera = cameras[b];
                Projection<V>(camera, all.mean, shape.axes).backward(camera, shape.axes, arriving, g_mean, g_axes);
                g_opacity[0] = g_opacity[0] + arriving[kOpacity];
                if (num_coefficients == 0) {
                    for (int c = 0; c < 3; ++c) g_colour[c] = g_colour[c] + arriving[kRed + c];
                    continue;
                }
                colour_backward(camera.position, all.mean, all.coefficients, num_coefficients, arriving + kRed, g_mean,
                                [&](int64_t k, int c, V g) { g_coefficients[k][c] = g_coefficients[k][c] + g; });
            }
            V g_quaternion[4], g_scales[3];
            shape.backward(all.scales, g_axes, g_quaternion, g_scales);
            group.scatter(g_mean, grad_means);
            group.scatter(g_quaternion, grad_quaternions);
            group.scatter(g_scales, grad_scales);
            group.scatter(g_opacity, grad_opacities);
            if (num_coefficients == 0) group.scatter(g_colour, grad_colors);
            for (int lane = 0; lane < group.count(); ++lane)
                for (int64_t k = 0; k < num_coefficients; ++k)
                    for (int c = 0; c < 3; ++c) {
                        T values[group.width];
                        memcpy(values, &g_coefficients[k][c], sizeof values);
                        grad_colors[((group.first + lane) * num_coefficients + k) * 3 + c] = values[lane];
                    }
        }
    });
}

}  // namespace

#define TG_SPLAT_PROJECT(suffix, T)                                                                                    \
    TG_API void tg_splat_project_##suffix(                                                                             \
        int64_t num_gaussians, int64_t num_cameras, int64_t height, int64_t width, const T* means,                     \
        const T* quaternions, const T* scales, const T* opacities, const T* colors, int64_t num_coefficients,          \
        const T* camera_to_world, const T* focal, T* splats, int64_t num_threads) {                                    \
        project<T>({num_gaussians, means, quaternions, scales, opacities, colors, num_coefficients},                   \
                   cameras_of(num_cameras, camera_to_world, focal, height, width), splats, int(num_threads));          \
    }                                                                                                                  \
    TG_API void tg_splat_project_backward_##suffix(                                                                    \
        int64_t num_gaussians, int64_t num_cameras, int64_t height, int64_t width, const T* means,                     \
        const T* quaternions, const T* scales, const T* colors, int64_t num_coefficients, const T* camera_to_world,    \
        const T* focal, const T* grad_splats, T* grad_means, T* grad_quaternions, T* grad_scales, T* grad_opacities,   \
        T* grad_colors, int64_t num_threads) {                                                                         \
        project_backward<T>({num_gaussians, means, quaternions, scales, nullptr, colors, num_coefficients},            \
                            cameras_of(num_cameras, camera_to_world, focal, height, width), grad_splats, grad_means,   \
                            grad_quaternions, grad_scales, grad_opacities, grad_colors, int(num_threads));             \
    }
TG_SPLAT_PROJECT(f32, float)
TG_SPLAT_PROJECT(f64, double)
