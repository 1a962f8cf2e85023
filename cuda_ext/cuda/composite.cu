// Compositing of packed samples: one warp a ray, 32 samples a round, with scans over the warp's lanes.
#include "launch.h"

#include "threedgen/compositing.h"

using namespace threedgen;

namespace {

constexpr int kThreads = 128;

// 32 neighbouring samples of a ray, one a lane. `reached`: the light that arrives at the sample; 0 where it is less
// than `dark`, for such a sample is left out. `left`: what passes the sample.
template <class T>
struct Round {
    T alpha, reached, left, t_mid;

    __device__ Round(bool there, int64_t i, int lane, T& arriving, T dark, const T* density, const T* t_starts,
                     const T* t_ends)
        : alpha(0), t_mid(0) {
        if (there) {
            alpha = opacity_of(density[i] * (t_ends[i] - t_starts[i]));
            t_mid = T(0.5) * (t_starts[i] + t_ends[i]);
        }
        const T passed = product_up_to(T(1) - alpha, lane);
        const T passed_before = __shfl_up_sync(kAllLanes, passed, 1);
        reached = lane == 0 ? arriving : arriving * passed_before;
        if (reached < dark) reached = 0;
        left = reached * (T(1) - alpha);
        arriving *= __shfl_sync(kAllLanes, passed, 31);
        if (arriving < dark) arriving = 0;
    }
};

template <class T>
__global__ void composite(int64_t num_rays, int64_t num_samples, const T* __restrict__ density,
                          const T* __restrict__ rgb, const T* __restrict__ t_starts, const T* __restrict__ t_ends,
                          const int64_t* __restrict__ offsets, T dark, T* __restrict__ out_rgb,
                          T* __restrict__ out_opacity, T* __restrict__ out_depth, T* __restrict__ weights) {
    // places behind the last ray's samples, which a buffer of fixed size has
    for (int64_t i = offsets[num_rays] + thread_in_grid(); i < num_samples; i += threads_in_grid()) weights[i] = 0;
    const int64_t r = thread_in_grid() >> 5;
    const int lane = threadIdx.x & 31;
    if (r >= num_rays) return;
    const int64_t end = offsets[r + 1];
    T arriving = 1, sum[5] = {0, 0, 0, 0, 0};
    for (int64_t begin = offsets[r]; begin < end; begin += 32) {
        const int64_t i = begin + lane;
        const bool there = i < end;
        if (arriving == 0) {
            if (there) weights[i] = 0;
            continue;
        }
        const Round<T> round(there, i, lane, arriving, dark, density, t_starts, t_ends);
        if (!there) continue;
        const T weight = round.reached * round.alpha;
        weights[i] = weight;
        for (int c = 0; c < 3; ++c) sum[c] += weight * rgb[3 * i + c];
        sum[3] += weight;
        sum[4] += weight * round.t_mid;
    }
    for (int c = 0; c < 5; ++c) sum[c] = sum_over_warp(sum[c]);
    if (lane < 3) out_rgb[3 * r + lane] = lane == 0 ? sum[0] : lane == 1 ? sum[1] : sum[2];
    if (lane == 0) {
        out_opacity[r] = sum[3];
        out_depth[r] = sum[4];
    }
}

// Front to back for the light that passes each sample, kept in grad_density, then back to front for the gradients. A
// lane meets the same samples both times.
template <class T>
__global__ void composite_backward(int64_t num_rays, int64_t num_samples, const T* __restrict__ density,
                                   const T* __restrict__ rgb, const T* __restrict__ t_starts,
                                   const T* __restrict__ t_ends, const int64_t* __restrict__ offsets,
                                   const T* __restrict__ weights, const T* __restrict__ grad_rgb,
                                   const T* __restrict__ grad_opacity, const T* __restrict__ grad_depth,
                                   const T* __restrict__ grad_weights, T dark, T* grad_density,
                                   T* __restrict__ grad_sample_rgb) {
    for (int64_t i = offsets[num_rays] + thread_in_grid(); i < num_samples; i += threads_in_grid()) {
        grad_density[i] = 0;
        for (int c = 0; c < 3; ++c) grad_sample_rgb[3 * i + c] = 0;
    }
    const int64_t r = thread_in_grid() >> 5;
    const int lane = threadIdx.x & 31;
    if (r >= num_rays) return;
    const int64_t first = offsets[r], end = offsets[r + 1];
    T arriving = 1;
    for (int64_t begin = first; begin < end; begin += 32) {
        const int64_t i = begin + lane;
        const bool there = i < end;
        if (arriving == 0) {
            if (there) grad_density[i] = 0;
            continue;
        }
        const Round<T> round(there, i, lane, arriving, dark, density, t_starts, t_ends);
        if (there) grad_density[i] = round.left;
    }
    const RayGradient<T> arriving_gradient{
        {grad_rgb[3 * r], grad_rgb[3 * r + 1], grad_rgb[3 * r + 2]}, grad_opacity[r], grad_depth[r]};
    T behind_round = 0;
    for (int64_t begin = first + (end - first - 1) / 32 * 32; begin >= first; begin -= 32) {
        const int64_t i = begin + lane;
        const bool there = i < end;
        T weight = 0, of_weight = 0;
        if (there) {
            weight = weights[i];
            of_weight = arriving_gradient.of_weight(rgb + 3 * i, T(0.5) * (t_starts[i] + t_ends[i]), grad_weights[i]);
        }
        const T from_here = sum_from(weight * of_weight, lane);
        const T behind_lane = __shfl_down_sync(kAllLanes, from_here, 1);
        T behind = behind_round + (lane < 31 ? behind_lane : T(0));
        behind_round += __shfl_sync(kAllLanes, from_here, 0);
        if (!there) continue;
        grad_density[i] =
            (t_ends[i] - t_starts[i]) * optical_depth_gradient(grad_density[i], weight, of_weight, behind);
        for (int c = 0; c < 3; ++c) grad_sample_rgb[3 * i + c] = weight * arriving_gradient.rgb[c];
    }
}

template <class T>
T darkness(T min_transmittance) {
    return larger(min_transmittance, T(kDark));
}

}  // namespace

// num_samples may be larger than offsets[num_rays]: weights and gradients behind it become 0.
#define TG_COMPOSITE(suffix, T)                                                                                        \
    TG_API int64_t tg_composite_##suffix(int64_t num_rays, int64_t num_samples, const T* density, const T* rgb,        \
                                         const T* t_starts, const T* t_ends, const int64_t* offsets,                   \
                                         T min_transmittance, T* out_rgb, T* out_opacity, T* out_depth, T* weights,    \
                                         void* stream) {                                                               \
        return launch(composite<T>, blocks_for(num_rays * 32, kThreads), kThreads, 0, stream, num_rays, num_samples,   \
                      density, rgb, t_starts, t_ends, offsets, darkness(min_transmittance), out_rgb, out_opacity,      \
                      out_depth, weights);                                                                             \
    }                                                                                                                  \
    TG_API int64_t tg_composite_backward_##suffix(                                                                     \
        int64_t num_rays, int64_t num_samples, const T* density, const T* rgb, const T* t_starts, const T* t_ends,     \
        const int64_t* offsets, const T* weights, const T* grad_rgb, const T* grad_opacity, const T* grad_depth,       \
        const T* grad_weights, T min_transmittance, T* grad_density, T* grad_sample_rgb, void* stream) {               \
        return launch(composite_backward<T>, blocks_for(num_rays * 32, kThreads), kThreads, 0, stream, num_rays,       \
                      num_samples, density, rgb, t_starts, t_ends, offsets, weights, grad_rgb, grad_opacity,           \
                      grad_depth, grad_weights, darkness(min_transmittance), grad_density, grad_sample_rgb);           \
    }
TG_COMPOSITE(f32, float)
TG_COMPOSITE(f64, double)
