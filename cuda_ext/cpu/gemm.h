// Products of small matrices over the samples of a tile: a row is a sample, a vector holds neighbouring columns.
// Columns come in multiples of 8 and rows in multiples of 12; what pads them is zero. Each number is summed up in the
// same order whatever the width of the vectors.
#pragma once

#include <type_traits>

#include "threedgen/lane.h"

#include "vectors.h"

namespace threedgen {

// Rows of a block of two vectors each: with 32 registers the eight divide every width.
constexpr int kBlockRows = kWide > 8 ? 8 : 6;

// Columns that are computed together where so many are left: two vectors, then one, then eight columns.
constexpr int64_t panel_width(int64_t columns) {
    return columns >= 2 * kWide ? 2 * kWide : columns >= kWide ? kWide : 8;
}

// The right side of a product, [depth, columns], panel after panel. Writes depth * columns numbers: at(k, column).
template <class At>
void pack_panels(int64_t depth, int64_t columns, float* packed, At at) {
    for (int64_t first = 0; first < columns; first += panel_width(columns - first))
        for (int64_t k = 0; k < depth; ++k)
            for (int64_t n = first; n < first + panel_width(columns - first); ++n) *packed++ = at(k, n);
}

// Calls work(vectors, V(), first column) for the panels of so many columns; `vectors` is known to the compiler.
template <class Work>
TG_INLINE void for_panels(int64_t columns, Work work) {
    int64_t n = 0;
    for (; n + 2 * kWide <= columns; n += 2 * kWide) work(std::integral_constant<int, 2>(), Wide(), n);
    if (n + kWide <= columns) work(std::integral_constant<int, 1>(), Wide(), n), n += kWide;
    if (n < columns) work(std::integral_constant<int, 1>(), f32x8(), n);
}

// Calls work(V(), first column) for the vectors of so many columns.
template <class Work>
TG_INLINE void for_vectors(int64_t columns, Work work) {
    int64_t n = 0;
    for (; n + kWide <= columns; n += kWide) work(Wide(), n);
    if (n < columns) work(f32x8(), n);
}

// ROWS x (VECTORS of V) numbers of c = finish(a b, row, column), both counted inside the block.
template <int ROWS, int VECTORS, class V, class Finish>
TG_INLINE void product_block(const float* a, int64_t stride_a, const float* panel, int64_t depth, float* c,
                             int64_t stride_c, Finish finish) {
    constexpr int kLanes = Lane<V>::width;
    V sum[ROWS][VECTORS];
    for (int i = 0; i < ROWS; ++i)
        for (int j = 0; j < VECTORS; ++j) sum[i][j] = broadcast<V>(0.0f);
    for (int64_t k = 0; k < depth; ++k, ++a, panel += kLanes * VECTORS) {
        V b[VECTORS];
        for (int j = 0; j < VECTORS; ++j) b[j] = load_as<V>(panel + kLanes * j);
        for (int i = 0; i < ROWS; ++i) {
            const V x = broadcast<V>(a[i * stride_a]);
            for (int j = 0; j < VECTORS; ++j) sum[i][j] += x * b[j];
        }
    }
    for (int i = 0; i < ROWS; ++i)
        for (int j = 0; j < VECTORS; ++j)
            store_as(c + i * stride_c + kLanes * j, finish(sum[i][j], i, kLanes * j));
}

// c [rows, columns] = finish(a [rows, depth] b, row, column); b is packed, rows of a and c follow each other.
template <class Finish>  // inlined it needs more registers than there are
__attribute__((noinline)) void product(int64_t rows, int64_t columns, int64_t depth, const float* a,
                                       const float* packed, float* c, Finish finish) {
    for_panels(columns, [&](auto vectors, auto zero, int64_t n) {
        using V = decltype(zero);
        constexpr int kVectors = decltype(vectors)::value, kRows = kWide > 8 ? kBlockRows : 12 / kVectors;
        for (int64_t m = 0; m < rows; m += kRows)
            product_block<kRows, kVectors, V>(a + m * depth, depth, packed + n * depth, depth, c + m * columns + n,
                                              columns, [&](V sum, int i, int j) { return finish(sum, m + i, n + j); });
    });
}

template <int ROWS, int VECTORS, class V>
TG_INLINE void outer_block(int64_t num_samples, const float* d, int64_t stride_d, const float* x, int64_t stride_x,
                           float* w, int64_t stride_w) {
    constexpr int kLanes = Lane<V>::width;
    V sum[ROWS][VECTORS];
    for (int i = 0; i < ROWS; ++i)
        for (int j = 0; j < VECTORS; ++j) sum[i][j] = load_as<V>(w + i * stride_w + kLanes * j);
    for (int64_t m = 0; m < num_samples; ++m, d += stride_d, x += stride_x) {
        V b[VECTORS];
        for (int j = 0; j < VECTORS; ++j) b[j] = load_as<V>(x + kLanes * j);
        for (int i = 0; i < ROWS; ++i) {
            const V a = broadcast<V>(d[i]);
            for (int j = 0; j < VECTORS; ++j) sum[i][j] += a * b[j];
        }
    }
    for (int i = 0; i < ROWS; ++i)
        for (int j = 0; j < VECTORS; ++j) store_as(w + i * stride_w + kLanes * j, sum[i][j]);
}

// w [rows, columns] += d^T x for d [num_samples, rows], x [num_samples, columns].
inline void add_outer(int64_t num_samples, int64_t rows, int64_t columns, const float* d, const float* x, float* w) {
    for_panels(columns, [&](auto vectors, auto zero, int64_t n) {
        using V = decltype(zero);
        constexpr int kVectors = decltype(vectors)::value;
        int64_t i = 0;
        for (; i + kBlockRows <= rows; i += kBlockRows)
            outer_block<kBlockRows, kVectors, V>(num_samples, d + i, rows, x + n, columns, w + i * columns + n, columns);
        for (; i < rows; i += 2)
            outer_block<2, kVectors, V>(num_samples, d + i, rows, x + n, columns, w + i * columns + n, columns);
    });
}

}  // namespace threedgen
