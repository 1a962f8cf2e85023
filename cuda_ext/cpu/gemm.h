// Products of small matrices over the samples of a tile: a row is a sample, a vector holds neighbouring columns.
// Columns come in multiples of 8 and rows in multiples of 12; what pads them is zero.
#pragma once

#include <type_traits>

#include "threedgen/lane.h"

namespace threedgen {

constexpr int64_t kPanel = 16;  // columns that are computed together

// The right side of a product, [depth, columns], panel after panel. Writes depth * columns numbers: at(k, column).
template <class At>
void pack_panels(int64_t depth, int64_t columns, float* packed, At at) {
    for (int64_t first = 0; first < columns; first += kPanel)
        for (int64_t k = 0; k < depth; ++k)
            for (int64_t n = first; n < columns && n < first + kPanel; ++n) *packed++ = at(k, n);
}

// ROWS x (8 VECTORS) numbers of c = finish(a b, row, column), both counted inside the block.
template <int ROWS, int VECTORS, class Finish>
TG_INLINE void product_block(const float* a, int64_t stride_a, const float* panel, int64_t depth, float* c,
                             int64_t stride_c, Finish finish) {
    f32x8 sum[ROWS][VECTORS];
    for (int i = 0; i < ROWS; ++i)
        for (int j = 0; j < VECTORS; ++j) sum[i][j] = broadcast<f32x8>(0.0f);
    for (int64_t k = 0; k < depth; ++k, ++a, panel += 8 * VECTORS) {
        f32x8 b[VECTORS];
        for (int j = 0; j < VECTORS; ++j) b[j] = load8(panel + 8 * j);
        for (int i = 0; i < ROWS; ++i) {
            const f32x8 x = broadcast<f32x8>(a[i * stride_a]);
            for (int j = 0; j < VECTORS; ++j) sum[i][j] += x * b[j];
        }
    }
    for (int i = 0; i < ROWS; ++i)
        for (int j = 0; j < VECTORS; ++j) store8(c + i * stride_c + 8 * j, finish(sum[i][j], i, 8 * j));
}

// c [rows, columns] = finish(a [rows, depth] b, row, column); b is packed, rows of a and c follow each other.
template <class Finish>
void product(int64_t rows, int64_t columns, int64_t depth, const float* a, const float* packed, float* c,
             Finish finish) {
    int64_t n = 0;
    for (; n + kPanel <= columns; n += kPanel, packed += kPanel * depth)
        for (int64_t m = 0; m < rows; m += 6)
            product_block<6, 2>(a + m * depth, depth, packed, depth, c + m * columns + n, columns,
                                [&](f32x8 sum, int i, int j) { return finish(sum, m + i, n + j); });
    if (n < columns)
        for (int64_t m = 0; m < rows; m += 12)
            product_block<12, 1>(a + m * depth, depth, packed, depth, c + m * columns + n, columns,
                                 [&](f32x8 sum, int i, int j) { return finish(sum, m + i, n + j); });
}

template <int ROWS, int VECTORS>
TG_INLINE void outer_block(int64_t num_samples, const float* d, int64_t stride_d, const float* x, int64_t stride_x,
                           float* w, int64_t stride_w) {
    f32x8 sum[ROWS][VECTORS];
    for (int i = 0; i < ROWS; ++i)
        for (int j = 0; j < VECTORS; ++j) sum[i][j] = load8(w + i * stride_w + 8 * j);
    for (int64_t m = 0; m < num_samples; ++m, d += stride_d, x += stride_x) {
        f32x8 b[VECTORS];
        for (int j = 0; j < VECTORS; ++j) b[j] = load8(x + 8 * j);
        for (int i = 0; i < ROWS; ++i) {
            const f32x8 a = broadcast<f32x8>(d[i]);
            for (int j = 0; j < VECTORS; ++j) sum[i][j] += a * b[j];
        }
    }
    for (int i = 0; i < ROWS; ++i)
        for (int j = 0; j < VECTORS; ++j) store8(w + i * stride_w + 8 * j, sum[i][j]);
}

// w [rows, columns] += d^T x for d [num_samples, rows], x [num_samples, columns].
inline void add_outer(int64_t num_samples, int64_t rows, int64_t columns, const float* d, const float* x, float* w) {
    const auto panel = [&](auto vectors, int64_t n) {
        constexpr int kVectors = decltype(vectors)::value;
        int64_t i = 0;
        for (; i + 6 <= rows; i += 6)
            outer_block<6, kVectors>(num_samples, d + i, rows, x + n, columns, w + i * columns + n, columns);
        for (; i < rows; i += 2)
            outer_block<2, kVectors>(num_samples, d + i, rows, x + n, columns, w + i * columns + n, columns);
    };
    int64_t n = 0;
    for (; n + 16 <= columns; n += 16) panel(std::integral_constant<int, 2>(), n);
    if (n < columns) panel(std::integral_constant<int, 1>(), n);
}

}  // namespace threedgen
