// Ray marching: `find` writes down each ray's steps as bits, a prefix sum over the counts gives each ray its place, and
// `write` turns the bits into packed samples. Both passes thus agree on every step, and no order depends on chance.
#include "launch.h"

#include "threedgen/rays.h"

using namespace threedgen;

namespace {

constexpr int kThreads = 128;

// One bit a cell. All lanes of a warp vote; a word is written by the first of its 32 cells.
__global__ void pack_cells(int64_t num_cells, const uint8_t* __restrict__ occupied, uint32_t* __restrict__ bits) {
    const int64_t cell = thread_in_grid();
    const unsigned word = __ballot_sync(kAllLanes, cell < num_cells && occupied[cell]);
    if (cell < num_cells && (cell & 31) == 0) bits[cell >> 5] = word;
}

// One bit for 8^3 cells, which one warp looks at. `blocks` starts as zeros.
__global__ void pack_blocks(int resolution, int edge, const uint8_t* __restrict__ occupied,
                            uint32_t* __restrict__ blocks) {
    const int64_t block = thread_in_grid() >> 5;
    const int lane = threadIdx.x & 31;
    if (block >= int64_t(edge) * edge * edge) return;
    const int x0 = int(block / (edge * edge)) * 8, y0 = int(block / edge % edge) * 8, z0 = int(block % edge) * 8;
    bool any = false;
    for (int i = lane; i < 512; i += 32) {
        const int x = x0 + (i >> 6), y = y0 + (i >> 3 & 7), z = z0 + (i & 7);
        if (x < resolution && y < resolution && z < resolution)
            any = any || occupied[(int64_t(x) * resolution + y) * resolution + z];
    }
    if (__any_sync(kAllLanes, any) && lane == 0) atomicOr(blocks + (block >> 5), 1u << (block & 31));
}

// One thread a ray. Word w of ray r lies at steps[w * num_rays + r], so that a warp writes neighbours.
template <class T>
__global__ void find_steps(int64_t num_rays, const T* __restrict__ origins, const T* __restrict__ directions,
                           const T* __restrict__ jitter, Occupancy grid, T radius, T step_size, int64_t words_per_ray,
                           uint32_t* __restrict__ steps, T* __restrict__ t_near, int64_t* __restrict__ counts) {
    const int64_t r = thread_in_grid();
    if (r >= num_rays) return;
    int64_t word = 0, count = 0;
    uint32_t bits = 0;
    const auto next_word = [&] {
        steps[word++ * num_rays + r] = bits;
        count += __popc(bits);
        bits = 0;
    };
    const T offset = jitter ? jitter[r] : T(0.5);
    const Steps<T> of_ray(load_ray(origins, directions, r), grid.resolution, radius, step_size, offset);
    t_near[r] = of_ray.t_near;
    march(of_ray, grid, [&](int64_t first, int64_t end) {
        // behind the cube's longest chord there are none: rounding
        as_words<uint32_t>(first, smaller(end, words_per_ray * 32), [&](int64_t of_word, uint32_t found) {
            while (word < of_word) next_word();
            bits |= found;
        });
    });
    while (word < words_per_ray) next_word();
    counts[r] = count;
}

// One warp a ray, one lane a step. Samples that do not fit between a ray's offsets are left out; places behind the last
// ray's samples become empty intervals of the last ray.
template <class T>
__global__ void write_samples(int64_t num_rays, const T* __restrict__ jitter, T step_size, int64_t words_per_ray,
                              const uint32_t* __restrict__ steps, const T* __restrict__ t_near,
                              const int64_t* __restrict__ offsets, int64_t capacity, T* __restrict__ t_starts,
                              T* __restrict__ t_ends, int64_t* __restrict__ ray_indices) {
    for (int64_t i = offsets[num_rays] + thread_in_grid(); i < capacity; i += threads_in_grid()) {
        t_starts[i] = t_ends[i] = 0;
        ray_indices[i] = num_rays - 1;
    }
    const int64_t r = thread_in_grid() >> 5;
    const int lane = threadIdx.x & 31;
    if (r >= num_rays) return;
    const T start = t_near[r] + (jitter ? jitter[r] : T(0.5)) * step_size;
    const int64_t end = offsets[r + 1];
    int64_t begin = offsets[r];
    for (int64_t word = 0; word < words_per_ray && begin < end; ++word) {
        const uint32_t bits = steps[word * num_rays + r];
        const int64_t out = begin + __popc(bits & ((1u << lane) - 1));
        if (bits >> lane & 1 && out < end) {
            const T t = start + T(word * 32 + lane) * step_size;
            t_starts[out] = t - T(0.5) * step_size;
            t_ends[out] = t + T(0.5) * step_size;
            ray_indices[out] = r;
        }
        begin += __popc(bits);
    }
}

// Where samples are in the world.
template <class T>
__global__ void place_samples(int64_t num_samples, const T* __restrict__ origins, const T* __restrict__ directions,
                              const int64_t* __restrict__ ray_indices, const T* __restrict__ t_starts,
                              const T* __restrict__ t_ends, T* __restrict__ positions) {
    const int64_t i = thread_in_grid();
    if (i >= num_samples) return;
    const Ray<T> ray = load_ray(origins, directions, ray_indices[i]);
    const T t = T(0.5) * (t_starts[i] + t_ends[i]);
    for (int axis = 0; axis < 3; ++axis)
        positions[3 * i + axis] = ray.origin[axis] + t * ray.direction[axis];
}

template <class T>
int64_t find(int64_t num_rays, const T* origins, const T* directions, const T* jitter, const uint8_t* occupied,
             int64_t resolution, T radius, T step_size, uint32_t* cells, uint32_t* blocks, int64_t words_per_ray,
             uint32_t* steps, T* t_near, int64_t* counts, void* stream) {
    const int64_t num_cells = resolution * resolution * resolution, edge = (resolution + 7) / 8;
    int64_t error =
        launch(pack_cells, blocks_for(num_cells, kThreads), kThreads, 0, stream, num_cells, occupied, cells);
    if (!error)
        error = launch(pack_blocks, blocks_for(edge * edge * edge * 32, kThreads), kThreads, 0, stream, int(resolution),
                       int(edge), occupied, blocks);
    const Occupancy grid{cells, blocks, int32_t(resolution)};
    if (!error)
        error = launch(find_steps<T>, blocks_for(num_rays, kThreads), kThreads, 0, stream, num_rays, origins,
                       directions, jitter, grid, radius, step_size, words_per_ray, steps, t_near, counts);
    return error;
}

}  // namespace

// `blocks` must be zeros; `cells` and the outputs need not be set.
#define TG_MARCH(suffix, T)                                                                                            \
    TG_API int64_t tg_march_find_##suffix(                                                                             \
        int64_t num_rays, const T* origins, const T* directions, const T* jitter, const uint8_t* occupied,             \
        int64_t resolution, T radius, T step_size, uint32_t* cells, uint32_t* blocks, int64_t words_per_ray,           \
        uint32_t* steps, T* t_near, int64_t* counts, void* stream) {                                                   \
        return find<T>(num_rays, origins, directions, jitter, occupied, resolution, radius, step_size, cells, blocks,  \
                       words_per_ray, steps, t_near, counts, stream);                                                  \
    }                                                                                                                  \
    TG_API int64_t tg_march_write_##suffix(int64_t num_rays, const T* jitter, T step_size, int64_t words_per_ray,      \
                                           const uint32_t* steps, const T* t_near, const int64_t* offsets,             \
                                           int64_t capacity, T* t_starts, T* t_ends, int64_t* ray_indices,             \
                                           void* stream) {                                                             \
        return launch(write_samples<T>, blocks_for(num_rays * 32, kThreads), kThreads, 0, stream, num_rays, jitter,    \
                      step_size, words_per_ray, steps, t_near, offsets, capacity, t_starts, t_ends, ray_indices);      \
    }                                                                                                                  \
    TG_API int64_t tg_place_samples_##suffix(int64_t num_samples, const T* origins, const T* directions,               \
                                             const int64_t* ray_indices, const T* t_starts, const T* t_ends,           \
                                             T* positions, void* stream) {                                             \
        return launch(place_samples<T>, blocks_for(num_samples, kThreads), kThreads, 0, stream, num_samples, origins,  \
                      directions, ray_indices, t_starts, t_ends, positions);                                           \
    }
TG_MARCH(f32, float)
TG_MARCH(f64, double)
