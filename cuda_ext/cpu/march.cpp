// Ray marching in two calls, so that the caller can allocate in between: `find` writes down each ray's steps as bits,
// `write` turns them into packed samples.
#include "threedgen/rays.h"

#include <cstring>

#include "api.h"
#include "parallel.h"
#include "vectors.h"

using namespace threedgen;

namespace {

constexpr int64_t kRaysPerPiece = 256;

// One byte a cell -> one bit a cell, and one a block of 8^3.
void pack(const uint8_t* occupied, int64_t resolution, uint32_t* cells, uint32_t* blocks) {
    const int64_t edge = (resolution + 7) / 8, num_cells = resolution * resolution * resolution;
    memset(cells, 0, sizeof(uint32_t) * size_t((num_cells + 31) / 32));
    memset(blocks, 0, sizeof(uint32_t) * size_t((edge * edge * edge + 31) / 32));
    for (int64_t x = 0; x < resolution; ++x)
        for (int64_t y = 0; y < resolution; ++y)
            for (int64_t first = 0; first < resolution; first += 8) {
                const int64_t count = first + 8 < resolution ? 8 : resolution - first;
                const int64_t cell = (x * resolution + y) * resolution + first;
                uint64_t row = 0;
                memcpy(&row, occupied + cell, size_t(count));
                if (!row) continue;
                // bytes of 0 or 1: byte i goes to bit 56 + i
                const uint64_t bits = (row * 0x0102040810204080u) >> 56 << (cell & 31);
                cells[cell >> 5] |= uint32_t(bits);
                if (bits >> 32) cells[(cell >> 5) + 1] |= uint32_t(bits >> 32);
                const int64_t block = ((x >> 3) * edge + (y >> 3)) * edge + (first >> 3);
                blocks[block >> 5] |= 1u << (block & 31);
            }
}

// 0, 1, ... in the lanes.
template <class V>
TG_INLINE V lane_numbers() {
    alignas(64) static constexpr float kNumbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return load_as<V>(kNumbers);
}
template <>
TG_INLINE double lane_numbers<double>() {
    return 0;
}

// The bits of these numbers in a row of `words`, one a lane, where `t` is below `end`: lane i's in bit i.
TG_INLINE uint64_t bits_before(const uint32_t* words, uint32_t number, double t, double end) {
    return t < end && Occupancy::bit(words, number);
}
TG_INLINE uint64_t bits_before(const uint32_t* words, u32x8 number, f32x8 t, float end) {
#if defined(__AVX2__)
    const __m256i found = _mm256_i32gather_epi32((const int*)words, (__m256i)(number >> 5), 4);
    const u32x8 first = (u32x8)found >> (number & 31u);  // the one that counts, as the last bit
    return uint32_t(_mm256_movemask_ps((__m256)((t < end) & (i32x8)(first << 31))));
#else
    uint64_t bits = 0;
    for (int i = 0; i < 8; ++i) bits |= bits_before(words, number[i], t[i], end) << i;
    return bits;
#endif
}
#if defined(__AVX512F__)
TG_INLINE uint64_t bits_before(const uint32_t* words, u32x16 number, f32x16 t, float end) {
    const __mmask16 before = _mm512_cmp_ps_mask((__m512)t, _mm512_set1_ps(end), _CMP_LT_OQ);
    const __m512i found = _mm512_i32gather_epi32((__m512i)(number >> 5), words, 4);
    const u32x16 bit = (u32x16{} + 1u) << (number & 31u);
    return _mm512_mask_test_epi32_mask(before, found, (__m512i)bit);
}
#endif

// Sets the bits of a ray's steps in occupied cells, as many steps at a time as there are lanes; returns how many.
template <class T>
int64_t mark(const Steps<T>& steps, const Occupancy& grid, uint64_t* words, int64_t num_words) {
    using V = typename SideBySide<T>::V;
    constexpr int64_t kLanes = Lane<V>::width;
    // Leaps over empty blocks pay where a block is several vectors of steps long.
    const bool leaps = T(8) * steps.steps_per_unit > T(8 * kLanes) * steps.cells_per_unit;
    const V last = broadcast<V>(T(grid.resolution - 1)), zero = broadcast<V>(T(0));
    int64_t count = 0;
    // behind the cube's longest chord there is nothing but rounding
    for (int64_t k = 0; k < 64 * num_words && steps.t(T(k)) < steps.t_far;) {
        if (leaps) {
            const StepCell<T> in(steps, steps.t(T(k)), grid.resolution);
            const int64_t next = grid.block_is_empty(in.cell) ? steps.behind(k, in.at, in.cell, 3) / kLanes * kLanes : k;
            if (next > k) {
                k = next;
                continue;
            }
        }
        const V t = steps.t(lane_numbers<V>() + T(k));
        typename Lane<V>::UInt cell[3];
        for (int axis = 0; axis < 3; ++axis) cell[axis] = to_uint<V>(clamp(steps.along(axis, t), zero, last));
        const uint32_t edge = uint32_t(grid.resolution);
        const uint64_t found = bits_before(grid.cells, (cell[0] * edge + cell[1]) * edge + cell[2], t, steps.t_far);
        words[k >> 6] |= found << (k & 63);
        count += __builtin_popcountll(found);
        k += kLanes;
    }
    return count;
}

template <class T>
void find_samples(int64_t num_rays, const T* origins, const T* directions, const T* jitter, const uint8_t* occupied,
                  int64_t resolution, T radius, T step_size, uint32_t* bits, int64_t words_per_ray, uint64_t* of_rays,
                  T* t_near, int64_t* counts, int num_threads) {
    const int64_t num_cells = int64_t(resolution) * resolution * resolution;
    uint32_t* blocks = bits + (num_cells + 31) / 32;
    pack(occupied, resolution, bits, blocks);
    const Occupancy grid{bits, blocks, int32_t(resolution)};
    parallel_ranges(num_rays, kRaysPerPiece, num_threads, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
            uint64_t* mine = of_rays + r * words_per_ray;
            memset(mine, 0, sizeof(uint64_t) * words_per_ray);
            const T offset = jitter ? jitter[r] : T(0.5);
            const Steps<T> steps(load_ray(origins, directions, r), grid.resolution, radius, step_size, offset);
            t_near[r] = steps.t_near;
            counts[r] = steps.misses() ? 0 : mark(steps, grid, mine, words_per_ray);
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
