// What a radiance field is besides its grid and its matrices: activations, the occupancy grid's points and update,
// jitter. One thread a sample, a cell or a ray.
#include "launch.h"

#include "threedgen/activations.h"
#include "threedgen/random.h"

using namespace threedgen;

namespace {

constexpr int kThreads = 256;

// raw [N, 4] and positions [N, 3] in the unit cube -> density and colour.
template <class T>
__global__ void activate(int64_t count, const T* __restrict__ raw, const T* __restrict__ positions, T radius,
                         T blob_density, T blob_radius, T density_scale, T* __restrict__ density, T* __restrict__ rgb) {
    const int64_t i = thread_in_grid();
    if (i >= count) return;
    const auto mine = load_pack<T, 4>(raw + 4 * i);
    T square = 0;
    for (int axis = 0; axis < 3; ++axis) {
        const T world = (T(2) * positions[3 * i + axis] - T(1)) * radius;
        square += world * world;
    }
    density[i] = density_scale * softplus(mine.of[0] + blob_at(sqrt_of(square), blob_density, blob_radius));
    for (int c = 0; c < 3; ++c) rgb[3 * i + c] = sigmoid(mine.of[1 + c]);
}

template <class T>
__global__ void activate_backward(int64_t count, const T* __restrict__ density, const T* __restrict__ rgb,
                                  const T* __restrict__ grad_density, const T* __restrict__ grad_rgb, T density_scale,
                                  T* __restrict__ grad_raw) {
    const int64_t i = thread_in_grid();
    if (i >= count) return;
    Pack<T, 4> out;
    out.of[0] = grad_of_logit(density[i], grad_density[i], density_scale);
    for (int c = 0; c < 3; ++c) out.of[1 + c] = grad_of_channel(rgb[3 * i + c], grad_rgb[3 * i + c]);
    reinterpret_cast<Pack<T, 4>*>(grad_raw)[i] = out;
}

// A random point in each of the cells first, first + 1, ... of G^3, which are the cube [-radius, radius]^3.
template <class T>
__global__ void cell_points(int64_t count, int64_t first, int64_t resolution, T radius, uint32_t seed,
                            T* __restrict__ positions) {
    const int64_t i = thread_in_grid(), cell = first + i;
    if (i >= count) return;
    const int64_t corner[3] = {cell / (resolution * resolution), cell / resolution % resolution, cell % resolution};
    for (int axis = 0; axis < 3; ++axis)
        positions[3 * i + axis] =
            (T(corner[axis]) + T(uniform(seed, uint32_t(4 * cell + axis)))) * (T(2) * radius / T(resolution)) - radius;
}

template <class T>
__global__ void update_cells(int64_t count, int64_t first, uint32_t seed, T decay, int64_t all_cells, T cell_width,
                             const uint8_t* __restrict__ occupied, const T* __restrict__ density,
                             const T* __restrict__ before, T* __restrict__ after) {
    const int64_t i = thread_in_grid(), cell = first + i;
    if (i >= count) return;
    const bool looked_at = all_cells || occupied[cell] || uniform(seed, uint32_t(4 * cell + 3)) < 0.5f;
    after[cell] = looked_at ? larger(decay * before[cell], opacity_of(density[i] * cell_width)) : before[cell];
}

__global__ void jitter(int64_t num_rays, uint32_t seed, float* __restrict__ out) {
    const int64_t r = thread_in_grid();
    if (r < num_rays) out[r] = uniform(seed, uint32_t(r));
}

}  // namespace

#define TG_FIELD(suffix, T)                                                                                            \
    TG_API int64_t tg_activate_##suffix(int64_t count, const T* raw, const T* positions, T radius, T blob_density,     \
                                        T blob_radius, T density_scale, T* density, T* rgb, void* stream) {            \
        return launch(activate<T>, blocks_for(count, kThreads), kThreads, 0, stream, count, raw, positions, radius,    \
                      blob_density, blob_radius, density_scale, density, rgb);                                         \
    }                                                                                                                  \
    TG_API int64_t tg_activate_backward_##suffix(int64_t count, const T* density, const T* rgb, const T* grad_density, \
                                                 const T* grad_rgb, T density_scale, T* grad_raw, void* stream) {      \
        return launch(activate_backward<T>, blocks_for(count, kThreads), kThreads, 0, stream, count, density, rgb,     \
                      grad_density, grad_rgb, density_scale, grad_raw);                                                \
    }                                                                                                                  \
    TG_API int64_t tg_cell_points_##suffix(int64_t count, int64_t first, int64_t resolution, T radius, int64_t seed,   \
                                           T* positions, void* stream) {                                               \
        return launch(cell_points<T>, blocks_for(count, kThreads), kThreads, 0, stream, count, first, resolution,      \
                      radius, uint32_t(seed), positions);                                                              \
    }                                                                                                                  \
    TG_API int64_t tg_update_cells_##suffix(int64_t count, int64_t first, int64_t seed, T decay, int64_t all_cells,    \
                                            T cell_width, const uint8_t* occupied, const T* density, const T* before,  \
                                            T* after, void* stream) {                                                  \
        return launch(update_cells<T>, blocks_for(count, kThreads), kThreads, 0, stream, count, first, uint32_t(seed), \
                      decay, all_cells, cell_width, occupied, density, before, after);                                 \
    }
TG_FIELD(f32, float)
TG_FIELD(f64, double)

TG_API int64_t tg_ray_jitter_f32(int64_t num_rays, int64_t seed, float* out, void* stream) {
    return launch(jitter, blocks_for(num_rays, kThreads), kThreads, 0, stream, num_rays, uint32_t(seed), out);
}
