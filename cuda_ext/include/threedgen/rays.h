// Rays, the scene's cube and its occupied cells.
#pragma once

#include "lane.h"

namespace threedgen {

template <class T>
struct Ray {
    T origin[3], direction[3];
};

template <class T>
TG_INLINE Ray<T> load_ray(const T* origins, const T* directions, int64_t index) {
    Ray<T> ray;
    for (int axis = 0; axis < 3; ++axis) {
        ray.origin[axis] = origins[3 * index + axis];
        ray.direction[axis] = directions[3 * index + axis];
    }
    return ray;
}

// A direction's inverse. One of exactly 0 counts as a tiny positive one: 0 * infinity would give nan for an origin in
// the plane of a face. As with cells, the low faces then belong to the box and the high ones do not.
TG_INLINE float inverse(float x) { return 1.0f / (fabsf(x) < 4.7e-38f ? 4.7e-38f : x); }
TG_INLINE double inverse(double x) { return 1.0 / (fabs(x) < 8.9e-308 ? 8.9e-308 : x); }

// Where the ray is inside [low, high]^3, from its origin on; t_near >= t_far for a miss.
template <class T>
TG_INLINE void ray_box(const Ray<T>& ray, T low, T high, T& t_near, T& t_far) {
    t_near = 0;
    for (int axis = 0; axis < 3; ++axis) {
        const T inv = inverse(ray.direction[axis]);
        const T a = (low - ray.origin[axis]) * inv, b = (high - ray.origin[axis]) * inv;
        t_near = larger(t_near, smaller(a, b));
        t_far = axis == 0 ? larger(a, b) : smaller(t_far, larger(a, b));
    }
}

// G^3 cells over [-radius, radius]^3 as bits, cell (x, y, z) at (x G + y) G + z; a coarse bit stands for 8^3 cells.
struct Occupancy {
    const uint32_t* cells;
    const uint32_t* blocks;
    int32_t resolution;

    TG_INLINE int blocks_along_edge() const { return (resolution + 7) >> 3; }
    TG_INLINE static bool bit(const uint32_t* words, uint32_t i) { return (words[i >> 5] >> (i & 31)) & 1u; }
};

// Calls `visit(first, end)` for runs of steps first, ..., end - 1, in order: of the steps k = 0, 1, ... with
// t_near + (k + jitter) * step_size < t_far those whose points lie in an occupied cell, each in one run. A ray goes on
// from border to border, of cells or of empty blocks: its first step behind one is tested at its own point, and those
// before the next border share the answer. So lanes of a GPU do the same work whether their cells are occupied or not.
// Without `by_cells` each step in an occupied cell is tested by itself, a run of its own: for one ray at a time that is
// quicker than the way to the border, and the steps are the same.
template <bool by_cells, class T, class Visit>
TG_INLINE void march(const Ray<T>& ray, const Occupancy& grid, T radius, T step_size, T jitter, T& t_near,
                     Visit&& visit) {
    T t_far = 0;
    ray_box(ray, -radius, radius, t_near, t_far);
    if (!(t_near < t_far)) return;
    const int last = grid.resolution - 1, edge = grid.blocks_along_edge();
    const T cells_per_unit = T(0.5) * T(grid.resolution) / radius, steps_per_unit = T(1) / step_size;
    const T start = t_near + jitter * step_size;
    T cells_per_t[3], t_per_cell[3];
    for (int axis = 0; axis < 3; ++axis) {
        cells_per_t[axis] = ray.direction[axis] * cells_per_unit;
        t_per_cell[axis] = inverse(cells_per_t[axis]);
    }
    for (int64_t k = 0;;) {
        const T t = start + T(k) * step_size;
        if (!(t < t_far)) return;
        T at[3];
        int cell[3];
        for (int axis = 0; axis < 3; ++axis) {
            at[axis] = (ray.origin[axis] + ray.direction[axis] * t + radius) * cells_per_unit;
            const int c = int(at[axis]);
            cell[axis] = c < 0 ? 0 : c > last ? last : c;
        }
        const uint32_t block = uint32_t(((cell[0] >> 3) * edge + (cell[1] >> 3)) * edge + (cell[2] >> 3));
        const uint32_t index = (uint32_t(cell[0]) * grid.resolution + cell[1]) * grid.resolution + cell[2];
        const int shift = Occupancy::bit(grid.blocks, block) ? 0 : 3;  // past the cell, or past the block
        const bool is_occupied = shift == 0 && Occupancy::bit(grid.cells, index);
        if (!by_cells && is_occupied) {
            visit(k, k + 1);
            ++k;
            continue;
        }
        T leap = T(1e30);
        for (int axis = 0; axis < 3; ++axis) {
            const int ahead = cells_per_t[axis] > 0 ? 1 : 0;
            const T border = T(((cell[axis] >> shift) + ahead) * (1 << shift));
            leap = smaller(leap, (border - at[axis]) * t_per_cell[axis]);
        }
        // half a hundredth of a step early: rounding must not take a step just behind the border for one before it
        const T steps = leap * steps_per_unit - T(0.005);
        const int64_t next = k + (steps > T(1) ? int64_t(ceil(steps)) : 1);
        if (is_occupied) {
            int64_t end = next;
            while (end > k + 1 && !(start + T(end - 1) * step_size < t_far)) --end;
            visit(k, end);
        }
        k = next;
    }
}

// Steps first, ..., end - 1 as bits: calls `set(word, bits)` for every word that holds some, in order.
template <class Word, class Set>
TG_INLINE void as_words(int64_t first, int64_t end, Set&& set) {
    constexpr int kBits = 8 * int(sizeof(Word));
    while (first < end) {
        const int64_t word = first / kBits, stop = smaller(end, (word + 1) * kBits);
        set(word, Word(Word(~Word(0)) >> (kBits - (stop - first)) << (first - word * kBits)));
        first = stop;
    }
}

}  // namespace threedgen
