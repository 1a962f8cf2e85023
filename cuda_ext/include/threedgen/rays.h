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
    TG_INLINE bool is_occupied(const int cell[3]) const {
        return bit(cells, (uint32_t(cell[0]) * resolution + cell[1]) * resolution + cell[2]);
    }
    TG_INLINE bool block_is_empty(const int cell[3]) const {
        const int edge = blocks_along_edge();
        return !bit(blocks, uint32_t(((cell[0] >> 3) * edge + (cell[1] >> 3)) * edge + (cell[2] >> 3)));
    }
};

// Steps k = 0, 1, ... of a ray through the cube, those with t(k) < t_far: t(k) = t_near + (k + jitter) * step_size.
template <class T>
struct Steps {
    Ray<T> ray;
    T radius, step_size, start, t_near, t_far, cells_per_unit, steps_per_unit;
    T cells_per_t[3], t_per_cell[3];

    TG_INLINE Steps(const Ray<T>& of, int resolution, T radius, T step_size, T jitter)
        : ray(of), radius(radius), step_size(step_size) {
        ray_box(ray, -radius, radius, t_near, t_far);
        start = t_near + jitter * step_size;
        cells_per_unit = T(0.5) * T(resolution) / radius;
        steps_per_unit = T(1) / step_size;
        for (int axis = 0; axis < 3; ++axis) {
            cells_per_t[axis] = ray.direction[axis] * cells_per_unit;
            t_per_cell[axis] = inverse(cells_per_t[axis]);
        }
    }
    TG_INLINE bool misses() const { return !(t_near < t_far); }
    template <class V>
    TG_INLINE V t(V k) const {
        return start + k * step_size;
    }
    // Where a point is along an axis, in cells.
    template <class V>
    TG_INLINE V along(int axis, V t) const {
        return (ray.origin[axis] + ray.direction[axis] * t + radius) * cells_per_unit;
    }
    // The first step behind the cell (shift 0) or the block (shift 3) that step k is in, at `at` in `cell`.
    TG_INLINE int64_t behind(int64_t k, const T at[3], const int cell[3], int shift) const {
        T leap = T(1e30);
        for (int axis = 0; axis < 3; ++axis) {
            const int ahead = cells_per_t[axis] > 0 ? 1 : 0;
            const T border = T(((cell[axis] >> shift) + ahead) * (1 << shift));
            leap = smaller(leap, (border - at[axis]) * t_per_cell[axis]);
        }
        // half a hundredth of a step early: rounding must not take a step just behind the border for one before it
        const T steps = leap * steps_per_unit - T(0.005);
        return k + (steps > T(1) ? int64_t(ceil(steps)) : 1);
    }
};

// The cell that a step is in.
template <class T>
struct StepCell {
    T at[3];
    int cell[3];

    TG_INLINE StepCell(const Steps<T>& steps, T t, int resolution) {
        for (int axis = 0; axis < 3; ++axis) {
            at[axis] = steps.along(axis, t);
            const int c = int(at[axis]);
            cell[axis] = c < 0 ? 0 : c >= resolution ? resolution - 1 : c;
        }
    }
};

// Calls `visit(first, end)` for runs of steps first, ..., end - 1, in order: of the steps of a ray those whose points lie in
// an occupied cell. A ray goes on from border to border, of cells or of empty blocks: its first step behind one is tested
// at its own point, and those before the next border share the answer. So lanes of a GPU do the same work whether their
// cells are occupied or not.
template <class T, class Visit>
TG_INLINE void march(const Steps<T>& steps, const Occupancy& grid, Visit&& visit) {
    if (steps.misses()) return;
    for (int64_t k = 0;;) {
        const T t = steps.t(T(k));
        if (!(t < steps.t_far)) return;
        const StepCell<T> in(steps, t, grid.resolution);
        const int shift = grid.block_is_empty(in.cell) ? 3 : 0;  // past the block, or past the cell
        const int64_t next = steps.behind(k, in.at, in.cell, shift);
        if (shift == 0 && grid.is_occupied(in.cell)) {
            int64_t end = next;
            while (end > k + 1 && !(steps.t(T(end - 1)) < steps.t_far)) --end;
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
