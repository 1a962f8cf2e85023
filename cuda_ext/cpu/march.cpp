// Ray marching in two calls, so that the caller can allocate in between: `find` writes down each ray's steps as bits,
// `write` turns them into packed samples.
#include "threedgen/rays.h"

#include <cstring>

#include "api.h"
#include "parallel.h"

using namespace threedgen;

namespace {

constexpr int64_t kRaysPerPiece = 256;

// One byte a cell -> one bit a cell, and one a block of 8^3.
void pack(const uint8_t* occupied, int64_t resolution, uint32_t* cells, uint32_t* blocks) {
    const int64_t edge = (resolution + 7) / 8, num_cells = resolution * resolution * resolution;
    memset(cells, 0, sizeof(uint32_t) * size_t((num_cells + 31) / 32));
    memset(blocks, 0, sizeof(uint32_t) * size_t((edge * edge * edge + 31) / 32));
    const auto set = [](uint32_t* words, int64_t i) { words[i >> 5] |= 1u << (i & 31); };
    for (int64_t x = 0; x < resolution; ++x)
        for (int64_t y = 0; y < resolution; ++y)
            for (int64_t first = 0; first < resolution; first += 8) {
                const int64_t count = first + 8 < resolution ? 8 : resolution - first;
                const int64_t cell = (x * resolution + y) * resolution + first;
                uint64_t row = 0;
                memcpy(&row, occupied + cell, size_t(count));
                if (!row) continue;
                for (int64_t z = 0; z < count; ++z)
                    if (occupied[cell + z]) set(cells, cell + z);
                set(blocks, ((x >> 3) * edge + (y >> 3)) * edge + (first >> 3));
            }
}

template <class T>
void find_samples(int64_t num_rays, const T* origins, const T* directions, const T* jitter, const uint8_t* occupied,
                  int64_t resolution, T radius, T step_size, uint32_t* bits, int64_t words_per_ray, uint64_t* steps,
                  T* t_near, int64_t* counts, int num_threads) {
    const int64_t num_cells = int64_t(resolution) * resolution * resolution;
    uint32_t* blocks = bits + (num_cells + 31) / 32;
    pack(occupied, resolution, bits, blocks);
    const Occupancy grid{bits, blocks, int32_t(resolution)};
    parallel_ranges(num_rays, kRaysPerPiece, num_threads, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
            uint64_t* mine = steps + r * words_per_ray;
            memset(mine, 0, sizeof(uint64_t) * words_per_ray);
            int64_t count = 0;
            march<false>(load_ray(origins, directions, r), grid, radius, step_size, jitter ? jitter[r] : T(0.5),
                         t_near[r], [&](int64_t k, int64_t) {
                             if (k >= words_per_ray * 64) return;  // behind the cube's longest chord: rounding
                             mine[k >> 6] |= uint64_t(1) << (k & 63);
                             ++count;
                         });
            counts[r] = count;
        }
    });
}

template <class T>
void write_samples(int64_t num_rays, const T* jitter, T step_size, int64_t words_per_ray, const uint64_t* steps,
                   const T* t_near, const int64_t* offsets, T* t_starts, T* t_ends, int64_t* ray_indices,
                   int num_threads) {
    parallel_ranges(num_rays, kRaysPerPiece, num_threads, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
            const T start = t_near[r] + (jitter ? jitter[r] : T(0.5)) * step_size;
            int64_t out = offsets[r];
            for (int64_t word = 0; word < words_per_ray; ++word)
                for (uint64_t left = steps[r * words_per_ray + word]; left; left &= left - 1, ++out) {
                    const T t = start + T(word * 64 + __builtin_ctzll(left)) * step_size;
                    t_starts[out] = t - T(0.5) * step_size;
                    t_ends[out] = t + T(0.5) * step_size;
                    ray_indices[out] = r;
                }
        }
    });
}

}  // namespace

#define TG_MARCH(suffix, T)                                                                                          \
    TG_API void tg_march_find_##suffix(int64_t num_rays, const T* origins, const T* directions, const T* jitter,     \
                                       const uint8_t* occupied, int64_t resolution, T radius, T step_size,          \
                                       uint32_t* bits, int64_t words_per_ray, uint64_t* steps, T* t_near,           \
                                       int64_t* counts, int64_t num_threads) {                                      \
        find_samples<T>(num_rays, origins, directions, jitter, occupied, resolution, radius, step_size, bits,       \
                        words_per_ray, steps, t_near, counts, num_threads);                                         \
    }                                                                                                                \
    TG_API void tg_march_write_##suffix(int64_t num_rays, const T* jitter, T step_size, int64_t words_per_ray,       \
                                        const uint64_t* steps, const T* t_near, const int64_t* offsets, T* t_starts, \
                                        T* t_ends, int64_t* ray_indices, int64_t num_threads) {                     \
        write_samples<T>(num_rays, jitter, step_size, words_per_ray, steps, t_near, offsets, t_starts, t_ends,      \
                         ray_indices, num_threads);                                                                  \
    }
TG_MARCH(f32, float)
TG_MARCH(f64, double)
