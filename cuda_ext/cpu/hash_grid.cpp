// The hash grid's features by themselves; the radiance field has them inside its own kernels.
#include "api.h"
#include "hash_grid_tile.h"
#include "parallel.h"
#include "scratch.h"

using namespace threedgen;

namespace {

constexpr int64_t kTilesPerPiece = 16;

// Positions [N, 3] of a tile, axis after axis; the tile's tail repeats the last one.
template <class T>
struct TilePositions {
    T at[3][kTile];

    TilePositions(const T* positions, int64_t count) {
        for (int axis = 0; axis < 3; ++axis)
            for (int64_t s = 0; s < kTile; ++s) at[axis][s] = positions[3 * (s < count ? s : count - 1) + axis];
    }
    Points<T> points() const { return {at[0], at[1], at[2]}; }
};

// Calls work(first sample, samples) for the tiles of num_samples in order.
template <class Work>
void for_tiles(int64_t begin, int64_t end, Work&& work) {
    for (int64_t first = begin; first < end; first += kTile) work(first, first + kTile < end ? kTile : end - first);
}

template <class T>
void forward(int64_t n, const T* positions, const GridLayout& layout, const T* table, T* features, int num_threads) {
    const int64_t stride = int64_t(layout.num_levels) * layout.num_features;
    with_grid_tile(layout, T(), [&](const auto& grid) {
        parallel_ranges(n, kTilesPerPiece * kTile, num_threads, [&](int64_t begin, int64_t end) {
            const Scratch<T> tail = scratch<T>(kTile * stride);
            for_tiles(begin, end, [&](int64_t first, int64_t count) {
                const TilePositions<T> tile(positions + 3 * first, count);
                T* out = features + first * stride;
                grid.encode(table, tile.points(), kTile, count == kTile ? out : tail.get(), stride);
                if (count < kTile) memcpy(out, tail.get(), sizeof(T) * size_t(count * stride));
            });
        });
    });
}

template <class T>
void backward_to_table(int64_t n, const T* positions, const GridLayout& layout, const T* grad, T* grad_table,
                       int num_threads) {
    const int64_t stride = int64_t(layout.num_levels) * layout.num_features;
    with_grid_tile(layout, T(), [&](const auto& grid) {
        // a level's rows belong to it alone, and one thread goes through its samples in order
        parallel_for(layout.num_levels, num_threads, [&](int64_t level) {
            const Scratch<T> tail = scratch<T>(kTile * stride);
            for_tiles(0, n, [&](int64_t first, int64_t count) {
                const TilePositions<T> tile(positions + 3 * first, count);
                const T* in = grad + first * stride;
                if (count < kTile) {
                    memset(tail.get(), 0, sizeof(T) * size_t(kTile * stride));
                    memcpy(tail.get(), in, sizeof(T) * size_t(count * stride));
                    in = tail.get();
                }
                grid.scatter(int(level), tile.points(), kTile, in, stride, grad_table);
            });
        });
    });
}

template <class T>
void backward_to_positions(int64_t n, const T* positions, const GridLayout& layout, const T* table, const T* grad,
                           T* grad_positions, int num_threads) {
    const int64_t stride = int64_t(layout.num_levels) * layout.num_features;
    with_grid_tile(layout, T(), [&](const auto& grid) {
        parallel_ranges(n, kTilesPerPiece * kTile, num_threads, [&](int64_t begin, int64_t end) {
            const Scratch<T> tail = scratch<T>(kTile * stride);
            for_tiles(begin, end, [&](int64_t first, int64_t count) {
                const TilePositions<T> tile(positions + 3 * first, count);
                const T* in = grad + first * stride;
                if (count < kTile) {
                    memset(tail.get(), 0, sizeof(T) * size_t(kTile * stride));
                    memcpy(tail.get(), in, sizeof(T) * size_t(count * stride));
                    in = tail.get();
                }
                T sum[3][kTile] = {};
                T* const along[3] = {sum[0], sum[1], sum[2]};
                grid.gradient_of_points(table, tile.points(), kTile, in, stride, along);
                for (int64_t s = 0; s < count; ++s)
                    for (int axis = 0; axis < 3; ++axis) {
                        const T p = positions[3 * (first + s) + axis];
                        // positions outside of the unit cube are clamped
                        grad_positions[3 * (first + s) + axis] = p < 0 || p > 1 ? T(0) : sum[axis][s];
                    }
            });
        });
    });
}

}  // namespace

#define TG_HASH_GRID(suffix, T)                                                                                       \
    TG_API void tg_hash_grid_encode_##suffix(int64_t n, const T* positions, int64_t num_levels, int64_t num_features, \
                                             const int64_t* levels, const T* table, T* features,                      \
                                             int64_t num_threads) {                                                   \
        forward<T>(n, positions, grid_layout(num_levels, num_features, levels), table, features, int(num_threads));   \
    }                                                                                                                 \
    /* adds to grad_table */                                                                                          \
    TG_API void tg_hash_grid_encode_to_table_##suffix(int64_t n, const T* positions, int64_t num_levels,              \
                                                      int64_t num_features, const int64_t* levels, const T* grad,     \
                                                      T* grad_table, int64_t num_threads) {                           \
        backward_to_table<T>(n, positions, grid_layout(num_levels, num_features, levels), grad, grad_table,           \
                             int(num_threads));                                                                       \
    }                                                                                                                 \
    TG_API void tg_hash_grid_encode_to_positions_##suffix(                                                            \
        int64_t n, const T* positions, int64_t num_levels, int64_t num_features, const int64_t* levels,               \
        const T* table, const T* grad, T* grad_positions, int64_t num_threads) {                                      \
        backward_to_positions<T>(n, positions, grid_layout(num_levels, num_features, levels), table, grad,            \
                                 grad_positions, int(num_threads));                                                   \
    }
TG_HASH_GRID(f32, float)
TG_HASH_GRID(f64, double)
