// Compositing of packed samples: one ray after the other, opacities of eight samples at a time.
#include "threedgen/compositing.h"

#include <vector>

#include "api.h"
#include "parallel.h"

using namespace threedgen;

namespace {

constexpr int64_t kRaysPerPiece = 256;

// [n] opacities of n samples.
void opacities(int64_t n, const float* density, const float* t_starts, const float* t_ends, float* alpha) {
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        store8(alpha + i, opacity_of(load8(density + i) * (load8(t_ends + i) - load8(t_starts + i))));
    for (; i < n; ++i) alpha[i] = opacity_of(density[i] * (t_ends[i] - t_starts[i]));
}
void opacities(int64_t n, const double* density, const double* t_starts, const double* t_ends, double* alpha) {
    for (int64_t i = 0; i < n; ++i) alpha[i] = opacity_of(density[i] * (t_ends[i] - t_starts[i]));
}

template <class T>
void forward(int64_t num_rays, const T* density, const T* rgb, const T* t_starts, const T* t_ends,
             const int64_t* offsets, T* out_rgb, T* out_opacity, T* out_depth, T* weights, int num_threads) {
    parallel_ranges(num_rays, kRaysPerPiece, num_threads, [&](int64_t begin, int64_t end) {
        const int64_t first = offsets[begin], count = offsets[end] - first;
        opacities(count, density + first, t_starts + first, t_ends + first, weights + first);
        for (int64_t r = begin; r < end; ++r) {
            RaySum<T> sum;
            for (int64_t i = offsets[r]; i < offsets[r + 1]; ++i)
                weights[i] = sum.add(weights[i], rgb + 3 * i, T(0.5) * (t_starts[i] + t_ends[i]));
            for (int c = 0; c < 3; ++c) out_rgb[3 * r + c] = sum.rgb[c];
            out_opacity[r] = sum.opacity;
            out_depth[r] = sum.depth;
        }
    });
}

template <class T>
void backward(int64_t num_rays, const T* density, const T* rgb, const T* t_starts, const T* t_ends,
              const int64_t* offsets, const T* weights, const T* grad_rgb, const T* grad_opacity, const T* grad_depth,
              const T* grad_weights, T* grad_density, T* grad_sample_rgb, int num_threads) {
    parallel_ranges(num_rays, kRaysPerPiece, num_threads, [&](int64_t begin, int64_t end) {
        const int64_t first = offsets[begin];
        std::vector<T> alpha(offsets[end] - first), after;  // after: the light that passes each sample of a ray
        opacities(int64_t(alpha.size()), density + first, t_starts + first, t_ends + first, alpha.data());
        for (int64_t r = begin; r < end; ++r) {
            const int64_t from = offsets[r], to = offsets[r + 1];
            after.resize(to - from);
            T transmittance = 1;
            for (int64_t i = from; i < to; ++i) {
                transmittance *= T(1) - alpha[i - first];
                if (transmittance < T(kDark)) transmittance = 0;
                after[i - from] = transmittance;
            }
            const RayGradient<T> arriving{
                {grad_rgb[3 * r], grad_rgb[3 * r + 1], grad_rgb[3 * r + 2]}, grad_opacity[r], grad_depth[r]};
            T behind = 0;
            for (int64_t i = to - 1; i >= from; --i) {
                const T t_mid = T(0.5) * (t_starts[i] + t_ends[i]);
                const T of_weight = arriving.of_weight(rgb + 3 * i, t_mid, grad_weights[i]);
                grad_density[i] = (t_ends[i] - t_starts[i]) *
                                  optical_depth_gradient(after[i - from], weights[i], of_weight, behind);
                for (int c = 0; c < 3; ++c) grad_sample_rgb[3 * i + c] = weights[i] * arriving.rgb[c];
            }
        }
    });
}

}  // namespace

#define TG_COMPOSITE(suffix, T)                                                                                        \
    TG_API void tg_composite_##suffix(int64_t num_rays, const T* density, const T* rgb, const T* t_starts,             \
                                      const T* t_ends, const int64_t* offsets, T* out_rgb, T* out_opacity,             \
                                      T* out_depth, T* weights, int64_t num_threads) {                                 \
        forward<T>(num_rays, density, rgb, t_starts, t_ends, offsets, out_rgb, out_opacity, out_depth, weights,        \
                   num_threads);                                                                                       \
    }                                                                                                                  \
    TG_API void tg_composite_backward_##suffix(                                                                        \
        int64_t num_rays, const T* density, const T* rgb, const T* t_starts, const T* t_ends, const int64_t* offsets,  \
        const T* weights, const T* grad_rgb, const T* grad_opacity, const T* grad_depth, const T* grad_weights,        \
        T* grad_density, T* grad_sample_rgb, int64_t num_threads) {                                                    \
        backward<T>(num_rays, density, rgb, t_starts, t_ends, offsets, weights, grad_rgb, grad_opacity, grad_depth,    \
                    grad_weights, grad_density, grad_sample_rgb, num_threads);                                         \
    }
TG_COMPOSITE(f32, float)
TG_COMPOSITE(f64, double)
